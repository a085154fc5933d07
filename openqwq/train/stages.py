"""A run: its stages in order, each skipped where its result is on disk already."""

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from openqwq.config import (
    DistillStage,
    RewardModelStage,
    RlStage,
    SftStage,
    Stage,
)
from openqwq.evaluation.progress import Display, Progress
from openqwq.model.device import chosen_device
from openqwq.text.tokenizer import Tokenizer
from openqwq.train import held_out
from openqwq.train.curriculum import Curriculum
from openqwq.train.distil import Distiller
from openqwq.train.frozen import loaded_bytes
from openqwq.train.judges import Bench, environment_options, open_bench
from openqwq.train.learner import Learner, PolicyLearner
from openqwq.train.lengths import longest_example
from openqwq.train.micro_batches import Trained, sized
from openqwq.train.over_sampling import OverSamplingTrainer
from openqwq.train.placement import LocalPlacement, Placement
from openqwq.train.policies import (
    LoadedPolicy,
    best_of,
    open_tokenizer,
    require_one_vocabulary,
)
from openqwq.train.preference_stage import fit_reward_model, row_pairs, sampled_pairs
from openqwq.train.prepare import (
    LANGUAGE_MODEL,
    PREVIOUS,
    REWARD_MODEL,
    START,
    Prepared,
)
from openqwq.train.reward_model import RewardModel
from openqwq.train.rewards import (
    ErrorShare,
    Rewards,
    judges_used,
    stage_rewards,
    verdicts_only,
)
from openqwq.train.rollouts import RolloutRunner
from openqwq.train.run import Run
from openqwq.train.run_policies import Policies
from openqwq.train.sft import TaskStream, train_sft
from openqwq.train.teachers import HeldTeacher, Teacher, is_endpoint, open_endpoint
from openqwq.types import Environment, Generate, Verifier
from openqwq.verify.judge import RewardModelJudge


async def run_stages(
    run: Run, prepared: Prepared, display: Display, placement: Placement | None = None
) -> None:
    """Every stage that the run has not finished yet, in order; RL happens where `placement` is.

    Raises InterruptedRun after the step in which Ctrl-C came.
    """
    config = run.config
    torch.set_num_threads(config.threads or torch.get_num_threads())
    tokenizer = open_tokenizer(run, prepared)
    async with AsyncExitStack() as stack:
        bench = open_bench(config, stack)
        runner = Stages(
            run, prepared, display, tokenizer, placement or LocalPlacement(), bench
        )
        await runner.open()
        for stage in config.stages:
            await runner.run_stage(stage)


@dataclass
class Stages:
    """The parts that all stages share, and the name of the policy that the last one left."""

    run: Run
    prepared: Prepared
    display: Display
    tokenizer: Tokenizer
    placement: Placement
    bench: Bench
    verifiers: dict[str, Verifier] = field(default_factory=dict)
    environments: dict[str, Environment] = field(default_factory=dict)  # by table
    previous: str = START  # the name of the newest policy
    policies: Policies = field(init=False)

    def __post_init__(self) -> None:
        self.policies = Policies(self.run, self.prepared, self.tokenizer)

    async def open(self) -> None:
        """Open every judge and environment that the tables name."""
        judges: dict[str, None] = {}
        for name in self.prepared.tables:
            for task in self.prepared.tasks_to_judge(name):
                judges[task.verifier] = None
                if task.environment and name not in self.environments:
                    options = environment_options(self.run.config.data[name])
                    environment = await self.bench.environment(task.environment, options)
                    self.environments[name] = environment
        judges.pop("", None)
        self.verifiers |= await self.placement.verifiers(judges, self.bench)

    async def run_stage(self, stage: Stage) -> None:
        """One stage, its result saved, then its evaluation."""
        if self.previous == START and self.run.config.model:
            await self.evaluate_once(START, 0, stage)
        run_kind: dict[type, Callable[[Any], Awaitable[None]]] = {
            SftStage: self.fine_tune,
            RewardModelStage: self.model_rewards,
            RlStage: self.reinforce,
            DistillStage: self.distil,
        }
        await run_kind[type(stage)](stage)
        if isinstance(stage, RewardModelStage):
            return
        self.previous = stage.name
        done = self.run.finished(stage.name) or 0
        await self.evaluate_once(stage.name, done, stage)

    async def fine_tune(self, stage: SftStage) -> None:
        """Supervised fine-tuning."""
        stream = TaskStream(self.prepared.of(stage), stage, self._seed(stage))
        if self.run.finished(stage.name) == stream.steps:
            return
        origin = self._origin_of(stage)
        stage = self.sized(stage, origin)
        policy = self.policies.trained(stage, origin)
        learner = Learner(policy.model, stage.optimiser, stream.steps, policy.adapter)
        evaluate = self.evaluator(stage, learner, policy)
        with self._shown(stage.name, stream.steps) as report:
            await train_sft(
                self.run, stage, learner, self.tokenizer, stream, report, evaluate
            )
        self.keep(stage, learner, stream.steps)

    async def reinforce(self, stage: RlStage) -> None:
        """RL on the stage's tables, by its rewards."""
        if self.run.finished(stage.name) == stage.steps:
            return
        origin = self._origin_of(stage)
        stage = self.sized(stage, origin)
        rewards = await self.rewards(stage)
        curriculum = Curriculum(self.prepared.of(stage), stage.data, self._seed(stage))
        place = self.placement
        roles = place.policy(self.policies, stage, origin)
        with roles as (learner, generate, link, frozen):
            kind = OverSamplingTrainer if stage.over_sampling else place.trainer
            trainer = kind(
                self.run,
                stage,
                learner,
                self.runner(generate, rewards, stage.max_turns),
                link,
                curriculum,
                frozen,
                self.evaluator(stage, learner, generate),
                ErrorShare(stage.max_error_share, stage.name),
            )
            with self._shown(stage.name, stage.steps) as report:
                await trainer.train(report)
            self.keep(stage, learner, stage.steps)

    async def model_rewards(self, stage: RewardModelStage) -> None:
        """A reward model; the policy stays what it was."""
        epochs = math.ceil(stage.epochs)
        if self.run.finished(stage.name) == epochs:
            return
        origin = self._origin_of(stage)
        tables = self.prepared.of(stage)
        with self.placement.generator(self.policies, stage.name, origin) as generate:
            runner = self.runner(generate, verdicts_only(self.verifiers), max_turns=1)
            seed = self.run.config.seed
            if stage.pairs is None:
                pairs = row_pairs(tables, stage.data, seed)
            else:
                pairs = await sampled_pairs(tables, stage, stage.pairs, runner, seed)
        policy = self.policies.loaded(origin).model
        with self._shown(stage.name, epochs) as report:
            fit_reward_model(self.run, stage, policy, runner, pairs, report)
        self.run.finish(stage.name, epochs)

    async def distil(self, stage: DistillStage) -> None:
        """On-policy distillation from a teacher."""
        if self.run.finished(stage.name) == stage.steps:
            return
        origin = self._origin_of(stage)
        stage = self.sized(stage, origin)
        endpoint = await self._endpoint(stage)
        curriculum = Curriculum(self.prepared.of(stage), stage.data, self._seed(stage))
        roles = self.placement.policy(self.policies, stage, origin)
        with roles as (learner, generate, link, frozen):
            teacher = endpoint if frozen is None else HeldTeacher(frozen)
            assert teacher is not None
            distiller = Distiller(
                self.run,
                stage,
                learner,
                self.runner(generate, verdicts_only(self.verifiers), stage.max_turns),
                link,
                curriculum,
                teacher,
                self.evaluator(stage, learner, generate),
            )
            with self._shown(stage.name, stage.steps) as report:
                await distiller.train(report)
            self.keep(stage, learner, stage.steps)

    async def _endpoint(self, stage: DistillStage) -> Teacher | None:
        """The server that is a stage's teacher, if one is; either teacher knows the vocabulary."""
        if not is_endpoint(stage.teacher):
            require_one_vocabulary(self.run, stage.teacher, self.tokenizer)
            return None
        endpoint = open_endpoint(stage)
        length = self.run.config.engine.max_length
        await endpoint.require_fit(stage.teacher, self.tokenizer, length)
        return endpoint

    def sized(self, stage: Trained, origin: str) -> Trained:
        """The stage with its micro-batches in tokens."""
        shape = self.policies.shape(origin)
        products = self.policies.products(origin)
        teacher = loaded_bytes(stage, self.policies.shape)
        longest = partial(longest_example, self.prepared, stage, self.tokenizer)
        return sized(stage, self.run, shape, products, teacher, longest)

    def _origin_of(self, stage: Stage) -> str:
        return self.previous if stage.from_ == PREVIOUS else stage.from_

    async def rewards(self, stage: RlStage) -> Rewards:
        """The stage's rewards, with reward models of earlier stages and your own functions."""
        judges: dict[str, Verifier] = {}
        remote: list[str] = []
        for use in judges_used(stage):
            if use.startswith(REWARD_MODEL):
                directory = self.run.directory / use.removeprefix(REWARD_MODEL)
                model = RewardModel.load(directory).to(
                    chosen_device(self.run.config.device)
                )
                judges[use] = RewardModelJudge(model.rate)
            elif use.startswith(LANGUAGE_MODEL):
                judges[use] = await self.bench.language_model(
                    use.removeprefix(LANGUAGE_MODEL)
                )
            else:
                remote.append(use)
        seconds = stage.reward_seconds
        judges |= await self.placement.verifiers(remote, self.bench, seconds)
        verifiers = await self.placement.verifiers(self.verifiers, self.bench, seconds)
        return stage_rewards(stage, verifiers, judges)

    def runner(self, generate: Generate, rewards: Rewards, max_turns: int) -> RolloutRunner:
        """What turns tasks into judged attempts by `generate`."""
        tables = self.run.config.data
        turns = {name: t.max_turns for name, t in tables.items() if t.max_turns is not None}
        return RolloutRunner(
            generate,
            self.tokenizer,
            rewards,
            self.environments,
            max_turns,
            turns,
            self.run.config.engine.max_length,
        )

    def keep(self, stage: Stage, learner: PolicyLearner, steps: int) -> None:
        """Save a stage's policy and note that it is finished."""
        self._save(stage.name, learner)
        self.run.finish(stage.name, steps)

    def _save(self, name: str, learner: PolicyLearner) -> None:
        with self.run.replacing(name) as directory:
            learner.write(directory, self.tokenizer)

    async def evaluate_once(self, name: str, done: int, stage: Stage) -> None:
        """Evaluate the newest policy as `stage` says, unless it was after this many steps."""
        if held_out.saved_steps(self.run, name) == done:
            return
        settings = held_out.settings_of(self.run.config, self.prepared.tables, stage)
        if not settings.tables:
            return
        sampler = self.placement.generator(self.policies, name, self.previous)
        with sampler as generate:
            await self._evaluate(name, done, settings, generate)

    async def _evaluate(
        self, name: str, done: int, settings: held_out.Settings, generate: Generate
    ) -> dict[str, float]:
        turns = [s.max_turns for s in self.run.config.stages if isinstance(s, RlStage)]
        runner = self.runner(generate, verdicts_only(self.verifiers), max(turns, default=8))
        asked = held_out.tasks_asked(settings, self.prepared.tables)
        problems = sum(len(tasks) for tasks in asked)
        with self._shown(f"evaluate {name}", problems, "problem") as report:
            return await held_out.evaluate(
                self.run, name, done, settings, asked, runner, report
            )

    def evaluator(
        self,
        stage: Stage,
        learner: PolicyLearner,
        policy: Generate | LoadedPolicy,
    ) -> Callable[[int], Awaitable[dict[str, Any]]]:
        """What a stage calls while it runs; keeps the best policy as `STAGE.best`.

        `policy` samples what is trained, or is what is trained, in this process.
        """
        settings = held_out.settings_of(self.run.config, self.prepared.tables, stage)

        async def evaluate(done: int) -> dict[str, Any]:
            name = f"{stage.name}@{done}"
            if isinstance(policy, LoadedPolicy):
                sampler = self.placement.generator(self.policies, name, policy)
                with sampler as generate:
                    found = await self._evaluate(name, done, settings, generate)
            else:
                found = await self._evaluate(name, done, settings, policy)
            if held_out.is_best(self.run, stage, done, found):
                self._save(best_of(stage.name), learner)
            return found

        return evaluate

    def _seed(self, stage: Stage) -> str:
        return f"{self.run.config.seed}/{stage.name}"

    @contextmanager
    def _shown(self, title: str, total: int, unit: str = "step") -> Iterator[Progress]:
        """Time a part of the run and show its progress."""
        with self.run.timed(title), self.display.stage(title, total, unit) as report:
            yield report

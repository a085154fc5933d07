"""A run: its stages in order, each skipped where its result is on disk already."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch

from openqwq.config import (
    DistillStage,
    RewardModelStage,
    RlStage,
    SftStage,
    Stage,
)
from openqwq.model import precision
from openqwq.model.device import chosen_device
from openqwq.model.qwen2 import Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train import held_out
from openqwq.train.curriculum import Curriculum
from openqwq.train.distil import Distiller
from openqwq.train.judges import Bench, open_bench
from openqwq.train.learner import Learner, PolicyLearner
from openqwq.train.lengths import needed_length
from openqwq.train.micro_batches import sized
from openqwq.train.objective import KlReference
from openqwq.train.over_sampling import OverSamplingTrainer
from openqwq.train.placement import LocalPlacement, Placement, with_max_length
from openqwq.train.policies import (
    AdapterAsItWas,
    LoadedPolicy,
    best_of,
    for_stage,
    load_policy,
    open_tokenizer,
    require_one_vocabulary,
    save_policy,
    take_weights,
)
from openqwq.train.preference_stage import fit_reward_model, row_pairs, sampled_pairs
from openqwq.train.prepare import (
    LANGUAGE_MODEL,
    PREVIOUS,
    REWARD_MODEL,
    START,
    Prepared,
)
from openqwq.train.progress import Display
from openqwq.train.reward_model import RewardModel
from openqwq.train.rewards import (
    ErrorShare,
    Rewards,
    judges_used,
    stage_rewards,
    verdicts_only,
)
from openqwq.train.rollouts import RolloutRunner
from openqwq.train.run import Progress, Run
from openqwq.train.sft import TaskStream, train_sft
from openqwq.train.slots import with_slots
from openqwq.types import Environment, Generate, Products, Verifier
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
    """The parts that all stages share, and the policy that the last one left."""

    run: Run
    prepared: Prepared
    display: Display
    tokenizer: Tokenizer
    placement: Placement
    bench: Bench
    verifiers: dict[str, Verifier] = field(default_factory=dict)
    environments: dict[str, Environment] = field(default_factory=dict)
    previous: str = START  # the name of the newest policy
    _policy: LoadedPolicy | None = None  # its weights, where they are in memory

    async def open(self) -> None:
        """Open every judge and environment that the tables name."""
        judges: dict[str, None] = {}
        environments: dict[str, None] = {}
        for name in self.prepared.tables:
            for task in self.prepared.first_tasks(name):
                judges[task.verifier] = None
                environments[task.environment] = None
        judges.pop("", None)
        environments.pop("", None)
        for name in environments:
            self.environments[name] = await self.bench.environment(name)
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
            self._policy = None
            return
        policy = self.origin(stage)
        stage = sized(stage, self.run, policy.model.config, self.products(policy.model))
        learner = Learner(policy.model, stage.optimiser, stream.steps, policy.adapter)
        evaluate = self.evaluator(stage, learner, policy)
        with self._shown(stage.name, stream.steps) as report:
            await train_sft(
                self.run, stage, learner, self.tokenizer, stream, report, evaluate
            )
        self.keep(stage, policy, stream.steps)

    async def reinforce(self, stage: RlStage) -> None:
        """RL on the stage's tables, by its rewards."""
        if self.run.finished(stage.name) == stage.steps:
            self._policy = None
            return
        policy = self.origin(stage)
        stage = sized(stage, self.run, policy.model.config, self.products(policy.model))
        rewards = await self.rewards(stage)
        curriculum = Curriculum(self.prepared.of(stage), stage.data, self._seed(stage))
        place = self.placement
        roles = place.policy(self.run, stage, policy, self.tokenizer)
        with roles as (learner, generate, link):
            kind = OverSamplingTrainer if stage.over_sampling else place.trainer
            trainer = kind(
                self.run,
                stage,
                learner,
                self.runner(generate, rewards, stage.max_turns),
                link,
                curriculum,
                self.reference(stage, policy, learner),
                self.evaluator(stage, learner, policy, generate),
                ErrorShare(stage.max_error_share, stage.name),
            )
            with self._shown(stage.name, stage.steps) as report:
                await trainer.train(report)
            take_weights(policy, learner)
        self.keep(stage, policy, stage.steps)

    async def model_rewards(self, stage: RewardModelStage) -> None:
        """A reward model; the policy stays what it was."""
        epochs = max(1, round(stage.epochs))
        if self.run.finished(stage.name) == epochs:
            return
        policy = self.loaded(self._origin_of(stage))
        tables = self.prepared.of(stage)
        with self.placement.generator(
            self.run, self.previous, policy, self.tokenizer
        ) as generate:
            runner = self.runner(generate, verdicts_only(self.verifiers), max_turns=1)
            pairs = row_pairs(tables, stage.data)
            if stage.pairs is not None:
                pairs = await sampled_pairs(
                    tables, stage.pairs, runner, self.run.config.seed
                )
        with self._shown(stage.name, epochs) as report:
            fit_reward_model(self.run, stage, policy.model, runner, pairs, report)
        self.run.finish(stage.name, epochs)

    async def distil(self, stage: DistillStage) -> None:
        """On-policy distillation from a teacher."""
        if self.run.finished(stage.name) == stage.steps:
            self._policy = None
            return
        teacher = self.load(stage.teacher)
        require_one_vocabulary(teacher, self.tokenizer, stage.teacher)
        policy = self.origin(stage)
        stage = sized(stage, self.run, policy.model.config, self.products(policy.model))
        curriculum = Curriculum(self.prepared.of(stage), stage.data, self._seed(stage))
        roles = self.placement.policy(self.run, stage, policy, self.tokenizer)
        with roles as (learner, generate, link):
            frozen = Learner(
                teacher.model, stage.optimiser, 0, teacher.adapter, stage.temperature
            )
            distiller = Distiller(
                self.run,
                stage,
                learner,
                self.runner(generate, verdicts_only(self.verifiers), stage.max_turns),
                link,
                curriculum,
                frozen,
                self.evaluator(stage, learner, policy, generate),
            )
            with self._shown(stage.name, stage.steps) as report:
                await distiller.train(report)
            take_weights(policy, learner)
        self.keep(stage, policy, stage.steps)

    def origin(self, stage: Stage) -> LoadedPolicy:
        """The policy that a stage trains, with its adapter, in the run's precision."""
        policy = for_stage(self.run, stage, self.loaded(self._origin_of(stage)))
        products = self.products(policy.model)
        precision.prepare(policy.model, products, trained=policy.adapter is None)
        self._policy = policy
        return policy

    def _origin_of(self, stage: Stage) -> str:
        return self.previous if stage.from_ == PREVIOUS else stage.from_

    def loaded(self, name: str) -> LoadedPolicy:
        """A policy on the run's device, from memory where it is the newest one."""
        if self._policy is None or name != self.previous:
            self._policy = self.load(name)
        return self._policy

    def load(self, origin: str) -> LoadedPolicy:
        """A policy on the run's device; the first one settles the engine's length and slots."""
        policy = load_policy(self.run, origin, self.tokenizer)
        config = self.run.config
        if not config.engine.max_length:
            needed = needed_length(self.prepared, self.tokenizer)
            context = policy.model.config.max_position_embeddings
            self.run.config = with_max_length(config, min(needed, context))
        self.run.config = with_slots(self.run, policy.model.config)
        policy.model.to(chosen_device(config.device))
        policy.model.recompute = config.recompute
        products = self.products(policy.model)
        precision.prepare(policy.model, products, trained=policy.adapter is None)
        return policy

    def products(self, model: Qwen2) -> Products:
        """What the run multiplies in; `auto` is measured once and kept for the run."""
        asked = self.run.config.precision
        recorded = self.run.recorded_precision()
        if asked == "auto" and recorded is not None:
            return recorded
        chosen = precision.chosen_products(asked, model.config, model.device)
        self.run.record_precision(chosen)
        return chosen

    def reference(
        self, stage: RlStage, policy: LoadedPolicy, learner: PolicyLearner
    ) -> KlReference | None:
        """The frozen policy of the KL penalty, where the stage has one."""
        if not stage.kl_coefficient:
            return None
        if stage.reference != START:
            frozen = self.load(stage.reference)
            return Learner(
                frozen.model, stage.optimiser, 0, frozen.adapter, stage.temperature
            )
        if not isinstance(learner, Learner):
            return learner.reference()
        if policy.adapter is None:
            frozen_model = deepcopy(policy.model)
            return Learner(frozen_model, stage.optimiser, 0, temperature=stage.temperature)
        if stage.lora == "continue":
            return AdapterAsItWas(learner, policy.adapter)
        return learner.reference()

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
                judges[use] = RewardModelJudge(model.rate, self._clip(stage, use))
            elif use.startswith(LANGUAGE_MODEL):
                judges[use] = await self.bench.language_model(
                    use.removeprefix(LANGUAGE_MODEL)
                )
            else:
                remote.append(use)
        judges |= await self.placement.verifiers(remote, self.bench)
        return stage_rewards(stage, self.verifiers, judges)

    def _clip(self, stage: RlStage, use: str) -> float:
        for terms in [stage.rewards, *stage.rewards_of.values()]:
            for term in terms:
                if term.use == use:
                    return term.clip
        raise KeyError(use)

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

    def keep(self, stage: Stage, policy: LoadedPolicy, steps: int) -> None:
        """Save a stage's policy and note that it is finished."""
        save_policy(self.run, stage.name, policy, self.tokenizer)
        self.run.finish(stage.name, steps)
        self._policy = policy

    async def evaluate_once(self, name: str, done: int, stage: Stage) -> None:
        """Evaluate the newest policy as `stage` says, unless it was after this many steps."""
        if held_out.saved_steps(self.run, name) == done:
            return
        settings = held_out.settings_of(self.run.config, self.prepared.tables, stage)
        if not settings.tables:
            return
        policy = self.loaded(self.previous)
        with self.placement.generator(self.run, name, policy, self.tokenizer) as generate:
            await self._evaluate(name, done, settings, generate)

    async def _evaluate(
        self, name: str, done: int, settings: held_out.Settings, generate: Generate
    ) -> dict[str, float]:
        turns = [s.max_turns for s in self.run.config.stages if isinstance(s, RlStage)]
        runner = self.runner(generate, verdicts_only(self.verifiers), max(turns, default=8))
        with self._shown(f"evaluate {name}", len(settings.tables)) as report:
            return await held_out.evaluate(
                self.run, name, done, settings, self.prepared.tables, runner, report
            )

    def evaluator(
        self,
        stage: Stage,
        learner: PolicyLearner,
        policy: LoadedPolicy,
        generate: Generate | None = None,
    ) -> Callable[[int], Awaitable[dict[str, Any]]]:
        """What a stage calls while it runs; keeps the best policy as `STAGE.best`."""
        settings = held_out.settings_of(self.run.config, self.prepared.tables, stage)

        async def evaluate(done: int) -> dict[str, Any]:
            name = f"{stage.name}@{done}"
            if generate is not None:
                found = await self._evaluate(name, done, settings, generate)
            else:
                with self.placement.generator(
                    self.run, name, policy, self.tokenizer
                ) as sampler:
                    found = await self._evaluate(name, done, settings, sampler)
            if held_out.is_best(self.run, stage, done, found):
                take_weights(policy, learner)
                save_policy(self.run, best_of(stage.name), policy, self.tokenizer)
            return found

        return evaluate

    def _seed(self, stage: Stage) -> str:
        return f"{self.run.config.seed}/{stage.name}"

    @contextmanager
    def _shown(self, title: str, total: int) -> Iterator[Progress]:
        """Time a part of the run and show its progress."""
        with self.run.timed(title), self.display.stage(title, total) as report:
            yield report

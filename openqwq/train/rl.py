"""RL on verifiable rewards: sample groups, judge, update, push the weights; step after step."""

import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from openqwq.config import RlStage
from openqwq.evaluation.progress import Progress
from openqwq.train.advantages import group_advantages, informative_groups, overlong_penalty
from openqwq.train.checks import check_first_batch, check_log_prob_gap, max_log_prob_gap
from openqwq.train.curriculum import Curriculum
from openqwq.train.describe import describe_batch, rollout_rows
from openqwq.train.episodes import Attempt
from openqwq.train.learner import PolicyLearner
from openqwq.train.objective import Frozen, objective
from openqwq.train.packing import MicroBatch, pack_trajectories
from openqwq.train.rewards import GO_ON, ErrorShare, in_one_line, with_limits_applied
from openqwq.train.rollouts import Prompt, RolloutRunner, trajectories_of
from openqwq.train.run import Evaluate, Parts, Run
from openqwq.types import OpenQwQError, SamplingParams, Task, Trajectory, WeightLink

# whether it is the first since the start -> its metrics
Step = Callable[[bool], Awaitable[dict[str, Any]]]
Groups = Sequence[tuple[str, Sequence[Attempt]]]  # with their keys
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batch:
    """One step's rollouts: every attempt, those that were judged, and what is trained on."""

    attempts: list[Attempt]
    judged: list[Attempt]
    trained: list[Trajectory]
    groups: Groups
    refills: int


async def no_evaluation(done: int) -> dict[str, Any]:
    """For stages that are not evaluated while they run."""
    return {}


@dataclass(frozen=True)
class Trainer:
    """The parts of an RL stage; nothing here knows whether they are local or on a cluster.

    `reference` is the frozen policy of the KL penalty, which a coefficient above 0 needs.
    `evaluate` is called after every `stage.evaluate.every` steps.
    """

    run: Run
    stage: RlStage
    learner: PolicyLearner
    runner: RolloutRunner
    link: WeightLink
    curriculum: Curriculum
    reference: Frozen | None = None
    evaluate: Evaluate = no_evaluation
    errors: ErrorShare = field(default_factory=lambda: ErrorShare(1.0, "rl"))

    async def train(self, progress: Progress) -> None:
        """Run the stage to its end, saving and logging as it goes; resumes where it stopped.

        Raises OpenQwQError where the first batch shows that training is pointless, and
        InterruptedRun after the step in which Ctrl-C came.
        """
        await self.loop(self._step, {}, progress)

    async def loop(self, step: Step, more: Parts, progress: Progress) -> None:
        """`train` by way of `step`; `more` is saved with the learner and the curriculum."""
        stage = self.stage
        learner = self.learner
        parts: Parts = {"learner": learner, "curriculum": self.curriculum, **more}
        self.run.restore(stage.name, parts)
        self.run.forget_after(stage.name, learner.done)
        await self.call(self.link.push, learner.named_params(), learner.done)
        first = learner.done
        progress(first, {})
        with self.run.stoppable() as flag:
            while learner.done < stage.steps:
                metrics = await step(learner.done == first)
                self.run.log(stage.name, learner.done - 1, metrics)
                progress(learner.done, metrics)

                last = learner.done == stage.steps
                every = stage.evaluate.every
                if every and learner.done % every == 0 and not last:
                    await self._evaluate()
                if learner.done % stage.checkpoint_every == 0 or last or flag.is_set:
                    await self.call(self.run.save, stage.name, parts)
                    flag.check()

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call something slow; here nothing is sampled while it runs."""
        return function(*arguments)

    async def _evaluate(self) -> None:
        found = await self.evaluate(self.learner.done)
        if found:
            self.run.log(self.stage.name, self.learner.done - 1, {"held_out": found})

    async def check(self, batch: Batch) -> None:
        """Refuse a run that cannot learn, or whose sampler and learner disagree.

        They are compared on the trajectories that only the newest weights drew.
        """
        config = self.run.config
        max_gap = max_log_prob_gap(config.precision, config.deterministic)
        drawn_now = [each for each in batch.trained if drawn_by(each, self.learner.done)]
        micro_batches = self._packed(drawn_now)
        if self.learner.done == 0:
            await check_first_batch(
                self.runner,
                self.learner,
                batch.attempts,
                micro_batches,
                max_gap,
                self.stage,
            )
        elif "gap" not in self.stage.skip_checks:
            check_log_prob_gap(self.learner, micro_batches, max_gap)

    async def learn(self, batch: Batch, first: bool) -> dict[str, Any]:
        """Update on a step's rollouts and push the weights; returns what to log.

        Raises OpenQwQError where none was judged, or where `check` refuses the `first` of a run.
        """
        stage = self.stage
        step = self.learner.done
        self.run.add_rollouts(stage.name, rollout_rows(step, batch.groups, batch.trained))
        self._count_errors(step, batch)
        if not batch.judged:
            raise OpenQwQError(self._nothing_judged(step, batch))
        micro_batches = self._packed(batch.trained)
        if first:
            await self.check(batch)

        metrics: dict[str, float] = {}
        if micro_batches:
            update = objective(stage, self.reference)
            metrics = await self.call(self.learner.train_step, micro_batches, update)
        else:
            self.learner.done += 1  # a step without a signal still counts in the schedule
        await self.call(self.link.push, self.learner.named_params(), step + 1)

        described = describe_batch(batch.attempts, batch.judged, batch.trained)
        counts = {"groups": len(batch.groups), "refills": batch.refills}
        if self.curriculum.restarts:
            counts["restarts"] = self.curriculum.restarts
        return {**described, **counts, **metrics}

    def _nothing_judged(self, step: int, batch: Batch) -> str:
        for attempt in batch.attempts:
            if attempt.score.status == "error":
                return (
                    f"the judges failed on the whole batch of step {step} "
                    f"({in_one_line(attempt.score)}): repair them, then {GO_ON}"
                )
        path = f"stages.{self.stage.name}"
        return (
            f"every completion of step {step} was cut off, and {path}.truncated is 'drop': raise "
            f"{path}.max_tokens ({self.stage.max_tokens}), or choose 'lowest'"
        )

    def _packed(self, trajectories: Sequence[Trajectory]) -> list[MicroBatch]:
        return pack_trajectories(trajectories, self.stage.optimiser.micro_batch_tokens)

    def _count_errors(self, step: int, batch: Batch) -> None:
        """Log what judges raised; raises OpenQwQError where they fail too often."""
        details: dict[str, None] = {}
        for attempt in batch.attempts:
            if attempt.score.status == "error":
                details[f"{attempt.task.id}: {attempt.score.detail}"] = None
        self.run.add_errors(self.stage.name, step, details)
        self.errors.count([attempt.score for attempt in batch.attempts])

    def batch(self, groups: Groups, refills: int) -> Batch:
        """A step's rollouts, from its groups with their keys."""
        judged: list[tuple[str, Attempt]] = []
        rewards: list[float] = []
        for key, group in groups:
            kept = [attempt for attempt in group if self._counts(attempt)]
            judged += [(key, attempt) for attempt in kept]
            rewards += group_rewards(kept, self.stage)
        if self.stage.shuffle_rewards:
            seed = f"shuffle/{self.run.config.seed}/{self.learner.done}"
            random.Random(seed).shuffle(rewards)

        attempts: list[Attempt] = []
        for _, group in groups:
            attempts += group
        trained = self._advantaged(judged, rewards)
        return Batch(attempts, [a for _, a in judged], trained, groups, refills)

    def _counts(self, attempt: Attempt) -> bool:
        """Whether an attempt has a reward at all."""
        if attempt.score.status == "truncated" and self.stage.truncated == "drop":
            return False
        return attempt.score.status != "error"

    def _advantaged(
        self, judged: Sequence[tuple[str, Attempt]], rewards: Sequence[float]
    ) -> list[Trajectory]:
        """The trajectories of groups that have a signal, with their advantages.

        Groups are compared by attempts: one with more trajectories weighs no more in the mean.
        """
        useful = self._informative(judged, rewards)
        keys: list[str] = []
        attempts: list[Attempt] = []
        values: list[float] = []
        for (key, attempt), reward in zip(judged, rewards, strict=True):
            if key in useful:
                keys.append(key)
                attempts.append(attempt)
                values.append(reward)

        advantages = group_advantages(
            values, keys, divide_by_batch_std=self.stage.divide_by_batch_std
        )
        trajectories: list[Trajectory] = []
        for key, attempt, advantage in zip(keys, attempts, advantages, strict=True):
            trajectories += trajectories_of(attempt, key, advantage)
        return trajectories

    def _informative(
        self, judged: Sequence[tuple[str, Attempt]], rewards: Sequence[float]
    ) -> set[str]:
        """Groups whose rewards differ, and whose verdicts do where these decide (`informative`)."""
        keys = [key for key, _ in judged]
        rewards_differ = set(informative_groups(rewards, keys))
        if self.stage.informative == "reward" or self.stage.shuffle_rewards:
            return rewards_differ

        right = [float(attempt.score.status == "correct") for _, attempt in judged]
        verdicts_differ = set(informative_groups(right, keys))
        without_verdicts: set[str] = set()
        for key, attempt in judged:
            verdicts_count = self.runner.rewards.by_status(attempt.task.kind)
            if attempt.score.status == "scored" or not verdicts_count:
                without_verdicts.add(key)
        return rewards_differ & (verdicts_differ | without_verdicts)

    async def _step(self, first: bool) -> dict[str, Any]:
        started = time.perf_counter()
        batch = await self._collect()
        sampled = time.perf_counter()
        metrics = await self.learn(batch, first)
        seconds = {"rollout": sampled - started, "learn": time.perf_counter() - sampled}
        return {**metrics, "seconds": seconds}

    async def _collect(self) -> Batch:
        """One step's rollouts; new prompts replace groups without a signal, `max_refills` times."""
        stage = self.stage
        groups: list[tuple[str, list[Attempt]]] = []
        wanted = stage.prompts_per_step
        refills = 0
        while True:
            groups += await self._groups(wanted)
            batch = self.batch(groups, refills)
            wanted = stage.prompts_per_step - len({t.group_id for t in batch.trained})
            if wanted <= 0 or refills == stage.max_refills:
                return batch
            refills += 1

    async def _groups(self, wanted: int) -> list[tuple[str, list[Attempt]]]:
        """The judged groups of the next `wanted` prompts, with their keys."""
        prefix = f"{self.stage.name}/{self.run.config.seed}/{self.curriculum.drawn}"
        keys = [f"{prefix}/{i}" for i in range(wanted)]
        tasks = self.curriculum.next_tasks(wanted)
        prompts = [self.prompt(task, key) for task, key in zip(tasks, keys, strict=True)]
        drawn = await self.runner.groups(prompts, self.stage.group_size)
        for group in drawn:
            self.retire(group)
        return list(zip(keys, drawn, strict=True))

    def prompt(self, task: Task, key: str) -> Prompt:
        """A task and how it is asked; `key` fixes its draws."""
        stops = self.runner.tokenizer.eos_ids
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7])
        params = stage_params(self.stage, stops, seed)
        return task, params

    def retire(self, group: Sequence[Attempt]) -> None:
        """Stop asking a prompt that the policy has mastered."""
        statuses = [attempt.score.status for attempt in group]
        judged = [status for status in statuses if status not in ("error", "scored")]
        if not judged:
            return
        share = judged.count("correct") / len(judged)
        if share >= self.stage.retire_pass_rate:
            self.curriculum.retired.add(group[0].task.id)


def drawn_by(trajectory: Trajectory, version: int) -> bool:
    """Whether the weights of `version` drew every token that a policy drew."""
    versions = zip(trajectory.weight_version, trajectory.sampled_mask, strict=True)
    return all(found == version for found, sampled in versions if sampled)


def stage_params(stage: RlStage, stops: tuple[int, ...], seed: int) -> SamplingParams:
    """Unfiltered sampling; where the stage has thinking budgets, the seed picks one."""
    budget = None
    if stage.thinking_budgets:
        budget = random.Random(f"budget/{seed}").choice(stage.thinking_budgets)
    return SamplingParams(
        temperature=stage.temperature,
        top_p=1.0,
        top_k=0,
        max_tokens=stage.max_tokens,
        stop_token_ids=stops,
        seed=seed,
        thinking_budget=budget,
    )


def group_rewards(group: Sequence[Attempt], stage: RlStage) -> list[float]:
    """The rewards of one group: verdicts and shaping, the rule for cut-off attempts, and length."""
    rewards = with_limits_applied([attempt.score for attempt in group], stage.truncated)
    if not stage.overlong_buffer:
        return rewards
    values: list[float] = []
    for attempt, reward in zip(group, rewards, strict=True):
        longest = max(len(reply.token_ids) for reply in attempt.completions)
        penalty = overlong_penalty(longest, stage.max_tokens, stage.overlong_buffer)
        values.append(reward + penalty)
    return values

"""RL on verifiable rewards: sample groups, judge, update, push the weights; step after step."""

import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, TypeVar

import torch
from torch import Tensor

from openqwq.config import RlConfig
from openqwq.train.advantages import group_advantages, informative_groups, overlong_penalty
from openqwq.train.checks import (
    MAX_GAP_IN_BF16,
    MAX_LOG_PROB_GAP,
    check_first_batch,
    check_log_prob_gap,
)
from openqwq.train.curriculum import Curriculum
from openqwq.train.episodes import Attempt
from openqwq.train.learner import Learner, PolicyLearner
from openqwq.train.loss import Metrics, policy_loss
from openqwq.train.packing import MicroBatch, pack_trajectories
from openqwq.train.rollout import Request, Sampler, by_kind, trajectories
from openqwq.train.run import Parts, Run
from openqwq.types import OpenQwQError, SamplingParams, Task, Trajectory, WeightLink

Progress = Callable[[int, Mapping[str, Any]], None]
Step = Callable[[bool], Awaitable[dict[str, Any]]]  # is it the first since the start -> its record
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batch:
    """One step's rollouts: every attempt, those that were judged, and what is trained on."""

    attempts: list[Attempt]
    judged: list[Attempt]
    trained: list[Trajectory]
    groups: int
    refills: int


@dataclass(frozen=True)
class Trainer:
    """The parts of an RL stage; nothing here knows whether they are local or on a cluster.

    `stage` names its log lines and its state; `reference` is the frozen policy of the KL penalty,
    which a coefficient above 0 needs.
    """

    run: Run
    config: RlConfig
    learner: PolicyLearner
    sampler: Sampler
    link: WeightLink
    curriculum: Curriculum
    stage: str = "rl"
    reference: Learner | None = None

    async def train(self, progress: Progress) -> None:
        """Run the stage to its end, saving and logging as it goes; resumes where it stopped.

        Raises OpenQwQError where the first batch shows that training would be in vain, and
        InterruptedRun after the step in which Ctrl-C came.
        """
        await self.loop(self._step, {}, progress)

    async def loop(self, step: Step, more: Parts, progress: Progress) -> None:
        """`train` by way of `step`; `more` is saved beside the learner and the curriculum."""
        config, learner, stage = self.config, self.learner, self.stage
        parts: Parts = {"learner": learner, "curriculum": self.curriculum, **more}
        self.run.restore(stage, parts)
        self.run.forget_after(stage, learner.done)
        await self.call(self.link.push, learner.named_params(), learner.done)
        first = learner.done
        with self.run.stoppable() as flag:
            while learner.done < config.steps:
                record = await step(learner.done == first)
                self.run.log(stage, learner.done - 1, record)
                progress(learner.done, record)
                last = learner.done == config.steps
                if learner.done % config.checkpoint_every == 0 or last or flag.is_set:
                    await self.call(self.run.save, stage, parts)
                    flag.check()

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The result of something long; nothing is drawn meanwhile."""
        return function(*arguments)

    async def check(self, attempts: Sequence[Attempt], micro_batches: Sequence[MicroBatch]) -> None:
        """Refuse a run that begins in vain, or goes on with sampler and learner apart."""
        precise = self.run.config.cluster.precision == "float32"
        max_gap = MAX_LOG_PROB_GAP if precise else MAX_GAP_IN_BF16
        max_gap = 0.0 if self.run.config.deterministic else max_gap
        if self.learner.done == 0:
            await check_first_batch(self.sampler, self.learner, attempts, micro_batches, max_gap)
        else:
            check_log_prob_gap(self.learner, micro_batches, max_gap)

    async def learn(self, batch: Batch, first: bool) -> dict[str, Any]:
        """Update on a step's rollouts and push the weights; what to log of both.

        Raises OpenQwQError where none was judged, or where `check` refuses the `first` of a run.
        """
        config, step = self.config, self.learner.done
        if not batch.judged:
            raise OpenQwQError(
                f"the verifiers failed on the whole batch of step {step} "
                f"({batch.attempts[0].score.detail}): mend them, then go on with --resume"
            )
        micro_batches = pack_trajectories(
            batch.trained, config.optimiser.max_tokens_per_micro_batch
        )
        if first:
            await self.check(batch.attempts, micro_batches)
        metrics: dict[str, float] = {}
        if micro_batches:
            update = objective(config, self.reference)
            metrics = await self.call(self.learner.train_step, micro_batches, update)
        else:
            self.learner.done += 1  # nothing to learn from is still a step of the schedule
        await self.call(self.link.push, self.learner.named_params(), step + 1)
        return {**describe(batch), **metrics}

    def batch(self, groups: Sequence[tuple[str, Sequence[Attempt]]], refills: int) -> Batch:
        """A step's rollouts, from its groups with their keys."""
        judged = [(key, a) for key, group in groups for a in group if a.score.status != "error"]
        shuffle_seed = f"{self.run.config.seed}/{self.learner.done}"
        rewards = reward_values([a for _, a in judged], self.config, shuffle_seed)
        return Batch(
            [a for _, group in groups for a in group],
            [a for _, a in judged],
            advantaged(judged, rewards, self.config),
            len(groups),
            refills,
        )

    async def _step(self, first: bool) -> dict[str, Any]:
        started = time.perf_counter()
        batch = await self._collect()
        sampled = time.perf_counter()
        record = await self.learn(batch, first)
        seconds = {"rollout": sampled - started, "learn": time.perf_counter() - sampled}
        return {**record, "seconds": seconds}

    async def _collect(self) -> Batch:
        """One step's rollouts: groups without variance make way for new prompts, up to k times."""
        config, run = self.config, self.run.config
        groups: list[tuple[str, Sequence[Attempt]]] = []
        wanted, refills = config.prompts_per_step, 0
        while True:
            keys = [f"{self.stage}/{run.seed}/{self.curriculum.drawn}/{i}" for i in range(wanted)]
            tasks = self.curriculum.next_tasks(wanted)
            requests = [self.request(*pair) for pair in zip(tasks, keys, strict=True)]
            drawn = await self.sampler.groups(requests, config.group_size)
            for group in drawn:
                self.retire(group)
            groups += zip(keys, drawn, strict=True)
            batch = self.batch(groups, refills)
            wanted = config.prompts_per_step - len({t.group_id for t in batch.trained})
            if wanted <= 0 or refills == config.max_refills:
                return batch
            refills += 1

    def request(self, task: Task, key: str) -> Request:
        """What to ask for a prompt; `key` fixes its draws."""
        config, stops = self.config, self.sampler.tokenizer.eos_ids
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7])
        return task, SamplingParams.for_training(config.max_tokens, stops, seed)

    def retire(self, group: Sequence[Attempt]) -> None:
        """Ask a mastered prompt no more."""
        passed = [attempt.score.value for attempt in group if attempt.score.status != "error"]
        if passed and mean(passed) >= self.config.retire_pass_rate:
            self.curriculum.retired.add(group[0].task.id)


def reward_values(attempts: Sequence[Attempt], config: RlConfig, shuffle_seed: str) -> list[float]:
    """Verdict plus length penalty; shuffled over the whole batch in the control run."""
    rewards = [attempt.score.value for attempt in attempts]
    if config.overlong_buffer:
        limits = config.max_tokens, config.overlong_buffer
        longest = [max(len(reply.token_ids) for reply in a.completions) for a in attempts]
        rewards = [r + overlong_penalty(n, *limits) for r, n in zip(rewards, longest, strict=True)]
    if config.shuffle_rewards:
        random.Random(f"shuffle/{shuffle_seed}").shuffle(rewards)
    return rewards


def advantaged(
    judged: Sequence[tuple[str, Attempt]], rewards: Sequence[float], config: RlConfig
) -> list[Trajectory]:
    """The records of groups whose rewards differ, with their advantages.

    Groups are compared attempt by attempt: one that left more records weighs no more in its mean.
    """
    useful = set(informative_groups(rewards, [key for key, _ in judged]))
    kept = [(*pair, r) for pair, r in zip(judged, rewards, strict=True) if pair[0] in useful]
    values = group_advantages(
        [reward for *_, reward in kept],
        [key for key, *_ in kept],
        divide_by_batch_std=config.divide_by_batch_std,
    )
    return [
        record
        for (key, attempt, _), value in zip(kept, values, strict=True)
        for record in trajectories(attempt, key, value)
    ]


def objective(
    config: RlConfig, reference: Learner | None = None
) -> Callable[[Tensor, MicroBatch, float], tuple[Tensor, Metrics]]:
    """The configured policy objective, for `Learner.train_step`."""

    def loss(log_probs: Tensor, batch: MicroBatch, tokens: float) -> tuple[Tensor, Metrics]:
        reference_log_probs = None
        if reference is not None:
            with torch.no_grad():
                reference_log_probs = reference.log_probs(batch)[0].to(log_probs.device)
        return policy_loss(
            config.objective,
            log_probs,
            batch.sampler_log_probs,
            batch.advantages,
            batch.sequence_index,
            tokens,
            cispo_cap=config.cispo_cap,
            dapo_clip=(config.dapo_clip_low, config.dapo_clip_high),
            gspo_clip=(config.gspo_clip_low, config.gspo_clip_high),
            token_bounds=(0.5, 5.0) if config.token_mask else None,
            sequence_bounds=(0.99, 1.01) if config.sequence_mask else None,
            reference_log_probs=reference_log_probs,
            kl_coefficient=config.kl_coefficient,
        )

    return loss


def describe(batch: Batch) -> dict[str, Any]:
    """What a step's rollouts were like: all that was sampled, not only what was trained on."""
    every, example = batch.judged, batch.attempts[0]
    kinds = by_kind(every)
    statuses = [a.score.status for a in every]
    return {
        "reward": mean(a.score.value for a in every),
        "reward_by_kind": {k: mean(a.score.value for a in group) for k, group in kinds.items()},
        "thinking_tokens": mean(a.reasoning_tokens for a in every),
        "thinking_by_kind": {k: mean(a.reasoning_tokens for a in g) for k, g in kinds.items()},
        "completion_tokens": mean(a.sampled_tokens for a in every),
        "status": {name: statuses.count(name) for name in sorted(set(statuses))},
        "errors": len(batch.attempts) - len(every),
        "groups": batch.groups,
        "groups_trained": len({t.group_id for t in batch.trained}),
        "refills": batch.refills,
        **_beside_gold(every),
        "sample": {
            "task": example.task.id,
            "question": example.task.messages[-1]["content"],
            "completion": example.text,
            "status": example.score.status,
        },
    }


def _beside_gold(attempts: Sequence[Attempt]) -> dict[str, float]:
    """Mean reward of a learned judge and of the gold reward held out beside it, if there is one."""
    pairs = [(a.score.value, a.score.parts["gold"]) for a in attempts if "gold" in a.score.parts]
    if not pairs:
        return {}
    return {"proxy": mean(value for value, _ in pairs), "gold": mean(gold for _, gold in pairs)}

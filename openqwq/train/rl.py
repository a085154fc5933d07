"""RL on verifiable rewards: sample groups, judge, update, push the weights; step after step."""

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from torch import Tensor

from openqwq.config import RlConfig
from openqwq.train.advantages import group_advantages, informative_groups, overlong_penalty
from openqwq.train.checks import check_first_batch
from openqwq.train.curriculum import Curriculum
from openqwq.train.learner import Learner
from openqwq.train.loss import Metrics, policy_loss
from openqwq.train.packing import MicroBatch, pack_trajectories
from openqwq.train.rollout import Attempt, Sampler, by_kind, trajectory
from openqwq.train.run import Parts, Run
from openqwq.types import OpenQwQError, SamplingParams, Task, Trajectory, WeightLink

Progress = Callable[[int, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Batch:
    """One step's rollouts: every trajectory that was judged, and those that are trained on."""

    attempts: list[Attempt]
    sampled: list[Trajectory]
    trained: list[Trajectory]
    errors: int
    groups: int
    refills: int


@dataclass(frozen=True)
class Trainer:
    """The parts of an RL run; nothing here knows whether they are local or on a cluster."""

    run: Run
    learner: Learner
    sampler: Sampler
    link: WeightLink
    curriculum: Curriculum

    async def train(self, progress: Progress) -> None:
        """Run stage 1 to its end, saving and logging as it goes; resumes where it stopped.

        Raises OpenQwQError where the first batch shows that training would be in vain, and
        InterruptedRun after the step in which Ctrl-C came.
        """
        config, learner = self.run.config.rl, self.learner
        parts: Parts = {"learner": learner, "curriculum": self.curriculum}
        self.run.restore("rl", parts)
        self.run.forget_after("rl", learner.done)
        self.link.push(learner.named_params(), learner.done)
        first = learner.done
        with self.run.stoppable() as flag:
            while learner.done < config.steps:
                record = await self._step(check=learner.done == first)
                self.run.log("rl", learner.done - 1, record)
                progress(learner.done, record)
                last = learner.done == config.steps
                if learner.done % config.checkpoint_every == 0 or last or flag.is_set:
                    self.run.save("rl", parts)
                    flag.check()

    async def _step(self, check: bool) -> dict[str, Any]:
        config, step = self.run.config.rl, self.learner.done
        started = time.perf_counter()
        batch = await self._collect()
        sampled = time.perf_counter()
        if not batch.sampled:
            raise OpenQwQError(
                f"the verifiers failed on the whole batch of step {step} "
                f"({batch.attempts[0].score.detail}): mend them, then go on with --resume"
            )
        micro_batches = pack_trajectories(
            batch.trained, config.optimiser.max_tokens_per_micro_batch
        )
        if check:
            await check_first_batch(self.sampler, self.learner, batch.attempts, micro_batches)
        metrics: dict[str, float] = {}
        if micro_batches:
            metrics = self.learner.train_step(micro_batches, objective(config))
        else:
            self.learner.done += 1  # nothing to learn from is still a step of the schedule
        self.link.push(self.learner.named_params(), step + 1)
        seconds = {"rollout": sampled - started, "learn": time.perf_counter() - sampled}
        return {**describe(batch), **metrics, "seconds": seconds}

    async def _collect(self) -> Batch:
        """One step's rollouts: groups without variance make way for new prompts, up to k times."""
        config, run = self.run.config.rl, self.run.config
        attempts: list[Attempt] = []
        sampled: list[Trajectory] = []
        trained: list[Trajectory] = []
        groups = wanted = config.prompts_per_step
        errors = refills = 0
        while True:
            first = self.curriculum.drawn
            tasks = self.curriculum.next_tasks(wanted)
            ids = [f"{run.seed}/{first}/{i}" for i in range(wanted)]
            new = await asyncio.gather(
                *(self._group(task, key) for task, key in zip(tasks, ids, strict=True))
            )
            for key, group in zip(ids, new, strict=True):
                attempts += group
                judged = [a for a in group if a.score.status != "error"]
                errors += len(group) - len(judged)
                self._retire(judged)
                sampled += [trajectory(attempt, key) for attempt in judged]
            rewards = reward_values(sampled, config, f"{run.seed}/{self.learner.done}")
            trained = advantaged(sampled, rewards, config)
            wanted = config.prompts_per_step - len({t.group_id for t in trained})
            if wanted <= 0 or refills == config.max_refills:
                return Batch(attempts, sampled, trained, errors, groups, refills)
            refills += 1
            groups += wanted

    async def _group(self, task: Task, key: str) -> list[Attempt]:
        config = self.run.config.rl
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7])
        stops = self.sampler.tokenizer.eos_ids
        params = SamplingParams(config.temperature, 1.0, 0, 0.0, config.max_tokens, stops, seed)
        return await self.sampler.attempts(task, params, config.group_size)

    def _retire(self, group: Sequence[Attempt]) -> None:
        passed = [attempt.score.value for attempt in group]
        if passed and mean(passed) >= self.run.config.rl.retire_pass_rate:
            self.curriculum.retired.add(group[0].task.id)


def reward_values(
    trajectories: Sequence[Trajectory], config: RlConfig, shuffle_seed: str
) -> list[float]:
    """Verdict plus length penalty; shuffled over the whole batch in the control run."""
    rewards = [t.reward for t in trajectories]
    if config.overlong_buffer:
        lengths = [sum(t.sampled_mask) for t in trajectories]
        limits = config.max_tokens, config.overlong_buffer
        rewards = [r + overlong_penalty(n, *limits) for r, n in zip(rewards, lengths, strict=True)]
    if config.shuffle_rewards:
        random.Random(f"shuffle/{shuffle_seed}").shuffle(rewards)
    return rewards


def advantaged(
    trajectories: Sequence[Trajectory], rewards: Sequence[float], config: RlConfig
) -> list[Trajectory]:
    """The trajectories of groups whose rewards differ, with their advantages set."""
    ids = [t.group_id for t in trajectories]
    useful = set(informative_groups(rewards, ids))
    kept = [(t, r) for t, r in zip(trajectories, rewards, strict=True) if t.group_id in useful]
    values = group_advantages(
        [reward for _, reward in kept],
        [t.group_id for t, _ in kept],
        divide_by_batch_std=config.divide_by_batch_std,
    )
    for (item, _), value in zip(kept, values, strict=True):
        item.advantage = value
    return [item for item, _ in kept]


def objective(config: RlConfig) -> Callable[[Tensor, MicroBatch, float], tuple[Tensor, Metrics]]:
    """The configured policy objective, for `Learner.train_step`."""

    def loss(log_probs: Tensor, batch: MicroBatch, tokens: float) -> tuple[Tensor, Metrics]:
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
        )

    return loss


def describe(batch: Batch) -> dict[str, Any]:
    """What a step's rollouts were like: all that was sampled, not only what was trained on."""
    every = batch.sampled
    kinds: Mapping[str, list[Trajectory]] = by_kind(every)
    example = batch.attempts[0]
    statuses = [t.status for t in every]
    return {
        "reward": mean(t.reward for t in every),
        "reward_by_kind": {k: mean(t.reward for t in ts) for k, ts in kinds.items()},
        "thinking_tokens": mean(t.reasoning_tokens for t in every),
        "thinking_by_kind": {k: mean(t.reasoning_tokens for t in ts) for k, ts in kinds.items()},
        "completion_tokens": mean(sum(t.sampled_mask) for t in every),
        "status": {name: statuses.count(name) for name in sorted(set(statuses))},
        "errors": batch.errors,
        "groups": batch.groups,
        "groups_trained": len({t.group_id for t in batch.trained}),
        "refills": batch.refills,
        "sample": {
            "task": example.task.id,
            "question": example.task.messages[-1]["content"],
            "completion": example.text,
            "status": example.score.status,
        },
    }

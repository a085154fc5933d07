"""RL without waiting: samplers go on while the learner updates, up to a stated staleness.

Groups of samples are always being drawn; a step trains on those that are ready. New weights reach
replies in flight (PipelineRL, arXiv 2509.19128), whose tokens keep the version that drew them, so
the importance ratio is exact. A group that began more than `max_staleness` updates ago is dropped
and its prompt asked again.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

from openqwq.train.episodes import Attempt
from openqwq.train.packing import pack_trajectories
from openqwq.train.rl import (
    Batch,
    Progress,
    Trainer,
    advantaged,
    describe,
    objective,
    reward_values,
)
from openqwq.train.run import Parts
from openqwq.types import OpenQwQError, Task


@dataclass(frozen=True)
class Group:
    """The judged samples of one prompt, and the update after which they were begun."""

    key: str
    version: int
    attempts: list[Attempt]


class Flow:
    """Groups being drawn and groups that are ready; prompts that were not trained on come back."""

    def __init__(self, trainer: "AsynchronousTrainer", pending: list[int]) -> None:
        self.trainer, self.again = trainer, pending
        self.running: dict[asyncio.Task[Group], int] = {}  # and the prompt's number
        self.ready: list[tuple[Group, int]] = []
        self.dropped = 0

    def fill(self) -> None:
        """Keep two steps' worth of groups under way: one to train on, one to be drawn meanwhile."""
        trainer, curriculum = self.trainer, self.trainer.curriculum
        while len(self.running) + len(self.ready) < 2 * trainer.config.prompts_per_step:
            if self.again:
                number = self.again.pop(0)
                task = curriculum.task(number)
            else:
                (task,) = curriculum.next_tasks(1)
                number = curriculum.drawn - 1
            self.running[asyncio.create_task(trainer.group(number, task))] = number

    async def take(self, count: int) -> list[Group]:
        """`count` groups that are fresh enough, in the order in which they were ready."""
        taken: list[Group] = []
        while len(taken) < count:
            self._drop_stale()
            while self.ready and len(taken) < count:
                taken.append(self.ready.pop(0)[0])
            self.fill()
            if len(taken) < count and not self.ready:
                await asyncio.wait(self.running, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in self.running if task.done()]:
                self.ready.append((task.result(), self.running.pop(task)))
        return taken

    def unfinished(self) -> list[int]:
        """Numbers of the prompts that are under way or waiting: a resumed run asks them again."""
        return sorted([*self.running.values(), *(number for _, number in self.ready), *self.again])

    async def stop(self) -> None:
        """Cancel what is under way."""
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)

    def _drop_stale(self) -> None:
        oldest = self.trainer.learner.done - self.trainer.max_staleness
        stale = [number for group, number in self.ready if group.version < oldest]
        self.ready = [(group, number) for group, number in self.ready if group.version >= oldest]
        self.again += stale
        self.dropped += len(stale)


class AsynchronousTrainer(Trainer):
    """A `Trainer` whose sampling and updating overlap; a step's groups are those ready first."""

    @property
    def max_staleness(self) -> int:
        """Updates that a sample may be behind when it is trained on."""
        cluster = self.run.config.cluster
        return 1 if cluster.mode == "one_step_off" else cluster.max_staleness

    async def train(self, progress: Progress) -> None:
        """See `Trainer.train`."""
        config, learner, stage = self.config, self.learner, self.stage
        pending = _Pending()
        parts: Parts = {"learner": learner, "curriculum": self.curriculum, "pending": pending}
        self.run.restore(stage, parts)
        self.run.forget_after(stage, learner.done)
        await asyncio.to_thread(self.link.push, learner.named_params(), learner.done)
        flow, first = Flow(self, list(pending.numbers)), learner.done
        try:
            with self.run.stoppable() as flag:
                while learner.done < config.steps:
                    record = await self._overlapped_step(flow, learner.done == first)
                    self.run.log(stage, learner.done - 1, record)
                    progress(learner.done, record)
                    last = learner.done == config.steps
                    if learner.done % config.checkpoint_every == 0 or last or flag.is_set:
                        pending.numbers = flow.unfinished()
                        await asyncio.to_thread(self.run.save, stage, parts)
                        flag.check()
        finally:
            await flow.stop()

    async def group(self, number: int, task: Task) -> Group:
        """Draw and judge the samples of `task`, prompt `number` of the curriculum."""
        version, config = self.learner.done, self.config
        key = f"{self.stage}/{self.run.config.seed}/{number}"
        (attempts,) = await self.sampler.groups([self._request(task, key)], config.group_size)
        self._retire(attempts)
        return Group(key, version, attempts)

    async def _overlapped_step(self, flow: Flow, first: bool) -> dict[str, Any]:
        config, step = self.config, self.learner.done
        started = time.perf_counter()
        groups = await flow.take(config.prompts_per_step)
        waited = time.perf_counter() - started
        judged = [(g.key, a) for g in groups for a in g.attempts if a.score.status != "error"]
        if not judged:
            raise OpenQwQError(f"the verifiers failed on the whole batch of step {step}: mend them")
        rewards = reward_values([a for _, a in judged], config, f"{self.run.config.seed}/{step}")
        trained = advantaged(judged, rewards, config)
        attempts = [a for g in groups for a in g.attempts]
        batch = Batch(attempts, [a for _, a in judged], trained, len(groups), 0)
        ages = [step - group.version for group in groups]
        metrics: Mapping[str, float] = {}
        micro = pack_trajectories(trained, config.optimiser.max_tokens_per_micro_batch)
        if first:
            await self.check(attempts, micro)
        if micro:
            update = objective(config, self.reference)
            metrics = await asyncio.to_thread(self.learner.train_step, micro, update)
        else:
            self.learner.done += 1
        await asyncio.to_thread(self.link.push, self.learner.named_params(), step + 1)
        seconds = {"rollout": waited, "learn": time.perf_counter() - started - waited}
        return {
            **describe(batch),
            **metrics,
            "staleness": mean(ages),
            "max_staleness": max(ages),
            "backlog": len(flow.ready),
            "dropped": flow.dropped,
            "learner_idle_share": waited / sum(seconds.values()),
            "seconds": seconds,
        }


class _Pending:
    """The prompts that a saved run had under way, as a part of its state."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def state(self) -> dict[str, Any]:
        return {"numbers": self.numbers}

    def load_state(self, state: dict[str, Any]) -> None:
        self.numbers = state["numbers"]

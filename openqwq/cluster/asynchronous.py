"""RL without waiting: samplers go on while the learner updates, up to a stated staleness.

Groups of samples are always being drawn; a step trains on those that are ready. New weights reach
replies in flight (PipelineRL, arXiv 2509.19128), whose tokens keep the version that drew them, so
the importance ratio is exact. A group that began more than `max_staleness` updates ago is dropped
and its prompt asked again.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any

from openqwq.evaluation.progress import Progress
from openqwq.train.episodes import Attempt
from openqwq.train.rl import Result, Trainer
from openqwq.types import Task


@dataclass(frozen=True)
class SampledGroup:
    """The judged samples of one prompt, and the update after which they were begun."""

    key: str
    version: int
    attempts: list[Attempt]


class Flow:
    """Groups being drawn and groups that are ready; prompts that were not trained on come back."""

    def __init__(self, trainer: "AsynchronousTrainer") -> None:
        self.trainer = trainer
        self.again: list[int] = []  # numbers of prompts to ask before new ones
        self.running: dict[asyncio.Task[SampledGroup], int] = {}  # and the prompt's number
        self.ready: list[tuple[SampledGroup, int]] = []
        self.dropped = 0

    def fill(self) -> None:
        """Keep two steps' worth of groups under way: one to train on, one to be drawn meanwhile."""
        trainer = self.trainer
        curriculum = self.trainer.curriculum
        while len(self.running) + len(self.ready) < 2 * trainer.stage.prompts_per_step:
            if self.again:
                number = self.again.pop(0)
                task = curriculum.task(number)
            else:
                (task,) = curriculum.next_tasks(1)
                number = curriculum.drawn - 1
            self.running[asyncio.create_task(trainer.group(number, task))] = number

    async def take(self, count: int) -> list[SampledGroup]:
        """`count` groups that are fresh enough, in the order in which they were ready."""
        taken: list[SampledGroup] = []
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

    def state(self) -> dict[str, Any]:
        """The prompts that are under way or waiting: a resumed run asks them again."""
        waiting = [number for _, number in self.ready]
        return {"numbers": sorted([*self.running.values(), *waiting, *self.again])}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a `state`."""
        self.again = state["numbers"]

    async def stop(self) -> None:
        """Cancel what is under way."""
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)

    def _drop_stale(self) -> None:
        oldest = self.trainer.learner.done - self.trainer.max_staleness
        stale = [number for group, number in self.ready if group.version < oldest]
        self.ready = [
            (group, number) for group, number in self.ready if group.version >= oldest
        ]
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
        flow = Flow(self)
        try:
            await self.loop(
                lambda first: self._overlapped_step(flow, first),
                {"pending": flow},
                progress,
            )
        finally:
            await flow.stop()

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """See `Trainer.call`; here drawing goes on."""
        return await asyncio.to_thread(function, *arguments)

    async def group(self, number: int, task: Task) -> SampledGroup:
        """Draw and judge the samples of `task`, prompt `number` of the curriculum."""
        version = self.learner.done
        stage = self.stage
        key = f"{stage.name}/{self.run.config.seed}/{number}"
        (attempts,) = await self.runner.groups([self.prompt(task, key)], stage.group_size)
        self.retire(attempts)
        return SampledGroup(key, version, attempts)

    async def _overlapped_step(self, flow: Flow, first: bool) -> dict[str, Any]:
        step = self.learner.done
        started = time.perf_counter()
        groups = await flow.take(self.stage.prompts_per_step)
        waited = time.perf_counter() - started
        metrics = await self.learn(
            self.batch([(g.key, g.attempts) for g in groups], 0), first
        )
        seconds = {"rollout": waited, "learn": time.perf_counter() - started - waited}
        ages = [step - group.version for group in groups]
        return {
            **metrics,
            "staleness": mean(ages),
            "max_staleness": max(ages),
            "backlog": len(flow.ready),
            "dropped": flow.dropped,
            "learner_idle_share": waited / sum(seconds.values()),
            "seconds": seconds,
        }

"""Which prompts come next: a seeded, weighted mix of sources, without those already mastered."""

import random
from collections.abc import Sequence
from typing import Any

from openqwq.tasks.source import Source, draw_tasks
from openqwq.types import OpenQwQError, Task

MAX_SKIPS = 200


class Curriculum:
    """An endless stream of training tasks that resumes exactly from its `state`."""

    def __init__(
        self,
        sources: Sequence[tuple[Source, float]],
        seed: str,
        thinking_share: float = 1.0,
        tool_share: float = 1.0,
    ) -> None:
        if not sources or not all(weight > 0 for _, weight in sources):
            raise OpenQwQError("the task mix needs at least one source, each with a weight above 0")
        self.sources, self.seed = sources, seed
        self.shares = thinking_share, tool_share  # of worked solutions (see `draw_tasks`)
        self.drawn = 0
        self.retired: set[str] = set()

    def next_tasks(self, count: int) -> list[Task]:
        """The next `count` tasks that are not retired."""
        tasks: list[Task] = []
        skips = 0
        while len(tasks) < count:
            task = self._draw()
            if task.id in self.retired and skips < MAX_SKIPS:
                skips += 1  # a small source may be mastered whole: then it is asked again
            else:
                tasks.append(task)
        return tasks

    def task(self, number: int) -> Task:
        """Task `number` of the stream, whatever has been drawn or retired."""
        rng = random.Random(f"mix/{self.seed}/{number}")
        sources, weights = zip(*self.sources, strict=True)
        (source,) = rng.choices(sources, weights)
        return next(draw_tasks(source, "train", self.seed, number, *self.shares))

    def _draw(self) -> Task:
        self.drawn += 1
        return self.task(self.drawn - 1)

    def state(self) -> dict[str, Any]:
        """What `load_state` needs to go on with the same tasks."""
        return {"drawn": self.drawn, "retired": sorted(self.retired)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a `state`."""
        self.drawn, self.retired = state["drawn"], set(state["retired"])

"""Which prompts come next: a seeded, weighted mix of tables, without prompts already mastered."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from openqwq.tasks.table import DataTable
from openqwq.types import OpenQwQError, Task

MAX_SKIPS = 200  # retired prompts passed over for one task, before a table is asked again


class Curriculum:
    """An endless stream of training tasks; task `n` is a pure function of the seed and `n`.

    Draw `n` takes its table by a hash of (seed, n), weighted, and the table's next task: one more
    than were drawn from it before. So a resumed or an asynchronous run draws the same tasks.
    """

    def __init__(
        self,
        tables: Mapping[str, DataTable],
        weights: Mapping[str, float],
        seed: str,
        thinking_share: float = 1.0,
        tool_share: float = 1.0,
    ) -> None:
        self.tables = tables
        self.weights = weights
        self.seed = seed
        self.thinking_share = thinking_share  # of worked solutions (see `SftStage`)
        self.tool_share = tool_share
        self.drawn = 0
        self.retired: set[str] = set()
        # how often every prompt was retired, so that all were asked again
        self.restarts = 0
        # of each draw: its table, and which of its tasks
        self._places: list[tuple[str, int]] = []
        self._counts: Counter[str] = Counter()

    def next_tasks(self, count: int) -> list[Task]:
        """The next `count` tasks that are not retired."""
        tasks: list[Task] = []
        skips = 0
        while len(tasks) < count:
            task = self.task(self.drawn)
            self.drawn += 1
            if task.id not in self.retired:
                tasks.append(task)
                skips = 0
                continue
            skips += 1
            if skips > MAX_SKIPS:
                self._start_over()
                skips = 0
        return tasks

    def task(self, number: int) -> Task:
        """Task `number` of the stream, whatever has been drawn or retired."""
        while len(self._places) <= number:
            name = self._table_of(len(self._places))
            self._places.append((name, self._counts[name]))
            self._counts[name] += 1
        name, place = self._places[number]
        table = self.tables[name]
        return table.draw(
            place, f"{self.seed}/{name}", self.thinking_share, self.tool_share
        )

    def state(self) -> dict[str, Any]:
        """What `load_state` needs to go on with the same tasks."""
        return {
            "drawn": self.drawn,
            "retired": sorted(self.retired),
            "restarts": self.restarts,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a `state`."""
        self.drawn = state["drawn"]
        self.retired = set(state["retired"])
        self.restarts = state["restarts"]

    def _table_of(self, number: int) -> str:
        digest = hashlib.sha256(f"{self.seed}/{number}".encode()).digest()
        point = int.from_bytes(digest[:8]) / 2**64 * sum(self.weights.values())
        for name, weight in self.weights.items():
            point -= weight
            if point < 0:
                return name
        return name

    def _start_over(self) -> None:
        self.retired.clear()
        self.restarts += 1


def epoch_draws(
    tables: Mapping[str, DataTable], weights: Mapping[str, float], epochs: float
) -> dict[str, int]:
    """How many tasks of each table weight x epochs passes are.

    Raises OpenQwQError for a table without an end, of which there is no epoch, and for a table of
    which no task would be learned.
    """
    draws: dict[str, int] = {}
    for name, weight in weights.items():
        size = tables[name].size
        if size is None:
            raise OpenQwQError(
                f"the table {name!r} is a generator, which has no epochs: give the stage steps"
            )
        draws[name] = round(size * weight * epochs)
        if size and not draws[name]:
            raise OpenQwQError(
                f"epochs {epochs:g} times the weight {weight:g} of {name!r} is none of its {size} "
                "rows: raise one of the two"
            )
    return draws


def epoch_tasks(
    tables: Mapping[str, DataTable], weights: Mapping[str, float], epochs: float, seed: str
) -> Iterator[Task]:
    """Each table's tasks, passed weight x epochs times, in a seeded order.

    Raises OpenQwQError as `epoch_draws` does.
    """
    order: list[str] = []
    for name, draws in epoch_draws(tables, weights, epochs).items():
        order += [name] * draws
    random.Random(f"epochs/{seed}").shuffle(order)

    counts: Counter[str] = Counter()
    for name in order:
        yield tables[name].draw(counts[name], f"{seed}/{name}")
        counts[name] += 1

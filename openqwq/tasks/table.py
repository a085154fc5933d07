"""What a `[data.NAME]` table gives a run: training tasks by draw, held-out tasks, and pairs."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from openqwq.tasks.source import Source, distinct, draw_tasks
from openqwq.types import Message, Pair, Task


class DataTable(Protocol):
    """The tasks of one table of a config, all of whose `kind` is the table's name."""

    @property
    def name(self) -> str:
        """The table's name in the config."""
        ...

    @property
    def size(self) -> int | None:
        """How many training tasks there are; None: a generator makes ever new ones."""
        ...

    def draw(
        self, number: int, seed: str, thinking_share: float = 1.0, tool_share: float = 1.0
    ) -> Task:
        """The training task of draw `number` (from 0) of a stream: a pure function of both.

        A finite table is passed in a new order each epoch. The shares are those of `SftStage`.
        """
        ...

    def held_out(self, limit: int, seed: int) -> list[Task]:
        """Up to `limit` tasks that training never sees; the same ones each time."""
        ...

    @property
    def pairs(self) -> Sequence[Pair]:
        """Preference pairs to train on; empty where the table has tasks."""
        ...

    @property
    def held_out_pairs(self) -> Sequence[Pair]:
        """Preference pairs that training never sees."""
        ...


@dataclass(frozen=True)
class GeneratedTable:
    """A table whose problems a generator makes; two tables of one generator share its split."""

    name: str
    source: Source
    environment: str  # that answers; empty: none
    system: str = ""  # prompt; empty: none
    size: None = None
    pairs: Sequence[Pair] = ()
    held_out_pairs: Sequence[Pair] = ()

    def draw(
        self, number: int, seed: str, thinking_share: float = 1.0, tool_share: float = 1.0
    ) -> Task:
        """See `DataTable.draw`."""
        stream = draw_tasks(self.source, "train", seed, number, thinking_share, tool_share)
        return self._named(next(stream))

    def held_out(self, limit: int, seed: int) -> list[Task]:
        """See `DataTable.held_out`."""
        stream = draw_tasks(self.source, "held_out", seed)
        return [self._named(task) for task in distinct(stream, limit)]

    def _named(self, task: Task) -> Task:
        """The task under the table's name and in its environment; without one, without tools."""
        _, _, key = task.id.partition(":")
        continuation = task.continuation
        messages = task.messages
        if self.system:
            messages = (Message(role="system", content=self.system), *messages)
        named = replace(
            task,
            messages=messages,
            id=f"{self.name}:{key}",
            kind=self.name,
            environment=self.environment,
            continuation=None if continuation is None else self._named(continuation),
        )
        return named if self.environment else replace(named, tools=())


def permuted(size: int, number: int, seed: str) -> int:
    """Which of `size` rows draw `number` takes: each epoch passes all of them in a new order."""
    epoch, place = divmod(number, size)
    return _order(size, f"rows/{seed}/{epoch}")[place]


@lru_cache(maxsize=16)
def _order(size: int, seed: str) -> Sequence[int]:
    order = list(range(size))
    random.Random(seed).shuffle(order)
    return order

"""Tables of an environment's own tasks: `tasks(split)` of your class, or `verifiers:ENV_ID`."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from openqwq.config import DataConfig
from openqwq.tasks.rows import split_by_hash
from openqwq.tasks.table import permuted
from openqwq.train.judges import make_environment
from openqwq.types import OpenQwQError, Pair, Task


@dataclass(frozen=True)
class EnvironmentTable:
    """A `DataTable` of an environment's own tasks."""

    name: str
    train: Sequence[Task]
    kept_apart: Sequence[Task]
    pairs: Sequence[Pair] = ()
    held_out_pairs: Sequence[Pair] = ()

    @property
    def size(self) -> int:
        """See `DataTable.size`."""
        return len(self.train)

    def draw(
        self, number: int, seed: str, thinking_share: float = 1.0, tool_share: float = 1.0
    ) -> Task:
        """See `DataTable.draw`."""
        return self.train[permuted(len(self.train), number, seed)]

    def held_out(self, limit: int, seed: int) -> list[Task]:
        """See `DataTable.held_out`."""
        return list(self.kept_apart[:limit])


def own_tasks(name: str, config: DataConfig) -> EnvironmentTable:
    """The table of an environment that has tasks of its own.

    Its `tasks(split)` gives them for "train" and "held_out". Where it holds none out, the table's
    `held_out` may be a share of those to train on. Raises OpenQwQError where there are none.
    """
    environment = make_environment(config.environment, config.options)
    tasks = getattr(environment, "tasks", None)
    if tasks is None:
        raise OpenQwQError(
            f"data.{name} has neither rows nor a source, and {config.environment} has no "
            "tasks(split): give it one of them"
        )
    train = _split(name, config, tasks, "train")
    held_out = _split(name, config, tasks, "held_out")
    if config.held_out is not None:
        if held_out or isinstance(config.held_out, str):
            raise OpenQwQError(
                f"data.{name}.held_out is {config.held_out!r}: it must be a share, and "
                f"{config.environment} must hold out no tasks itself ({len(held_out)} now)"
            )
        held_out, train = split_by_hash(train, config.held_out, _problem)
    train = train[: config.limit]
    if not train:
        raise OpenQwQError(f"data.{name}: {config.environment} gave no tasks to train on")
    return EnvironmentTable(name, train, held_out)


def _problem(task: Task) -> str:
    return json.dumps(task.messages)


def _split(
    name: str, config: DataConfig, tasks: Callable[[str], Iterable[Task]], split: str
) -> list[Task]:
    """The tasks of one split, under the table's name; raises OpenQwQError for two of one id.

    What stands before an id's last colon is left out where the rest is enough to tell them apart.
    """
    given = list(tasks(split))
    short = Counter(task.id.rpartition(":")[2] for task in given)
    shortens = max(short.values(), default=1) == 1
    ids: set[str] = set()
    named: list[Task] = []
    for task in given:
        if task.id in ids:
            raise OpenQwQError(
                f"data.{name}: {config.environment} gives two tasks of the id {task.id!r} for "
                f"{split!r}: give each its own"
            )
        ids.add(task.id)
        key = task.id.rpartition(":")[2] if shortens else task.id
        named.append(
            replace(
                task,
                id=f"{name}:{key}",
                kind=name,
                environment=config.environment,
                verifier="",
            )
        )
    return named

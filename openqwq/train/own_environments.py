"""Tables of an environment's own tasks: `tasks(split)` of your class, or `verifiers:ENV_ID`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from openqwq.config import DataConfig
from openqwq.tasks.table import permuted
from openqwq.train.judges import make_environment
from openqwq.types import OpenQwQError, Pair, Task


@dataclass(frozen=True)
class EnvironmentTable:
    """A `Table` of an environment's own tasks."""

    name: str
    train: Sequence[Task]
    kept_apart: Sequence[Task]
    pairs: Sequence[Pair] = ()
    held_out_pairs: Sequence[Pair] = ()

    @property
    def size(self) -> int:
        """See `Table.size`."""
        return len(self.train)

    def draw(
        self, number: int, seed: str, thinking_share: float = 1.0, tool_share: float = 1.0
    ) -> Task:
        """See `Table.draw`."""
        return self.train[permuted(len(self.train), number, seed)]

    def held_out(self, limit: int, seed: int) -> list[Task]:
        """See `Table.held_out`."""
        return list(self.kept_apart[:limit])


def own_tasks(name: str, config: DataConfig) -> EnvironmentTable:
    """The table of an environment that has tasks of its own.

    Its `tasks(split)` gives them for "train" and "held_out"; one without the argument gives
    training tasks alone. Raises OpenQwQError where there is none.
    """
    environment = make_environment(config.environment, config.options)
    tasks = getattr(environment, "tasks", None)
    if tasks is None:
        raise OpenQwQError(
            f"data.{name} has neither rows nor a source, and {config.environment} has no "
            "tasks(split): give it one of them"
        )
    sides: dict[str, list[Task]] = {}
    for split in ("train", "held_out"):
        sides[split] = [_named(name, config, task) for task in tasks(split)]
    if not sides["train"]:
        raise OpenQwQError(f"data.{name}: {config.environment} gave no tasks to train on")
    return EnvironmentTable(name, sides["train"], sides["held_out"])


def _named(name: str, config: DataConfig, task: Task) -> Task:
    key = task.id.rpartition(":")[2]
    return replace(task, id=f"{name}:{key}", kind=name, environment=config.environment, verifier="")

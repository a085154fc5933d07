"""Benchmarks that a stage evaluates itself on, as tables that hold out every item."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from openqwq.config import Config
from openqwq.evaluation.benchmarks.benchmark import Benchmark, one_question
from openqwq.evaluation.benchmarks.data import Library
from openqwq.evaluation.benchmarks.livecodebench import Window
from openqwq.evaluation.suite import benchmarks, find_benchmark
from openqwq.types import OpenQwQError, Pair, Task


@dataclass(frozen=True)
class BenchmarkTable:
    """A `DataTable` without training tasks."""

    name: str
    items: Sequence[Task]
    size: int = 0
    pairs: Sequence[Pair] = ()
    held_out_pairs: Sequence[Pair] = ()

    def draw(
        self, number: int, seed: str, thinking_share: float = 1.0, tool_share: float = 1.0
    ) -> Task:
        """Raise OpenQwQError: nothing trains on a benchmark."""
        raise OpenQwQError(f"{self.name} is a benchmark: nothing trains on it")

    def held_out(self, limit: int, seed: int) -> list[Task]:
        """See `DataTable.held_out`."""
        return list(self.items[:limit])


def benchmark_tables(config: Config) -> dict[str, BenchmarkTable]:
    """The benchmarks that stages name in `evaluate.benchmarks`.

    Raises OpenQwQError for one that is unknown, not at hand, asked in several turns, or named as a
    table of the config is.
    """
    known = benchmarks(Window())
    folder = config.evaluation.benchmark_data
    library = Library(Path(folder) if folder else None)
    tables: dict[str, BenchmarkTable] = {}
    for stage in config.stages:
        for name in stage.evaluate.benchmarks:
            if name in config.data:
                raise OpenQwQError(
                    f"stages.{stage.name}.evaluate.benchmarks names {name!r}, which is a table of "
                    "the config too: rename the table"
                )
            if name not in tables:
                tables[name] = _table(name, *find_benchmark(name, known), library)
    return tables


def _table(name: str, benchmark: Benchmark, kind: str, library: Library) -> BenchmarkTable:
    if benchmark.conduct is not one_question:
        raise OpenQwQError(
            f"the benchmark {name!r} is asked in several turns: use qwq eval --tasks {name}"
        )
    items: list[Task] = []
    for task in benchmark.load(library):
        if task.kind.startswith(kind):
            items.append(replace(task, kind=name))
    if not items:
        raise OpenQwQError(f"the benchmark {name!r} has no items of that kind")
    return BenchmarkTable(name, items)

"""Tables of one's own in the place of a benchmark: asked, judged, saved and resumed like one."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from openqwq.config import Config, DataConfig, find_config, load_config
from openqwq.data.hub import SCHEME, DataLock
from openqwq.data.rows import FORMS
from openqwq.evaluation.benchmarks.benchmark import Benchmark
from openqwq.evaluation.evaluation import Selection
from openqwq.tasks.rows import RowTable
from openqwq.tasks.tables import open_table
from openqwq.types import OpenQwQError, Task

GENERATED = 100  # tasks of a generator, unless a limit says otherwise
CONFIG = ".toml"


def is_own(name: str) -> bool:
    """Whether `name` is data of one's own, `CONFIG.toml`, `CONFIG.toml:TABLE` or rows."""
    file = name.removesuffix(".gz")
    in_config = f"{CONFIG}:" in name or name.endswith(CONFIG)
    return in_config or file.endswith(FORMS) or name.startswith(SCHEME)


def own_config(name: str) -> Config:
    """The tables that `name` stands for: a config's, one of them, or one over a file of rows.

    Raises OpenQwQError for a config or a table that is not there.
    """
    file, _, table = name.partition(f"{CONFIG}:")
    if table:
        file += CONFIG
    if not is_own(name) or not (table or name.endswith(CONFIG)):
        rows = name if name.startswith(SCHEME) else str(Path(name).absolute())
        return Config(data={_stem(name): DataConfig(rows=rows)})
    config = load_config([find_config(file)])
    if not table:
        return config
    if table not in config.data:
        known = ", ".join(config.data)
        raise OpenQwQError(f"{file} has no [data.{table}]: it has {known}")
    return replace(config, data={table: config.data[table]}, stages=())


def own_selections(
    config: Config, lock: DataLock, limit: int | None, skip_bad_rows: bool = False
) -> list[Selection]:
    """The tasks of every table to evaluate with: those held out, else all; the first `limit`.

    Rows that cannot be used are left out and listed with `skip_bad_rows`. Raises
    OpenQwQError as `open_table` and `own_selection` do.
    """
    selections: list[Selection] = []
    for name, entry in config.data.items():
        table = open_table(name, entry, lock, skip_bad_rows=skip_bad_rows)
        if isinstance(table, RowTable):
            for row in table.skipped:
                print(f"left out: {row}", file=sys.stderr)
            held_out = table.only_held_out()
            tasks = held_out.held_out(limit or len(held_out.held_out_rows), 0)
        else:
            tasks = table.held_out(limit or GENERATED, 0)
        selections.append(own_selection(name, tasks))
    return selections


def _stem(name: str) -> str:
    """The name of a table over a file of rows."""
    return Path(name).name.partition(".")[0]


def own_selection(name: str, tasks: Sequence[Task], samples: int = 1) -> Selection:
    """The tasks of the table `name`, each to be asked `samples` times in one turn.

    Raises OpenQwQError where there are none, nothing can judge them, or an environment answers.
    """
    if not tasks:
        raise OpenQwQError(
            f"data.{name} has no tasks to ask: check its rows, held_out and limit"
        )
    for task in tasks:
        if not task.verifier:
            raise OpenQwQError(
                f"data.{name} has no verifier ({task.id}): give its rows an answer, tests or "
                f"rules, or set data.{name}.verifier"
            )
        if task.environment:
            raise OpenQwQError(
                f"data.{name} is played in the environment {task.environment!r}, and here every "
                f'task is asked once: set data.{name}.environment = "none"'
            )
    benchmark = Benchmark(name, name, samples, load=lambda library: list(tasks))
    return Selection(benchmark, "", tasks)

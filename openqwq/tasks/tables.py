"""Every table of a config, opened and tried before a run begins."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from openqwq.config import Config, DataConfig
from openqwq.data.hub import DataLock
from openqwq.tasks.mix import build_source
from openqwq.tasks.rows import RowTable, open_rows, require_apart
from openqwq.tasks.source import distinct
from openqwq.tasks.table import DataTable, GeneratedTable
from openqwq.types import OpenQwQError, Task

NO_ENVIRONMENT = "none"  # the same problems, asked without their tools


def open_tables(
    config: Config,
    lock: DataLock,
    *,
    skip_bad_rows: bool = False,
    own_tasks: Callable[[str, DataConfig], DataTable] | None = None,
) -> dict[str, DataTable]:
    """The tables of a config by name, each drawn from once.

    Tables in no stage are there to be evaluated: without `held_out`, all their rows are. The
    tasks of an environment come from `own_tasks`, which knows the environments. Raises
    OpenQwQError naming the table and what is wrong with it.
    """
    staged = set(config.staged_data())
    tables: dict[str, DataTable] = {}
    for name, entry in config.data.items():
        if own_tasks is not None and not entry.rows and not entry.source:
            tables[name] = own_tasks(name, entry)
            continue
        table = open_table(name, entry, lock, skip_bad_rows=skip_bad_rows)
        if isinstance(table, RowTable) and name not in staged:
            table = table.only_held_out()
        tables[name] = table

    rows = [table for table in tables.values() if isinstance(table, RowTable)]
    require_apart(rows, rows)
    return tables


def open_table(
    name: str, config: DataConfig, lock: DataLock, *, skip_bad_rows: bool = False
) -> RowTable | GeneratedTable:
    """One table of rows or of a generator; raises OpenQwQError as `open_tables` does."""
    if config.rows:
        return open_rows(name, config, lock, skip_bad_rows=skip_bad_rows)
    if config.source:
        return open_generator(name, config)
    raise OpenQwQError(
        f"data.{name} has the tasks of the environment {config.environment!r}, which is not open "
        "here: name rows or a source"
    )


def open_generator(name: str, config: DataConfig) -> GeneratedTable:
    """The table of a generator, drawn from once on either side of its split."""
    for key in ("held_out", "limit"):
        if getattr(config, key) is not None:
            raise OpenQwQError(
                f"data.{name}.{key} is for rows: a generator holds out an eighth of its problems"
            )
    source = build_source(config.source, config.options)
    if config.verifier:
        source = replace(source, verifier=config.verifier)
    environment = config.environment or source.environment
    if environment == NO_ENVIRONMENT:
        environment = ""
    table = GeneratedTable(name, source, environment, config.system)
    try:
        table.draw(0, "trial")
        table.held_out(1, 0)
    except OpenQwQError as error:
        raise OpenQwQError(f"data.{name}: {error}") from error
    except Exception as error:  # a source of the user's own may raise anything
        raise OpenQwQError(
            f"data.{name}: the source {config.source!r} cannot be drawn from: "
            f"{type(error).__name__}: {error}"
        ) from error
    return table


def training_tasks(table: DataTable, count: int, seed: str) -> list[Task]:
    """The first `count` different training tasks of a table."""
    numbers = itertools.count() if table.size is None else range(table.size)
    return distinct((table.draw(number, seed) for number in numbers), count)


def training_texts(tables: Iterable[DataTable], count: int, seed: str) -> Iterator[str]:
    """What the first `count` tasks of each table say: prompts, solutions and recorded replies."""
    for table in tables:
        for task in training_tasks(table, count, seed):
            yield task_text(task)
        for pair in table.pairs[:count]:
            yield " ".join(
                message["content"] for message in (*pair.chosen, pair.rejected[-1])
            )


def task_text(task: Task) -> str:
    """All that a task shows or teaches, as one text."""
    turns = (*task.messages, *task.demonstration)
    texts = [
        f"{turn.get('reasoning_content', '')} {turn['content']}".strip() for turn in turns
    ]
    return " ".join([*texts, task.solution or ""]).strip()

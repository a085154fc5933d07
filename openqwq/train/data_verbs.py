"""`qwq data` and `qwq collect`: a look at the data of a run, and a teacher's answers as rows.

Imported for every `qwq --help`: what is heavy is imported where it runs.
"""

import argparse
import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from openqwq.config import find_config
from openqwq.engine.verbs import add_model_options, require_counts
from openqwq.train.evaluation_verb import add_benchmark_directory
from openqwq.types import OpenQwQError, Task, Verifier

if TYPE_CHECKING:
    from openqwq.config import Config
    from openqwq.data.hub import DataLock
    from openqwq.evaluation.data_report import DataReport
    from openqwq.tasks.table import DataTable

SEARCHED = "aime24,aime25,math500,gsm8k,ifeval,humaneval,mbpp"


def add_data_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq data`."""
    parser.add_argument("configs", nargs="+", type=find_config, metavar="CONFIG.toml")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="override one setting (may be repeated)",
    )  # fmt: skip
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write the report as a page"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--tasks", type=int, default=1000, help="tasks of each table to measure"
    )
    parser.add_argument(
        "--golds", type=int, default=200, help="gold answers of each table to judge"
    )
    parser.add_argument(
        "--against",
        default=SEARCHED,
        metavar="NAMES",
        help="benchmarks whose items to search for, or none",
    )
    add_benchmark_directory(parser, "--benchmarks")
    parser.set_defaults(verb=data_verb)


def add_collect_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq collect`."""
    add_model_options(parser, context="--context-length", precisions=("fp32", "bf16"))
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="CONFIG.toml, CONFIG.toml:TABLE, or a file of rows",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument(
        "--resume", action="store_true", help="keep the replies made so far for --out"
    )
    parser.add_argument(
        "--samples", type=int, default=4, help="replies to ask for each task"
    )
    parser.add_argument("--keep", choices=["shortest", "all"], default="shortest")
    parser.add_argument("--limit", type=int, help="ask only so many tasks of each table")
    parser.add_argument(
        "--skip-bad-rows",
        action="store_true",
        help="leave out rows that cannot be used, and list them",
    )
    parser.add_argument(
        "--max-tokens", type=int, default=8192, help="most tokens of one reply"
    )
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--concurrency", type=int, default=8, help="replies generated at the same time"
    )
    parser.set_defaults(verb=collect_verb)


def data_verb(options: argparse.Namespace) -> None:
    """Say what a run would ask, before any training."""
    from openqwq.config import load_config
    from openqwq.data.hub import DataLock
    from openqwq.evaluation.data_pages import print_report, to_json, write_page
    from openqwq.tasks.tables import open_tables
    from openqwq.train.own_environments import own_tasks
    from openqwq.train.prepare import check_names_of_tables

    require_counts(options, "tasks", "golds")
    config = load_config(options.configs, options.overrides)
    if not config.data:
        named = ", ".join(map(str, options.configs))
        raise OpenQwQError(f"{named} has no table [data.NAME]: add one (docs/your-data.md)")
    check_names_of_tables(config)
    tables = open_tables(config, DataLock(), skip_bad_rows=True, own_tasks=own_tasks)
    report = asyncio.run(_examined(config, tables, options))
    if options.json:
        print(to_json(report))
    else:
        print_report(report)
    if options.html:
        write_page(report, options.html)


async def _examined(
    config: "Config", tables: Mapping[str, "DataTable"], options: argparse.Namespace
) -> "DataReport":
    from openqwq.evaluation.benchmarks.data import Library
    from openqwq.evaluation.contamination import BenchmarkIndex
    from openqwq.evaluation.data_report import Effort, Examiner, judges_needed
    from openqwq.evaluation.suite import benchmark_items
    from openqwq.train.lengths import run_tokenizer

    items: list[Task] = []
    searched: list[str] = []
    missing: list[str] = []
    names = [] if options.against == "none" else options.against.split(",")
    for name in names:
        try:
            items += benchmark_items([name], Library(options.benchmarks))
            searched.append(name)
        except OpenQwQError as error:
            if options.against != SEARCHED:
                raise
            missing.append(f"{name} not at hand ({error})")
    note = f"{', '.join(searched) or 'none'} searched for" + "".join(
        f"; {m}" for m in missing
    )

    tokenizer, context = run_tokenizer(config, tables)
    async with AsyncExitStack() as stack:
        judges = await _judges(config, judges_needed(tables.values()), stack)
        index = BenchmarkIndex(items) if items else None
        effort = Effort(options.tasks, options.golds)
        examiner = Examiner(config, tokenizer, context, judges, index, note, effort)
        return await examiner.report(tables)


async def _judges(
    config: "Config", names: Iterable[str], stack: AsyncExitStack
) -> dict[str, Verifier]:
    from openqwq.train.judges import open_bench

    bench = open_bench(config, stack)
    return {name: await bench.verifier(name) for name in sorted(names)}


def collect_verb(options: argparse.Namespace) -> None:
    """Ask a teacher and keep what is right."""
    from openqwq.evaluation.collect import require_own_file

    if not options.model:
        raise OpenQwQError("no MODEL was named: give a directory, GGUF file, hub id or URL")
    require_counts(
        options, "samples", "limit", "max_tokens", "concurrency", "context_length"
    )
    require_own_file(options.out)
    asyncio.run(_collect(options))


async def _collect(options: argparse.Namespace) -> None:
    from openqwq.data.hub import DataLock
    from openqwq.evaluation.collect import collect, summary
    from openqwq.evaluation.evaluation import PRESETS, EvaluationSettings
    from openqwq.evaluation.own_tasks import own_config
    from openqwq.evaluation.responders import open_responder

    config = own_config(options.data)
    lock = DataLock()
    tasks = _collected_tasks(config, lock, options)
    hashes = {name: file.sha256 for name, file in lock.files.items()}
    params = replace(
        PRESETS["qwq"],
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
    )
    model = str(options.model)
    if options.adapter:
        model += f" with {options.adapter[-1]}"
    settings = EvaluationSettings(
        model,
        "qwq",
        params,
        options.seed,
        options.samples,
        concurrency=options.concurrency,
    )
    async with AsyncExitStack() as stack:
        names: set[str] = set()
        for chosen in tasks.values():
            names |= {task.verifier for task in chosen if task.verifier}
        judges = await _judges(config, names, stack)
        opening = open_responder(
            options.model, options.engine, options.concurrency, options.context_length,
            options.precision, options.device, options.adapter,
        )  # fmt: skip
        responder = stack.enter_context(opening)
        found = await collect(
            tasks,
            settings,
            responder,
            judges,
            hashes,
            options.out,
            options.keep,
            options.resume,
        )
    print(summary(found, options.out))


def _collected_tasks(
    config: "Config", lock: "DataLock", options: argparse.Namespace
) -> dict[str, list[Task]]:
    """The training tasks of every table: what is held out stays so."""
    from openqwq.evaluation.own_tasks import GENERATED
    from openqwq.tasks.rows import RowTable
    from openqwq.tasks.tables import open_table, training_tasks

    tasks: dict[str, list[Task]] = {}
    for name, entry in config.data.items():
        table = open_table(name, entry, lock, skip_bad_rows=options.skip_bad_rows)
        if isinstance(table, RowTable):
            tasks[name] = [row.task for row in table.rows[: options.limit]]
            for skipped in table.skipped:
                print(f"left out: {skipped}")
        else:
            tasks[name] = training_tasks(table, options.limit or GENERATED, "collect")
    return tasks

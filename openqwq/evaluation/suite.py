"""The benchmarks by name, and the judges that they need."""

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from openqwq.config import SandboxConfig, load_config
from openqwq.data.hub import DataLock
from openqwq.evaluation.benchmarks.benchmark import Benchmark
from openqwq.evaluation.benchmarks.bfcl import BFCL
from openqwq.evaluation.benchmarks.bfcl_backends import require_backends
from openqwq.evaluation.benchmarks.data import Library
from openqwq.evaluation.benchmarks.ifeval import IFEVAL
from openqwq.evaluation.benchmarks.livebench import LIVEBENCH
from openqwq.evaluation.benchmarks.livecodebench import Window, livecodebench
from openqwq.evaluation.benchmarks.mathematics import MATHEMATICS
from openqwq.evaluation.benchmarks.programs import PROGRAM_BENCHMARKS
from openqwq.evaluation.contamination import (
    BenchmarkIndex,
    file_texts,
    require_clean,
    search_texts,
)
from openqwq.evaluation.evaluation import (
    EvaluationSettings,
    Selection,
    evaluate,
    open_run,
    rescore,
    select,
)
from openqwq.evaluation.own_tasks import is_own, own_config, own_selections
from openqwq.evaluation.responders import Responder
from openqwq.evaluation.results import Summary
from openqwq.evaluation.scorecard import write_scorecard
from openqwq.evaluation.statistics import Comparison
from openqwq.tasks.tables import open_tables, training_texts
from openqwq.types import OpenQwQError, Task, Verifier

TEXTS_PER_TABLE = 1000  # of a config, that are searched for benchmark items


def benchmarks(window: Window) -> dict[str, Benchmark]:
    """Every benchmark by its name; `window` chooses LiveCodeBench's problems."""
    coding = [livecodebench(window), LIVEBENCH]
    every = [*MATHEMATICS, *coding, IFEVAL, BFCL, *PROGRAM_BENCHMARKS]
    return {benchmark.name: benchmark for benchmark in every}


def find_benchmark(name: str, known: Mapping[str, Benchmark]) -> tuple[Benchmark, str]:
    """The benchmark and the kind that NAME or NAME/KIND asks for; OpenQwQError if unknown."""
    first, _, kind = name.strip().partition("/")
    if first not in known:
        near = difflib.get_close_matches(first, known, n=1, cutoff=0.0)[0]
        raise OpenQwQError(
            f"unknown benchmark {first!r}: did you mean {near!r}? There are {', '.join(known)}"
        )
    return known[first], kind


# A stack that closes them, their names, and where programs run -> the judges.
OpenJudges = Callable[
    [AsyncExitStack, Iterable[str], SandboxConfig], Awaitable[Mapping[str, Verifier]]
]
OpenResponder = Callable[[], AbstractContextManager[Responder]]


@dataclass(frozen=True)
class EvaluationRequest:
    """What `qwq eval` was asked for: benchmarks and own data by name, how, and where to write."""

    names: Sequence[str]
    library: Library
    settings: EvaluationSettings
    directory: Path
    window: Window
    resume: bool = False
    workers: int = 2
    skip_bad_rows: bool = False


def run_suite(
    request: EvaluationRequest,
    open_responder: OpenResponder | None,
    open_judges: OpenJudges,
) -> dict[str, Summary]:
    """Evaluate what `open_responder` opens, or with None judge the saved replies again.

    Raises OpenQwQError naming what is missing, differs or cannot be reached.
    """
    known = benchmarks(request.window)
    lock = DataLock()
    selections, sandbox = _selected(request, known, lock)
    if "bfcl_turns" in _verifiers(selections):
        require_backends()
    if open_responder is None:
        summaries = asyncio.run(_judge(request, selections, None, sandbox, open_judges))
    else:
        own_hashes = {name: file.sha256 for name, file in lock.files.items()}
        hashes = request.library.hashes | own_hashes
        open_run(request.directory, request.settings, selections, hashes, request.resume)
        with open_responder() as responder:
            summaries = asyncio.run(
                _judge(request, selections, responder, sandbox, open_judges)
            )
    write_scorecard(request.directory, {name: found.title for name, found in known.items()})
    return summaries


def _selected(
    request: EvaluationRequest, known: Mapping[str, Benchmark], lock: DataLock
) -> tuple[list[Selection], SandboxConfig]:
    """The items of every name that the request gives, and the sandbox that judges programs.

    Raises OpenQwQError where two names stand for tables or benchmarks that are called the same.
    """
    limit = request.settings.limit
    selections: dict[str, Selection] = {}
    asked_by: dict[str, str] = {}
    sandbox = SandboxConfig()
    for name in dict.fromkeys(request.names):
        if is_own(name):
            own = own_config(name)
            sandbox = own.sandbox
            found = own_selections(own, lock, limit, request.skip_bad_rows)
        else:
            benchmark, kind = find_benchmark(name, known)
            tasks = benchmark.load(request.library)
            found = [select(benchmark, kind, tasks, limit)]
        for selection in found:
            if selection.name in selections:
                raise OpenQwQError(
                    f"{asked_by[selection.name]} and {name} would both be saved as "
                    f"{selection.name!r}: rename one of them, or give both to a config as tables "
                    "[data.NAME] of two names"
                )
            selections[selection.name] = selection
            asked_by[selection.name] = name
    return list(selections.values()), replace(sandbox, workers=request.workers)


def _verifiers(selections: Sequence[Selection]) -> set[str]:
    """The judges that the tasks name."""
    names: set[str] = set()
    for selection in selections:
        names |= {task.verifier for task in selection.tasks}
    return names


async def _judge(
    request: EvaluationRequest,
    selections: Sequence[Selection],
    responder: Responder | None,
    sandbox: SandboxConfig,
    open_judges: OpenJudges,
) -> dict[str, Summary]:
    async with AsyncExitStack() as stack:
        judges = await open_judges(stack, _verifiers(selections), sandbox)
        if responder is None:
            return await rescore(request.directory, selections, judges)
        return await evaluate(
            request.directory, request.settings, selections, responder, judges
        )


def print_scores(summaries: Mapping[str, Summary]) -> None:
    """Print a table of the benchmarks' figures on standard output."""
    table = Table(box=None)
    columns = (
        "benchmark",
        "score, %",
        "95%",
        "items",
        "samples",
        "errors",
        "cut off",
        "thinking",
    )
    for column in columns:
        table.add_column(column, justify="right" if table.columns else "left")
    for name, summary in summaries.items():
        score = summary.headline
        table.add_row(
            name,
            f"{100 * score.value:.1f}",
            f"{100 * score.low:.1f}–{100 * score.high:.1f}",
            str(summary.items),
            str(summary.samples),
            f"{100 * summary.errors:.1f}%",
            f"{100 * summary.truncated:.1f}%",
            f"{summary.thinking_tokens:.0f}",
        )
    Console().print(table)


def print_comparison(comparisons: Mapping[str, Comparison]) -> None:
    """Print paired differences of two runs on standard output."""
    table = Table(box=None)
    for column in ("benchmark", "B − A, points", "95%", "items", "better", "worse", "p"):
        table.add_column(column, justify="right" if table.columns else "left")
    for name, found in comparisons.items():
        gain = found.difference
        bounds = f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
        counts = str(found.items), str(found.better), str(found.worse)
        table.add_row(
            name, f"{100 * gain.value:+.1f}", bounds, *counts, f"{found.p_value:.4f}"
        )
    Console().print(table)
    print("p: two-sided paired permutation test over items; 95%: bootstrap over items.")


def benchmark_items(names: Sequence[str], library: Library) -> list[Task]:
    """All items of the named benchmarks; OpenQwQError for one that is unknown or not at hand."""
    known = benchmarks(Window())
    items: list[Task] = []
    for name in names:
        benchmark, _ = find_benchmark(name, known)
        items += benchmark.load(library)
    return items


def search_contamination(
    names: Sequence[str], library: Library, file: Path, skip_bad_rows: bool = False
) -> None:
    """Print which rows of a training file, or of a config's tasks, share text with benchmarks.

    Raises OpenQwQError where a row holds an item (nearly) whole.
    """
    if file.suffix == ".toml":
        tables = open_tables(load_config([file]), DataLock(), skip_bad_rows=skip_bad_rows)
        texts = training_texts(tables.values(), TEXTS_PER_TABLE, "contamination")
    else:
        texts = file_texts(file)
    tasks = benchmark_items(names, library)
    overlaps = search_texts(BenchmarkIndex(tasks), texts)
    for found in overlaps:
        print(
            f"row {found.row}: {100 * found.share:.0f}% of {found.item}: {found.words[:100]}"
        )
    print(f"{len(overlaps)} rows of {file} share text with {len(tasks)} items")
    require_clean(overlaps, str(file))

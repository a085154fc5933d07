"""The benchmarks by name, and the judges that they need."""

import asyncio
import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from openqwq.config import load_config
from openqwq.evaluation.benchmarks.benchmark import Benchmark
from openqwq.evaluation.benchmarks.bfcl import BFCL
from openqwq.evaluation.benchmarks.bfcl_backends import require_backends
from openqwq.evaluation.benchmarks.bfcl_turns import TurnsVerifier
from openqwq.evaluation.benchmarks.data import Library
from openqwq.evaluation.benchmarks.ifeval import IFEVAL
from openqwq.evaluation.benchmarks.livebench import LIVEBENCH, LiveBenchVerifier
from openqwq.evaluation.benchmarks.livecodebench import LiveCodeVerifier, Window, livecodebench
from openqwq.evaluation.benchmarks.mathematics import MATHEMATICS
from openqwq.evaluation.benchmarks.programs import PROGRAM_BENCHMARKS
from openqwq.evaluation.chat import Chat
from openqwq.evaluation.contamination import (
    BenchmarkIndex,
    file_texts,
    require_clean,
    search_texts,
)
from openqwq.evaluation.evaluation import Plan, Selection, evaluate, open_run, rescore, select
from openqwq.evaluation.results import Summary
from openqwq.evaluation.scorecard import write_scorecard
from openqwq.evaluation.statistics import Comparison
from openqwq.sandbox.local import LocalSandbox
from openqwq.tasks.mix import training_texts
from openqwq.types import OpenQwQError, Verifier
from openqwq.verify.code import CodeVerifier
from openqwq.verify.contest import ContestVerifier
from openqwq.verify.instructions import InstructionVerifier
from openqwq.verify.math import MathVerifier
from openqwq.verify.toolcalls import ToolCallVerifier


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


async def open_judges(
    stack: AsyncExitStack, selections: Sequence[Selection], workers: int = 2
) -> dict[str, Verifier]:
    """The judges of these items; the sandbox is opened only where a program will run."""
    wanted = {task.verifier for selection in selections for task in selection.tasks}
    judges: dict[str, Verifier] = {
        "instructions": InstructionVerifier(),
        "bfcl_turns": TurnsVerifier(),
        "tool_calls_python": ToolCallVerifier(),
        "tool_calls_java": ToolCallVerifier("java"),
        "tool_calls_javascript": ToolCallVerifier("javascript"),
    }
    if wanted & {"math", "livebench"}:
        judges["math"] = await stack.enter_async_context(MathVerifier(workers=workers))
    if wanted & {"code", "livecodebench", "livebench"}:
        packages = ("numpy",) if wanted & {"livecodebench", "livebench"} else ()
        sandbox = await stack.enter_async_context(LocalSandbox(workers, packages=packages))
        contest = ContestVerifier(sandbox)
        judges["code"] = CodeVerifier(sandbox)
        judges["livecodebench"] = LiveCodeVerifier(contest)
        if "livebench" in wanted:
            judges["livebench"] = LiveBenchVerifier(judges["math"], contest)
    return judges


OpenChat = Callable[[], AbstractContextManager[Chat]]


@dataclass(frozen=True)
class Request:
    """What `qwq eval` was asked for: benchmarks by name, their data, how, and where to write."""

    names: Sequence[str]
    library: Library
    plan: Plan
    directory: Path
    window: Window
    resume: bool = False
    workers: int = 2


def run_suite(request: Request, open_chat: OpenChat | None) -> dict[str, Summary]:
    """Evaluate the chat that `open_chat` opens, or with None judge the saved replies again.

    Raises OpenQwQError naming what is missing, differs or cannot be reached.
    """
    known = benchmarks(request.window)
    chosen = [find_benchmark(name, known) for name in request.names]
    selections = [
        select(benchmark, kind, benchmark.load(request.library), request.plan.limit)
        for benchmark, kind in chosen
    ]
    if any(task.verifier == "bfcl_turns" for each in selections for task in each.tasks):
        require_backends()
    if open_chat is None:
        summaries = asyncio.run(_judge(request, selections, None))
    else:
        hashes = request.library.hashes
        open_run(request.directory, request.plan, selections, hashes, request.resume)
        with open_chat() as chat:
            summaries = asyncio.run(_judge(request, selections, chat))
    write_scorecard(request.directory, {name: found.title for name, found in known.items()})
    return summaries


async def _judge(
    request: Request, selections: Sequence[Selection], chat: Chat | None
) -> dict[str, Summary]:
    async with AsyncExitStack() as stack:
        judges = await open_judges(stack, selections, request.workers)
        if chat is None:
            return await rescore(request.directory, selections, judges)
        return await evaluate(request.directory, request.plan, selections, chat, judges)


def print_scores(summaries: Mapping[str, Summary]) -> None:
    """Print a table of the benchmarks' figures on standard output."""
    table = Table(box=None)
    columns = "benchmark", "score, %", "95%", "items", "samples", "errors", "cut off", "thinking"
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
        table.add_row(name, f"{100 * gain.value:+.1f}", bounds, *counts, f"{found.p_value:.4f}")
    Console().print(table)
    print("p: two-sided paired permutation test over items; 95%: bootstrap over items.")


def search_contamination(names: Sequence[str], library: Library, file: Path) -> None:
    """Print which rows of a training file, or of a config's tasks, share text with benchmarks.

    Raises OpenQwQError where a row holds an item (nearly) whole.
    """
    texts = training_texts(load_config([file])) if file.suffix == ".toml" else file_texts(file)
    known = benchmarks(Window())
    tasks = [task for name in names for task in find_benchmark(name, known)[0].load(library)]
    overlaps = search_texts(BenchmarkIndex(tasks), texts)
    for found in overlaps:
        print(f"row {found.row}: {100 * found.share:.0f}% of {found.item}: {found.words[:100]}")
    print(f"{len(overlaps)} rows of {file} share text with {len(tasks)} items")
    require_clean(overlaps, str(file))

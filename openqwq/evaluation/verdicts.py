"""`qwq verify`: the judges alone, on rows of gold and answer from a file.

Imported for every `qwq --help`: what is heavy is imported where it runs.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openqwq.engine.verbs import require_counts
from openqwq.types import OpenQwQError, Rule, Score, Task, Verifier

if TYPE_CHECKING:
    from openqwq.sandbox.local import LocalSandbox

VERIFIERS = ("math", "code", "contest", "instructions", "gym", "tool_calls")
GOLDS = ("gold", "ground_truth", "reference", "solution", "target")
ANSWERS = ("answer", "completion", "response", "prediction", "output")
IN_FLIGHT = 64  # judgements at once
DETAIL_CHARACTERS = 120


@dataclass(frozen=True)
class JudgeJob:
    """One row: what is judged, the text of the answer, and the verdict that the row expects."""

    task: Task
    completion: str
    expected: str


def add_verify_verb(parser: argparse.ArgumentParser) -> None:
    """The arguments of `qwq verify`."""
    parser.add_argument(
        "file", type=Path, help="rows with a gold and an answer: .jsonl, .csv or .parquet"
    )
    parser.add_argument("--verifier", required=True, choices=VERIFIERS, help="which judge")
    parser.add_argument(
        "--gold",
        default="",
        metavar="FIELD",
        help=f"the gold's column (default: {', '.join(GOLDS)})",
    )
    parser.add_argument(
        "--answer",
        default="",
        metavar="FIELD",
        help=f"the answer's column (default: {', '.join(ANSWERS)})",
    )
    parser.add_argument(
        "--thinking",
        action="store_true",
        help="answers start inside the thinking: one without </think> is truncated",
    )
    parser.add_argument(
        "--level", default="default", choices=["strict", "default", "lenient"]
    )
    parser.add_argument(
        "--packages",
        default="",
        help="packages that programs may import, separated by commas",
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="answers judged at the same time"
    )
    parser.add_argument("--limit", type=int, help="judge only so many rows")
    parser.add_argument(
        "--out",
        type=Path,
        help="write the verdicts there as JSON lines (default: print them)",
    )
    parser.set_defaults(verb=verify_verb)


def verify_verb(options: argparse.Namespace) -> None:
    """`qwq verify FILE --verifier NAME`."""
    require_counts(options, "workers", "limit")
    jobs = read_jobs(options)
    started = time.perf_counter()
    scores = asyncio.run(_judge(options, jobs))
    seconds = time.perf_counter() - started

    lines = []
    for job, score in zip(jobs, scores, strict=True):
        verdict = {
            "id": job.task.id,
            "status": score.status,
            "value": score.value,
            "parts": dict(score.parts),
            "detail": score.detail,
        }
        if job.expected:
            verdict["expected"] = job.expected
            verdict["agrees"] = _agrees(job, score)
        lines.append(json.dumps(verdict))
    if options.out:
        from openqwq.data.files import write_atomically

        write_atomically(options.out, ("\n".join(lines) + "\n").encode())
    else:
        _print_verdicts(jobs, scores)
    print(summary(jobs, scores, seconds))


def read_jobs(options: argparse.Namespace) -> list[JudgeJob]:
    """The rows of the file; OpenQwQError naming the row and the field that cannot be used."""
    from openqwq.data.rows import numbered_rows
    from openqwq.tasks.templates import RowError

    jobs = []
    for number, row in islice(numbered_rows(options.file), options.limit):
        try:
            jobs.append(_job(number, row, options))
        except (OpenQwQError, RowError, ValueError, KeyError, TypeError) as error:
            raise OpenQwQError(f"{options.file}, row {number}: {error}") from error
    if not jobs:
        raise OpenQwQError(f"{options.file} holds no rows")
    return jobs


def _job(number: int, row: Mapping[str, Any], options: argparse.Namespace) -> JudgeJob:
    answer = _field(row, options.answer, ANSWERS, "answer")
    if not isinstance(answer, str):
        raise OpenQwQError(
            f"the answer is of type {type(answer).__name__!r}: it must be a text"
        )
    completion = answer
    if not options.thinking:
        completion = "</think>" + answer.rpartition("</think>")[2]
    name = str(row.get("id", number))
    task = _task(name, row, options)
    return JudgeJob(task, completion, str(row.get("expected", "")))


def _task(name: str, row: Mapping[str, Any], options: argparse.Namespace) -> Task:
    """The task that holds what a row's judge compares with."""
    judge = options.verifier
    if judge in ("code", "contest"):
        from openqwq.tasks.hidden_tests import read_tests

        tests = read_tests(
            _field(row, options.gold, ("tests", *GOLDS), "tests"), "tests", row
        )
        return Task(name, judge, (), judge, tests=tests)
    if judge == "instructions":
        given = _field(row, options.gold, ("rules", *GOLDS), "rules")
        rules = tuple(Rule(rule["id"], rule.get("arguments", {})) for rule in given)
        return Task(name, judge, (), judge, rules=rules)
    if judge == "gym":
        from openqwq.tasks.gym import GymEntry
        from openqwq.tasks.templates import from_json

        entry = from_json(
            _field(row, options.gold, ("entry", *GOLDS), "entry of reasoning-gym")
        )
        if not isinstance(entry, Mapping):
            raise OpenQwQError(
                f"the entry is {entry!r:.80}: it must be one of reasoning-gym's, an object"
            )
        return Task(name, judge, (), judge, reference=GymEntry(entry))
    gold = _field(row, options.gold, GOLDS, "gold")
    text = gold if isinstance(gold, str) else json.dumps(gold)
    if judge == "tool_calls":
        from openqwq.tasks.conversations import read_tools
        from openqwq.verify.toolcalls import RightCalls

        given = row.get("tools")
        tools = read_tools(given, "tools") if given else ()
        return Task(name, judge, (), judge, reference=RightCalls.read(text), tools=tools)
    return Task(name, judge, (), judge, answer=text)


def _field(row: Mapping[str, Any], asked: str, usual: Sequence[str], what: str) -> Any:
    for name in (asked,) if asked else usual:
        if name in row:
            return row[name]
    looked = asked or ", ".join(usual)
    raise OpenQwQError(f"no {what}: looked for {looked}; there are {', '.join(row)}")


async def _judge(options: argparse.Namespace, jobs: Sequence[JudgeJob]) -> list[Score]:
    slots = asyncio.Semaphore(IN_FLIGHT)
    async with AsyncExitStack() as stack:
        verifier = await _open(stack, options)

        async def one(job: JudgeJob) -> Score:
            async with slots:
                return await verifier.score(job.task, job.completion)

        return list(await asyncio.gather(*[one(job) for job in jobs]))


async def _open(stack: AsyncExitStack, options: argparse.Namespace) -> Verifier:
    """Open the judge that was asked for."""
    match options.verifier:
        case "math":
            from openqwq.verify.math import MathVerifier

            judge = MathVerifier(workers=options.workers, level=options.level)
            return await stack.enter_async_context(judge)
        case "gym":
            from openqwq.tasks.gym import GymVerifier

            return await stack.enter_async_context(GymVerifier(workers=options.workers))
        case "code":
            from openqwq.verify.code import CodeVerifier

            return CodeVerifier(await _sandbox(stack, options))
        case "contest":
            from openqwq.verify.contest import ContestVerifier

            return ContestVerifier(await _sandbox(stack, options))
        case "instructions":
            from openqwq.verify.instructions import InstructionVerifier

            return InstructionVerifier()
    from openqwq.verify.toolcalls import ToolCallVerifier

    return ToolCallVerifier()


async def _sandbox(stack: AsyncExitStack, options: argparse.Namespace) -> "LocalSandbox":
    from openqwq.sandbox.local import LocalSandbox

    packages = tuple(filter(None, options.packages.split(",")))
    if options.verifier == "contest":
        packages = ("numpy", *packages)
    return await stack.enter_async_context(LocalSandbox(options.workers, packages=packages))


def _agrees(job: JudgeJob, score: Score) -> bool:
    return score.status in job.expected.split(" or ")


def _print_verdicts(jobs: Sequence[JudgeJob], scores: Sequence[Score]) -> None:
    for job, score in zip(jobs, scores, strict=True):
        detail = " ".join(score.detail.split())[:DETAIL_CHARACTERS]
        detail = detail.encode("ascii", "backslashreplace").decode()
        mark = ""
        if job.expected and not _agrees(job, score):
            mark = f"  EXPECTED {job.expected}"
        print(f"{job.task.id}  {score.status} {score.value:g}  {detail}{mark}".rstrip())


def summary(jobs: Sequence[JudgeJob], scores: Sequence[Score], seconds: float) -> str:
    """Counts by status, throughput, and how many rows got the verdict that they expect."""
    counts = Counter(score.status for score in scores)
    parts = [f"{count} {status}" for status, count in counts.most_common()]
    text = f"{len(scores)} rows: {', '.join(parts)}; {len(scores) / seconds:.0f} rows/s"
    agreeing = [
        _agrees(j, score) for j, score in zip(jobs, scores, strict=True) if j.expected
    ]
    if agreeing:
        text += f"; {sum(agreeing)} of {len(agreeing)} as expected"
    return text

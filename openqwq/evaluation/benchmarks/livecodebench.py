"""LiveCodeBench: contest problems by release and date, hidden tests run in the sandbox.

QwQ's published 63.4 is release v5 from August 2024 to February 2025. Hidden tests stay packed until
they are needed: they are many gigabytes. Unpacking them never makes objects other than plain text.
`verify/contest.py` judges by the rules of the benchmark's own grader.
"""

import base64
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openqwq.data.rows import Row
from openqwq.evaluation.benchmarks.benchmark import Benchmark
from openqwq.evaluation.benchmarks.data import DataFile, Library
from openqwq.types import CodeTests, Message, OpenQwQError, Score, Task, TestCase, Verifier

REPOSITORY = "livecodebench/code_generation_lite"
REVISION = "0fe84c3912ea0c4d4a78037083943e8f0c4dd505"
# release vN is the first N files
HASHES = (
    "2bd02b38beb48e8c46b5b9987095d999ff38cd8efc255ea5d58974317c48f63f",
    "095df7c5daf15f882c51a9deb84085cff1e073495a5dbcf95015a564d485f3a3",
    "28ed26cc83363ce3f1fe2d5fad9f8393077beb1907b167a31bd3b32f80801b79",
    "d711138ddaebfcf5f8ec6a4283ee677298c0f5c5d374a235af92aaf0584510da",
    "7f77571c2a6df0c2a72a3277650309f67e01e0008e18117e624633df53f81214",
    "bb4c364f71921c4495a6ad15abe1a927350b720009f4933e2e71f8af0f6fd1f5",
)
SAMPLES_V5 = DataFile(
    "livecodebench-v5/problems.jsonl.gz",
    REPOSITORY,
    "test5.jsonl",
    REVISION,
    local_sha256="43203f2c1c800e4deded7ccd4b450122a5dc673a9506b3288e565d1b1343ed60",
)
MAX_BYTES = 2**30  # unpacked tests of one problem
TASK = (
    "You will be given a question (problem specification) and will generate a correct Python"
    " program that matches the specification and passes all tests.\n\nQuestion: {question}\n\n"
)
# the two forms in which QwQ was asked
STDIN = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly"
    " test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when"
    " the python program runs, it reads the inputs, runs the algorithm and writes output to"
    " STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
)
STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your"
    " code within delimiters.\n```python\n{starter}\n```\n\n"
)


@dataclass(frozen=True)
class Window:
    """A release (1 to 6) and the contest dates from `start` to before `end`, as YYYY-MM-DD."""

    release: int = 5
    start: str = "2024-08-01"
    end: str = "2025-02-01"


@dataclass(frozen=True)
class PackedTests:
    """A problem's tests as its row has them; the hidden ones stay packed until they are needed."""

    public: Sequence[Mapping[str, Any]]
    hidden: str = ""
    function: str | None = None  # that the tests call; None: a program that reads stdin


def load(library: Library, window: Window) -> list[Task]:
    """The problems of a window; from --data, a file with only sample tests says so in its kind."""
    tasks = [_task(row) for row in _rows(library, window)]
    if not tasks:
        raise OpenQwQError(
            f"LiveCodeBench v{window.release} has no problems from {window.start} to {window.end}"
        )
    return tasks


def _rows(library: Library, window: Window) -> Iterator[Row]:
    if not 1 <= window.release <= len(HASHES):
        raise OpenQwQError(
            f"LiveCodeBench v{window.release} is unknown: use 1 to {len(HASHES)}"
        )
    for file in _files(library, window.release):
        for row in library.rows(file):
            if window.start <= str(row["contest_date"])[:10] < window.end:
                yield row


def _files(library: Library, release: int) -> list[DataFile]:
    directory = library.directory
    if directory is not None and not (directory / "livecodebench").is_dir():
        return [SAMPLES_V5]
    files: list[DataFile] = []
    for number, digest in enumerate(HASHES[:release], 1):
        name = "test.jsonl" if number == 1 else f"test{number}.jsonl"
        path = f"livecodebench/{name}"
        files.append(DataFile(path, REPOSITORY, name, REVISION, digest, digest))
    return files


def _task(row: Row) -> Task:
    if "prompt" in row:  # QwQ's own file, whose hidden tests were cut out
        kind = "samples only"
        question = row["prompt"]
        tests = PackedTests(row["public_tests"], function=row["fn_name"])
    else:
        kind = row["difficulty"]
        function = json.loads(row["metadata"] or "{}").get("func_name")
        form = STARTER.format(starter=row["starter_code"]) if function else STDIN
        question = TASK.format(question=row["question_content"]) + form
        public = json.loads(row["public_test_cases"])
        tests = PackedTests(public, row["private_test_cases"], function)
    message = Message(role="user", content=question)
    name = f"livecodebench/{row['question_id']}"
    return Task(name, kind, (message,), "livecodebench", reference=tests)


class _Plain(pickle.Unpickler):
    """Plain data only: whatever names a class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse."""
        raise pickle.UnpicklingError(f"tests name {module}.{name}: they must be plain data")


def unpack(text: str) -> list[dict[str, Any]]:
    """Hidden tests: a JSON list, or one pickled as text, compressed and in base64.

    Raises ValueError for anything else, and for more than a gigabyte.
    """
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), MAX_BYTES)
        if unpacker.unconsumed_tail:
            raise ValueError(f"more than {MAX_BYTES} bytes of tests")
        plain = _Plain(io.BytesIO(data)).load()
        return list(json.loads(plain) if isinstance(plain, str | bytes) else plain)
    except (zlib.error, pickle.UnpicklingError, EOFError, TypeError, IndexError) as error:
        raise ValueError(f"hidden tests cannot be unpacked: {error}") from error


def code_tests(packed: PackedTests) -> CodeTests:
    """Public and hidden tests as the contest verifier takes them; ValueError if malformed."""
    given = list(packed.public)
    if packed.hidden:
        given += unpack(packed.hidden)
    if not packed.function:
        return CodeTests("stdin", tuple(TestCase(t["input"], t["output"]) for t in given))
    cases = []
    for test in given:
        arguments = [json.loads(line) for line in test["input"].split("\n")]
        cases.append(TestCase(arguments, json.loads(test["output"])))
    return CodeTests("call", tuple(cases), packed.function)


class LiveCodeVerifier:
    """Unpacks a problem's tests and judges by them as LiveCodeBench's own grader does."""

    def __init__(self, contest: Verifier) -> None:
        self._contest = contest

    async def score(self, task: Task, completion: str) -> Score:
        """The verdict of the contest verifier; `error` where the tests cannot be read."""
        if not isinstance(task.reference, PackedTests):
            return Score(
                0.0, "error", detail=f"task {task.id!r} has no tests of LiveCodeBench"
            )
        try:
            tests = code_tests(task.reference)
        except (ValueError, KeyError, TypeError) as error:
            return Score(0.0, "error", detail=f"tests of {task.id!r}: {error}")
        return await self._contest.score(replace(task, tests=tests), completion)


def livecodebench(window: Window) -> Benchmark:
    """The benchmark over one window."""
    return Benchmark(
        "livecodebench", "LiveCodeBench", 8, lambda library: load(library, window)
    )

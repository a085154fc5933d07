"""The judge of contest programs, by the rules of LiveCodeBench's own grader.

`contest_program` runs them in the sandbox; outputs are compared here, out of the program's reach.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, DecimalException
from pathlib import Path
from typing import Any

from openqwq.sandbox.protocol import (
    SOURCE_CHARACTERS,
    Case,
    CaseResult,
    Limits,
    RunRequest,
    Sandbox,
)
from openqwq.types import CodeTests, OpenQwQError, Score, Task, TestCase
from openqwq.verify import contest_program
from openqwq.verify.answer import final_answer, last_program

HOST = Path(contest_program.__file__).read_text(encoding="utf-8")
# they share one process; with six seconds each they fit the sandbox's minute
TESTS_A_RUN = 7
CHARACTERS_A_RUN = 2**22  # of input, and of expected output
SPARE_SECONDS = 5.0
LIMITS = Limits(memory_bytes=2**31, output_bytes=2**24)  # the grader has none
NUMPY = re.compile(r"\bnumpy\b")


@dataclass(frozen=True)
class FailedTest:
    """The first test that failed: its number, the status, and why."""

    test: int
    status: str
    reason: str


class ContestVerifier:
    """Judges a program by `task.tests` of the forms `stdin` and `call`: 1 if all pass, else 0.

    Printed lines must be equal, or their words as decimal numbers; returned values must be equal
    as in Python. A test may take `seconds`. Programs may use numpy where the sandbox has it.
    `parts["passed"]` is the fraction that passed before the first failure. Status `timeout` or
    `wrong`: that of the first failure. `error`: the sandbox failed, lacks numpy, or the task has
    no tests that can be run.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        thinking: bool = True,
        seconds: float = 6.0,
        limits: Limits = LIMITS,
    ) -> None:
        self._sandbox = sandbox
        self._thinking = thinking
        self._seconds = seconds
        self._limits = limits

    async def score(self, task: Task, completion: str) -> Score:
        """See the class."""
        answer = final_answer(completion, self._thinking)
        tests = task.tests
        if answer is None:
            return Score(0.0, "truncated", detail="no </think>")
        if tests is None or not tests.cases or tests.form == "script":
            return Score(0.0, "error", detail=f"task {task.id!r} has no tests of a contest")
        kind = list if tests.form == "call" else str
        if not all(isinstance(case.input, kind) for case in tests.cases):
            reason = f"an input of the form {tests.form!r} is not of type {kind.__name__!r}"
            return Score(0.0, "error", detail=f"task {task.id!r}: {reason}")
        return await self.judge(last_program(answer), tests, task.id)

    async def judge(self, program: str, tests: CodeTests, task_id: str) -> Score:
        """The verdict on a program."""
        if len(program) > SOURCE_CHARACTERS:
            reason = f"the program is longer than {SOURCE_CHARACTERS} characters"
            return Score(0.0, "wrong", {"passed": 0.0}, reason)
        try:
            failure = await self._first_failure(program, tests)
        except (OpenQwQError, OSError) as error:
            return Score(0.0, "error", detail=f"task {task_id!r}: {error}")
        if failure is None:
            return Score(1.0, "correct", {"passed": 1.0})
        passed = {"passed": failure.test / len(tests.cases)}
        detail = f"test {failure.test}: {failure.reason}"
        if failure.status == "timeout":
            return Score(0.0, "timeout", passed, detail)
        return Score(0.0, "wrong", passed, detail)

    async def _first_failure(self, program: str, tests: CodeTests) -> FailedTest | None:
        """Run the tests, some at a time, up to a failure; OpenQwQError where the sandbox fails."""
        number = 0
        name: str | None = None
        if tests.form == "call":
            name = (tests.entry_point or "").rpartition(".")[2]
        for cases in _portions(tests.cases):
            ended = await self._run(program, cases, name)
            rows = ended.value if isinstance(ended.value, list) else []
            for index, case in enumerate(cases):
                row = rows[index] if index < len(rows) else None
                if row is None and ended.status != "ok":
                    return FailedTest(number, ended.status, ended.error)
                failure = _judge_row(row, case, name is not None)
                if failure:
                    status, reason = failure
                    return FailedTest(number, status, reason)
                number += 1
        return None

    async def _run(
        self, program: str, cases: Sequence[TestCase], name: str | None
    ) -> CaseResult:
        """Run the program, or its function `name`, on some tests in one process."""
        inputs = [case.input for case in cases]
        wall = (self._seconds + 1) * len(cases) + SPARE_SECONDS
        request = RunRequest(
            HOST,
            "call",
            (Case(arguments=(program, inputs, name, self._seconds)),),
            replace(self._limits, wall_seconds=wall, cpu_seconds=wall),
            "run_tests",
            packages=("numpy",) if NUMPY.search(program) else (),
        )
        result = await self._sandbox.run(request)
        if result.status == "error" or len(result.cases) != 1:
            raise OpenQwQError(f"the sandbox failed: {result.error}")
        return result.cases[0]


def _portions(cases: Sequence[TestCase]) -> Iterator[list[TestCase]]:
    """The tests in order, as many at a time as one run can hold."""
    portion: list[TestCase] = []
    characters = 0
    for case in cases:
        size = len(str(case.input)) + len(str(case.expected))
        if portion and (
            len(portion) == TESTS_A_RUN or characters + size > CHARACTERS_A_RUN
        ):
            yield portion
            portion = []
            characters = 0
        portion.append(case)
        characters += size
    yield portion


def _judge_row(row: Any, case: TestCase, returned: bool) -> tuple[str, str] | None:
    """Status and reason if a test failed. The program may have written anything into `row`."""
    match row:
        case ["output", str(found)] if not returned:
            right = same_lines(found, str(case.expected))
        case ["output", found] if returned:
            right = bool(found == case.expected)
        case ["array", found] if returned:
            right = bool(found == case.expected or [found] == case.expected)
        case ["timeout", str(reason)]:
            return "timeout", reason
        case ["failed", str(reason)]:
            return "wrong", reason
        case _:
            return "wrong", "the program ended before this test did"
    return None if right else ("wrong", "not the expected result")


def same_lines(found: str, expected: str) -> bool:
    """Whether two outputs have equal lines, at their ends stripped, as text or word by word as
    decimal numbers (`2.0` for `2`, but never `1 2` on two lines).
    """
    ours = found.strip().split("\n")
    theirs = expected.strip().split("\n")
    if len(ours) != len(theirs):
        return False
    for left, right in zip(ours, theirs, strict=True):
        if left.strip() != right.strip() and not _same_numbers(left, right):
            return False
    return True


def _same_numbers(left: str, right: str) -> bool:
    try:
        return list(map(Decimal, left.split())) == list(map(Decimal, right.split()))
    except DecimalException:  # not numbers, or a NaN that signals
        return False

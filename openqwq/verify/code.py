"""The code verifier: the sandbox runs the program; the verdict falls here, out of its reach."""

from contextlib import suppress
from dataclasses import replace
from decimal import Decimal, DecimalException
from typing import Any

from openqwq.sandbox.protocol import (
    DEFAULT,
    SOURCE_CHARACTERS,
    Case,
    CaseResult,
    Limits,
    RunRequest,
    Sandbox,
)
from openqwq.types import CodeTests, OpenQwQError, Score, Task
from openqwq.verify.answer import final_answer, last_program


class CodeVerifier:
    """Judges a program by `task.tests`: value 1 if every test passes, else 0.

    The program is the last closed fenced block after `</think>`, or all of that text where there
    is none. Standard output is compared token by token, a call's result as data. The status
    `timeout` or `wrong` is that of the first failure; after a test that does not run to its end
    the rest count as failed. `parts["passed"]` is the fraction passed. `error`: the sandbox
    failed or the task cannot be run. Without `limits` those of the sandbox hold; a task's own
    limits come before either.
    """

    def __init__(
        self, sandbox: Sandbox, thinking: bool = True, limits: Limits | None = None
    ) -> None:
        self._sandbox = sandbox
        self._thinking = thinking
        self._limits = limits

    async def score(self, task: Task, completion: str) -> Score:
        """See the class."""
        answer = final_answer(completion, self._thinking)
        tests = task.tests
        if answer is None:
            return Score(0.0, "truncated", detail="no </think>")
        if not tests or not (tests.cases or tests.script):
            return Score(0.0, "error", detail=f"task {task.id!r} has no tests")
        program = last_program(answer)
        if len(program) > SOURCE_CHARACTERS:
            reason = f"the program is longer than {SOURCE_CHARACTERS} characters"
            return Score(0.0, "wrong", {"passed": 0.0}, reason)
        try:
            request = RunRequest(
                program,
                tests.form,
                _cases(tests),
                self._limits_of(tests),
                tests.entry_point,
                tests.script,
                tests.setup,
                stop_early=True,
                packages=tests.packages,
            )
            result = await self._sandbox.run(request)
        except (OpenQwQError, OSError) as error:
            return Score(0.0, "error", detail=f"task {task.id!r}: {error}")
        if result.status == "error" or len(result.cases) != len(request.cases):
            return Score(0.0, "error", detail=f"the sandbox failed: {result.error}")
        for case in result.cases:
            if case.status == "unusable":
                return Score(
                    0.0, "error", detail=f"tests of task {task.id!r}: {case.error}"
                )
        failures: list[int] = []
        for number, case in enumerate(result.cases):
            if case.status != "ok" or not _right(tests, number, case):
                failures.append(number)
        passed = {"passed": 1 - len(failures) / len(request.cases)}
        if not failures:
            return Score(1.0, "correct", passed)
        first = result.cases[failures[0]]
        detail = f"test {failures[0]}: {first.error or 'not the expected result'}"
        if first.status == "timeout":
            return Score(0.0, "timeout", passed, detail)
        return Score(0.0, "wrong", passed, detail)

    def _limits_of(self, tests: CodeTests) -> Limits | None:
        """Return the verifier's limits, or the sandbox's own (None), with those of the task."""
        if not tests.limits:
            return self._limits
        unknown = set(tests.limits) - set(vars(DEFAULT))
        if unknown:
            raise OpenQwQError(
                f"limits holds {min(unknown)!r}: it must be one of {', '.join(vars(DEFAULT))}"
            )
        return replace(self._limits or self._sandbox.limits, **tests.limits)  # type: ignore[arg-type]


def _cases(tests: CodeTests) -> tuple[Case, ...]:
    """What the sandbox runs: test code is one case without input."""
    if tests.form == "call":
        cases = [Case(arguments=tuple(case.input)) for case in tests.cases]
    else:
        cases = [Case(case.input) for case in tests.cases]
    return tuple(cases) or (Case(),)


def _right(tests: CodeTests, number: int, case: CaseResult) -> bool:
    if tests.form == "script":
        return True  # it ran to its end
    expected = tests.cases[number].expected
    if tests.form == "stdin":
        return agrees(case.stdout.split(), expected.split(), tests.float_tolerance)
    return agrees(case.value, expected, tests.float_tolerance)


def agrees(found: Any, expected: Any, tolerance: float | None) -> bool:
    """Whether plain data is equal, a tuple being as good as a list (as in LiveCodeBench).

    With a tolerance, numbers (also as text) may differ by it, absolutely or relatively.
    """
    if isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            return False
        return all(agrees(a, b, tolerance) for a, b in zip(found, expected, strict=True))
    if tolerance is not None and isinstance(found, str | int | float):
        with suppress(DecimalException, TypeError):  # not numbers
            right = Decimal(expected)
            largest = Decimal(str(tolerance)) * max(Decimal(1), abs(right))
            if abs(Decimal(found) - right) <= largest:
                return True
    return bool(found == expected)

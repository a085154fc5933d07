"""Contest programs get the verdicts of LiveCodeBench's own grader.

Each verdict here was the official one in `bench/livecodebench.py`, which tries 471 programs.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import CaseResult, RunRequest, RunResult
from openqwq.types import CodeTests, OpenQwQError, Score, Task, TestCase
from openqwq.verify.contest import TESTS_A_RUN, ContestVerifier, same_lines

pytestmark = pytest.mark.asyncio(loop_scope="module")
SUM = CodeTests("stdin", (TestCase("1 2\n", "3\n"), TestCase("10 -4\n", "6\n")))
ADD = CodeTests("call", (TestCase([1, 2], 3), TestCase([10, -4], 6)), "f")
READ = "a, b = map(int, input().split())\n"
DEEP = "def g(n):\n    return 0 if n == 0 else 1 + g(n - 1)\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verifier() -> AsyncIterator[ContestVerifier]:
    async with LocalSandbox(1, packages=("numpy",)) as sandbox:
        yield ContestVerifier(sandbox, thinking=False, seconds=2.0)


def method(body: str) -> str:
    return f"class Solution:\n    def f(self, a, b):\n        {body}"


@pytest.mark.parametrize(
    "program",
    [
        READ + "print(a + b)",
        READ + "print(float(a + b))",
        READ + "print(f'{a + b:e}')",
        READ + "print(a + b)\nexit()",
        "import sys\n" + READ + "print(a + b)\nsys.exit(1)",
        "def main():\n    a, b = map(int, input().split())\n    print(a + b)\n"
        "if __name__ == '__main__':\n    main()",
        "import sys\na, b = map(int, sys.stdin.buffer.read().split())\nprint(a + b)",
        "from sys import stdin\na, b = map(int, stdin.readline().split())\nprint(a + b)",
        READ + "print(a + b + gcd(2, 3) - 1 + Counter()[0] + len(ascii_lowercase) - 26)",
        READ + "print(reduce(add, [a, b]), end='')",
        DEEP + READ + "print(a + b + g(20000) - 20000)",
        "import numpy as np\nprint(np.array(input().split(), dtype=int).sum())",
        READ + "print(len(str(10 ** 5000)) - 5001 + a + b)",
    ],
)
async def test_a_program_that_the_grader_passes_is_correct(
    verifier: ContestVerifier, program: str
) -> None:
    assert await verifier.judge(program, SUM, "t") == Score(1.0, "correct", {"passed": 1.0})


@pytest.mark.parametrize(
    "program",
    [
        READ + "print(a + b, 0)",
        READ + "print(a + b); print(a + b)",
        READ + "print('sum', a + b)",
        READ + "print(a + b)\nquit()",
        READ + "print(a + b)\n1 / 0",
        READ + "import os; print(a + b, flush=True); os._exit(0)",
        READ + "import sys; sys.stdout.buffer.write(b'3')",
        "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))",
        "print(sum(map(int, open(0).read().split())))",
        "from __future__ import annotations\n" + READ + "print(a + b)",
        "n = 0\ndef f():\n    global n\n    n += 1\nf()\n" + READ + "print(a + b)",
        "import resource\n" + READ + "print(a + b)",
        DEEP + READ + "print(a + b + g(60000) - 60000)",
        READ + "print(3)",
        READ + "print(a + b)\0",
        READ + "print(a + b)  # \ud800",
        "",
    ],
)
async def test_a_program_that_the_grader_fails_is_wrong(
    verifier: ContestVerifier, program: str
) -> None:
    score = await verifier.judge(program, SUM, "t")
    assert (score.value, score.status) == (0.0, "wrong"), score


@pytest.mark.parametrize(
    ("returned", "expected", "right"),
    [
        ("3", 3, True),
        ("3.0", 3, True),
        ("True", 1, True),
        ("(1, 2)", [1, 2], True),
        ("[(1, 2)]", [[1, 2]], False),
        ("{1, 2}", [1, 2], False),
        ("{1: 2}.keys()", [1], False),
        ("deque([1])", [1], False),
        ("Counter('a')", {"a": 1}, True),
        ("0.1 + 0.2", 0.3, False),
        ("__import__('decimal').Decimal(3)", 3, True),
        ("__import__('fractions').Fraction(1, 2)", 0.5, True),
        ("__import__('numpy').int64(3)", 3, True),
        ("[__import__('numpy').int32(3)]", [3], True),
        ("__import__('numpy').array([1, 2])", [1, 2], False),
        ("__import__('numpy').array([1])", [1], True),
        (
            "type('Any', (), {'__eq__': lambda *_: True})()",  # the grader passes it
            3,
            False,
        ),
        ("exit()", None, False),
    ],
)
async def test_returned_values_are_equal_as_in_python(
    verifier: ContestVerifier, returned: str, expected: Any, right: bool
) -> None:
    tests = CodeTests("call", (TestCase([1, 2], expected),), "f")
    score = await verifier.judge(method(f"return {returned}"), tests, "t")
    assert score.status == ("correct" if right else "wrong"), score


@pytest.mark.parametrize(
    ("program", "right"),
    [
        ("def f(a, b):\n    return a + b", True),
        (method("return a + b") + "\nif __name__ == '__main__':\n    1 / 0", True),
        (method("self.n = getattr(self, 'n', -1) + 1; return a + b + self.n"), False),
        (method("return a + b") + "\ninput()", False),
        ("class Other:\n    def f(self, a, b):\n        return a + b", False),
    ],
)
async def test_one_instance_of_a_solution_answers_all_tests(
    verifier: ContestVerifier, program: str, right: bool
) -> None:
    score = await verifier.judge(program, ADD, "t")
    assert score.status == ("correct" if right else "wrong"), score


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("while True:\n    pass", "timeout"),
        (
            "try:\n    while True: pass\nexcept Exception: pass\n" + READ + "print(a + b)",
            "wrong",
        ),
        ("import time\ntime.sleep(60)", "timeout"),
        ("x = [0] * 10 ** 10", "wrong"),
        ("import ctypes\nctypes.string_at(0)", "wrong"),
    ],
)
async def test_a_test_that_does_not_end_well_fails(
    verifier: ContestVerifier, program: str, status: str
) -> None:
    assert (await verifier.judge(program, SUM, "t")).status == status


async def test_passed_is_the_share_before_the_first_failure(
    verifier: ContestVerifier,
) -> None:
    count = 2 * TESTS_A_RUN + 3
    cases = tuple(TestCase(f"{i} 1\n", f"{i + 1}\n") for i in range(count))
    tests = CodeTests("stdin", cases)
    assert (await verifier.judge(READ + "print(a + b)", tests, "t")).status == "correct"
    late = await verifier.judge(
        READ + f"print(a + b if a < {count - 1} else 0)", tests, "t"
    )
    assert (late.status, late.parts["passed"]) == ("wrong", (count - 1) / count)
    assert late.detail == f"test {count - 1}: not the expected result"


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("2.0", "2", True),
        ("1 2 3", "1\n2\n3", False),
        ("1\n2\n3\n\n", "1\n2\n3", True),
        ("1  2", "1 2", True),
        ("a  b", "a b", False),
        ("a 1.0", "a 1", False),
        ("1e3", "1000", True),
        ("10000000000000000000001", "10000000000000000000000", False),
        ("nan", "nan", True),
        ("NaN", "nan", False),
        ("sNaN", "1", False),
        ("1\r\n2", "1\n2", True),
    ],
)
async def test_lines_are_equal_as_text_or_as_decimal_numbers(
    found: str, expected: str, same: bool
) -> None:
    assert same_lines(found, expected) is same


class FakeSandbox:
    """Answers with what it was given."""

    def __init__(self, answer: RunResult | Exception) -> None:
        self.answer = answer

    async def run(self, request: RunRequest) -> RunResult:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


FORGED = [None, 7, "3", [], [[]], ["output", "3"], [["output", 3], 4], [["output", None]]]


@pytest.mark.parametrize("value", FORGED, ids=repr)
async def test_whatever_a_program_reports_it_is_never_an_error_or_a_pass(
    value: Any,
) -> None:
    sandbox = FakeSandbox(RunResult("ok", (CaseResult("ok", value=value),)))
    score = await ContestVerifier(sandbox).judge("x", SUM, "t")  # type: ignore[arg-type]
    assert score.status == "wrong"


async def test_what_the_program_is_not_to_blame_for_is_an_error() -> None:
    for failure in (RunResult("error", error="why"), OpenQwQError("why"), OSError("why")):
        sandbox = FakeSandbox(failure)
        score = await ContestVerifier(sandbox).judge("x", SUM, "t")  # type: ignore[arg-type]
        assert (score.status, "why" in score.detail) == ("error", True)
    odd = CodeTests("call", (TestCase("1 2", 3),), "f")
    for tests in (None, CodeTests("stdin"), odd):
        task = Task("t", "k", (), "code", tests=tests)
        scored = await ContestVerifier(sandbox).score(task, "</think>x")  # type: ignore[arg-type]
        assert scored.status == "error"


async def test_a_program_that_needs_numpy_is_an_error_where_there_is_none() -> None:
    async with LocalSandbox(1) as bare:
        score = await ContestVerifier(bare).judge("import numpy", SUM, "t")
    assert (score.status, "numpy" in score.detail) == ("error", True)

"""The code verifier: comparison rules on a fake sandbox, then data sets in the real one.

Every reference solution must pass and no gutted one may, here of a sample; `bench/verify_code.py`
judges all of them with ten mutants each.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from code_sets import SETS, Loader, faulty, gutted, oracle, stdin_sets, verdicts

from openqwq.sandbox.protocol import CaseResult, Limits, RunRequest, RunResult
from openqwq.types import CodeTests, OpenQwQError, Score, Task, TestCase
from openqwq.verify.code import CodeVerifier, agrees

SAMPLE = 8  # of each set
# MBPP's references
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")


def task(tests: CodeTests | None) -> Task:
    return Task("one", "code", (), "code", tests=tests)


class FakeSandbox:
    """Answers every request with what it was given and keeps the last request."""

    def __init__(self, *cases: CaseResult, status: str = "ok", error: str = "") -> None:
        self.result = RunResult(status, cases, error)  # type: ignore[arg-type]
        self.request: RunRequest | None = None

    async def run(self, request: RunRequest) -> RunResult:
        self.request = request
        return self.result

    async def session(self, limits: Limits = Limits()) -> Any:  # noqa: B008
        raise NotImplementedError


async def judge(tests: CodeTests, *cases: CaseResult, status: str = "ok") -> Score:
    sandbox = FakeSandbox(*cases, status=status, error="why")
    return await CodeVerifier(sandbox).score(task(tests), "</think>code")


STDIN = CodeTests("stdin", (TestCase("1\n", "1 2\n3\n"), TestCase("2\n", "4\n")))
CALL = CodeTests("call", (TestCase([1, [2]], [1, [2.5]]),), entry_point="f")


async def test_every_test_must_pass_and_the_fraction_is_only_a_part() -> None:
    right, wrong = CaseResult("ok", "1  2 \n3"), CaseResult("ok", "5")
    good = CaseResult("ok", "4")
    assert await judge(STDIN, right, good) == Score(1.0, "correct", {"passed": 1.0})
    assert await judge(STDIN, right, wrong) == Score(
        0.0, "wrong", {"passed": 0.5}, "test 1: not the expected result"
    )


async def test_call_results_are_compared_as_data() -> None:
    assert (await judge(CALL, CaseResult("ok", value=(1, (2.5,))))).value == 1.0
    assert (await judge(CALL, CaseResult("ok", "[1, [2.5]]", value=None))).value == 0.0
    assert (await judge(CALL, CaseResult("ok", value="[1, [2.5]]"))).value == 0.0


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("timeout", "timeout"),
        ("compile_error", "wrong"),
        ("runtime_error", "wrong"),
        ("memory", "wrong"),
        ("output_limit", "wrong"),
        ("crashed", "wrong"),
        ("error", "error"),
    ],
)
async def test_the_status_says_whose_fault_it_was(status: Any, verdict: str) -> None:
    failed, skipped = CaseResult(status, error="why"), CaseResult("skipped")
    score = await judge(STDIN, failed, skipped, status=status)
    assert (score.value, score.status) == (0.0, verdict)
    assert verdict == "error" or score.parts == {"passed": 0.0}
    assert "why" in score.detail


async def test_a_failing_sandbox_is_an_error_and_never_a_zero() -> None:
    assert (await judge(STDIN, status="error")).status == "error"
    # a result is missing
    assert (await judge(STDIN, CaseResult("ok", "1 2\n3"))).status == "error"
    assert (
        await CodeVerifier(FakeSandbox()).score(task(None), "</think>x")
    ).status == "error"
    no_tests = task(CodeTests("stdin"))
    assert (
        await CodeVerifier(FakeSandbox()).score(no_tests, "</think>x")
    ).status == "error"

    for failure in (
        OpenQwQError("limits.wall_seconds is 99"),
        ConnectionRefusedError("gone"),
    ):

        class Failing(FakeSandbox):
            async def run(self, request: RunRequest) -> RunResult:
                raise failure  # noqa: B023

        score = await CodeVerifier(Failing()).score(task(STDIN), "</think>x")
        assert (score.status, str(failure) in score.detail) == ("error", True)


async def test_only_the_program_after_the_thinking_is_run_and_without_its_expected_output() -> (
    None
):
    sandbox = FakeSandbox(CaseResult("ok", value=[1, [2.5]]))
    limits = Limits(wall_seconds=3)
    verifier = CodeVerifier(sandbox, limits=limits)
    await verifier.score(
        task(CALL), "```python\nbad\n```</think>so\n```python\ngood\n```\n"
    )
    request = sandbox.request
    assert request is not None
    assert (request.source, request.limits, request.stop_early) == ("good\n", limits, True)
    assert "2.5" not in str(request.to_json())
    assert (await verifier.score(task(CALL), "```python\ngood\n```")).status == "truncated"
    plain = CodeVerifier(sandbox, thinking=False)
    assert (await plain.score(task(CALL), "def f(): ...")).status == "correct"
    assert sandbox.request is not None and sandbox.request.source == "def f(): ..."


async def test_an_oversized_program_is_wrong_and_not_dropped_as_an_error() -> None:
    sandbox = FakeSandbox(CaseResult("ok", value=[1, [2.5]]))
    verifier = CodeVerifier(sandbox, thinking=False)
    score = await verifier.score(task(CALL), "x = 1\n" * 200_000)
    assert (score.value, score.status, sandbox.request) == (0.0, "wrong", None)
    assert "longer than" in score.detail


@pytest.mark.parametrize(
    ("found", "expected", "tolerance", "equal"),
    [
        ("1.5", "1.50", None, False),
        ("1.5", "1.50", 0.0, True),
        ("0.333333", "0.3333333", 1e-6, True),
        ("0.3333", "0.3333333", 1e-6, False),
        ("1000001", "1000000", 1e-6, True),
        ("nan", "1.0", 1e-6, False),
        ("inf", "1.0", 1e-6, False),
        ("1e999999999", "1", 1e-6, False),
        ("9007199254740993", "9007199254740992", 0.0, False),
        ("yes", "no", 1e-6, False),
        (0.1 + 0.2, 0.3, None, False),
        (0.1 + 0.2, 0.3, 1e-9, True),
        ([(1, 2)], [[1, 2]], None, True),
        ([1, 2, 3], [1, 2], None, False),
        ({"a": 1}, {"a": 1}, None, True),
        ({"a": 1, "b": 2}, {"a": 1}, None, False),
        ({1, 2}, [1, 2], None, False),
        (None, 0, 1.0, False),
        (1, [1], None, False),
    ],
)
def test_results_agree_exactly_or_within_the_tolerance(
    found: Any, expected: Any, tolerance: float | None, equal: bool
) -> None:
    assert agrees(found, expected, tolerance) is equal


# Data sets in the real sandbox.


def references(load: Loader, data: Path) -> list[tuple[Task, str]]:
    return random.Random(0).sample(list(load(data)), SAMPLE)


@pytest.mark.parametrize("load", SETS)
async def test_sweep_every_reference_solution_passes(load: Loader, data_sets: Path) -> None:
    jobs = references(load, data_sets)
    scores = await verdicts(jobs)
    failed = {
        job[0].id: s for job, s in zip(jobs, scores, strict=True) if s.status != "correct"
    }
    assert not failed


@pytest.mark.parametrize("load", SETS)
async def test_sweep_no_gutted_solution_passes(load: Loader, data_sets: Path) -> None:
    jobs = [
        (task, mutant)
        for task, source in references(load, data_sets)
        for mutant in gutted(source, task.tests.entry_point)
    ]
    scores = await verdicts(jobs)
    alive = [
        job for job, score in zip(jobs, scores, strict=True) if score.status != "wrong"
    ]
    assert not alive


@pytest.mark.parametrize("load", SETS)
async def test_sweep_most_single_faults_fail(load: Loader, data_sets: Path) -> None:
    jobs = [
        (task, mutant)
        for task, source in references(load, data_sets)
        for mutant in faulty(source, 3)
    ]
    counts = Counter(score.status for score in await verdicts(jobs, seconds=2.0))
    assert counts["error"] == 0
    # equivalent mutants, and tests of three asserts
    assert counts["correct"] < 0.25 * len(jobs)


async def test_sweep_sets_without_solutions_pass_an_oracle_and_fail_one_wrong_answer(
    data_sets: Path,
) -> None:
    tasks = list(stdin_sets(data_sets))
    assert {task.kind for task in tasks} == {"code-contests", "livecodebench"}
    assert any(t.tests is not None and t.tests.float_tolerance is not None for t in tasks)
    tasks = random.Random(0).sample(tasks, min(len(tasks), 3 * SAMPLE))
    good = [(task, oracle(task.tests)) for task in tasks if task.tests]
    bad = [(task, oracle(task.tests, "7")) for task in tasks if task.tests]
    scores = await verdicts(good + bad)
    assert [s.status for s in scores[: len(good)]] == ["correct"] * len(good)
    assert [s.status for s in scores[len(good) :]] == ["wrong"] * len(bad)

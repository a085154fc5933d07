"""The code verifier: comparison rules on a fake sandbox, then whole data sets in the real one.

Every reference solution must pass and no gutted one may; `OPENQWQ_FULL_SWEEP=1` judges all
of them and ten mutants each (`pytest tests/verify/test_code.py -k sweep -s`), else a sample.
"""

import ast
import asyncio
import gzip
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sortedcontainers

from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import CaseResult, Limits, RunRequest, RunResult
from openqwq.types import CodeTests, OpenQwQError, Score, Task, TestCase
from openqwq.verify.code import CodeVerifier, agrees

DATA = Path(__file__).parents[2].parent / "shared/data"
FULL = os.environ.get("OPENQWQ_FULL_SWEEP") == "1"
SAMPLE = 10**6 if FULL else 8
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")  # MBPP's references
with_data = pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not here")


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
    assert (await judge(STDIN, CaseResult("ok", "1 2\n3"))).status == "error"  # a result is missing
    assert (await CodeVerifier(FakeSandbox()).score(task(None), "</think>x")).status == "error"
    no_tests = task(CodeTests("stdin"))
    assert (await CodeVerifier(FakeSandbox()).score(no_tests, "</think>x")).status == "error"

    for failure in (OpenQwQError("limits.wall_seconds is 99"), ConnectionRefusedError("gone")):

        class Failing(FakeSandbox):
            async def run(self, request: RunRequest) -> RunResult:
                raise failure  # noqa: B023

        score = await CodeVerifier(Failing()).score(task(STDIN), "</think>x")
        assert (score.status, str(failure) in score.detail) == ("error", True)


async def test_only_the_program_after_the_thinking_is_run_and_without_its_expected_output() -> None:
    sandbox = FakeSandbox(CaseResult("ok", value=[1, [2.5]]))
    limits = Limits(wall_seconds=3)
    verifier = CodeVerifier(sandbox, limits=limits)
    await verifier.score(task(CALL), "```python\nbad\n```</think>so\n```python\ngood\n```\n")
    request = sandbox.request
    assert request is not None
    assert (request.source, request.limits, request.stop_early) == ("good\n", limits, True)
    assert "2.5" not in str(request.to_json())
    assert (await verifier.score(task(CALL), "```python\ngood\n```")).status == "truncated"
    plain = CodeVerifier(sandbox, thinking=False)
    assert (await plain.score(task(CALL), "def f(): ...")).status == "correct"
    assert sandbox.request is not None and sandbox.request.source == "def f(): ..."


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


# Whole data sets in the real sandbox.

LEETCODE_SETUP = """
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from operator import *
from typing import *

inf = float("inf")


class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next


class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val = val
        self.left = left
        self.right = right


def list_node(values):
    head = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head


def is_same_list(a, b):
    while a and b:
        if a.val != b.val:
            return False
        a, b = a.next, b.next
    return not a and not b


def tree_node(values):
    if not values:
        return None
    root = TreeNode(values[0])
    level, rest = collections.deque([root]), collections.deque(values[1:])
    while rest:
        node = level.popleft()
        for side in ("left", "right"):
            if rest and (value := rest.popleft()) is not None:
                setattr(node, side, TreeNode(value))
                level.append(getattr(node, side))
    return root


def is_same_tree(a, b):
    if not a or not b:
        return not a and not b
    return a.val == b.val and is_same_tree(a.left, b.left) and is_same_tree(a.right, b.right)
"""


def rows(name: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def humaneval() -> Iterator[tuple[Task, str]]:
    for row in rows("humaneval/HumanEval.jsonl.gz"):
        head = row["prompt"][: row["prompt"].index(f"def {row['entry_point']}(")]
        script = f"{row['test']}\ncheck({row['entry_point']})"
        tests = CodeTests("script", entry_point=row["entry_point"], script=script, setup=head)
        yield (
            Task(row["task_id"], "humaneval", (), "code", tests=tests),
            row["prompt"] + row["canonical_solution"],
        )


def mbpp(name: str = "mbpp/mbpp.jsonl.gz") -> Iterator[tuple[Task, str]]:
    for row in rows(name):
        asserts = "\n".join(row["test_list"])
        tree = ast.parse(row["code"])
        called = set(re.findall(r"(\w+)\s*\(", asserts))
        defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        entry_point = next(name for name in reversed(defined) if name in called)
        # classes and modules of the reference that the tests use by name
        shared = [ast.unparse(node) for node in tree.body if isinstance(node, ast.ClassDef)]
        shared += ["import sys"] * ("sys." in asserts)
        setup = "\n".join([*shared, row.get("test_setup_code", ""), *row.get("test_imports", [])])
        tests = CodeTests("script", entry_point=entry_point, script=asserts, setup=setup)
        yield Task(f"mbpp-{row['task_id']}", "mbpp", (), "code", tests=tests), row["code"]


def sanitized_mbpp() -> Iterator[tuple[Task, str]]:
    return mbpp("mbpp/sanitized-mbpp.jsonl.gz")


def leetcode() -> Iterator[tuple[Task, str]]:
    for row in rows("code-rl/leetcode.jsonl.gz"):
        method = re.findall(r"check\((Solution\(\)\.\w+)\)", row["test"])[-1]
        tests = CodeTests(
            "script",
            entry_point=method.replace("()", ""),
            script=row["test"],
            setup=LEETCODE_SETUP,
        )
        yield Task(row["id"], "leetcode", (), "code", tests=tests), row["solution"]


def stdin_sets() -> Iterator[Task]:
    """CodeContests and LiveCodeBench, which come without solutions."""
    tolerance = re.compile(r"(?:absolute|relative) error[^.]*?10\^\{-(\d+)\}")
    for row in rows("code-rl/code-contests.jsonl.gz"):
        found = tolerance.search(row["problem"])
        cases = tuple(TestCase(test["input"], test["output"]) for test in row["tests"])
        tests = CodeTests("stdin", cases, float_tolerance=10.0 ** -int(found[1]) if found else None)
        yield Task(row["id"], "code-contests", (), "code", tests=tests)
    for row in rows("livecodebench-v5/problems.jsonl.gz"):
        found = tolerance.search(row["prompt"])
        allowed = 10.0 ** -int(found[1]) if found else None
        pairs = [(test["input"], test["output"]) for test in row["public_tests"]]
        if row["testtype"] == "stdin":
            cases = tuple(TestCase(given, wanted) for given, wanted in pairs)
            tests = CodeTests("stdin", cases, float_tolerance=allowed)
        else:
            cases = tuple(
                TestCase([json.loads(line) for line in given.split("\n")], json.loads(wanted))
                for given, wanted in pairs
            )
            tests = CodeTests("call", cases, f"Solution.{row['fn_name']}")
        yield Task(row["question_id"], "livecodebench", (), "code", tests=tests)


def changed(node: ast.AST) -> ast.AST | None:
    """The node with one small fault, or None where we have none for it."""
    swaps: dict[type, Any] = {
        ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult,
        ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Lt: ast.GtE, ast.GtE: ast.Lt,
        ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
        ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    }  # fmt: skip
    match node:
        case ast.Constant(value=bool(value)):
            return ast.Constant(not value)
        case ast.Constant(value=int(value)):
            return ast.Constant(value + 1)
        case ast.BinOp(left, op, right) if type(op) in swaps:
            return ast.BinOp(left, swaps[type(op)](), right)
        case ast.Compare(left, [op, *rest], others) if type(op) in swaps:
            return ast.Compare(left, [swaps[type(op)](), *rest], others)
        case ast.BoolOp(op, values):
            return ast.BoolOp(swaps[type(op)](), values)
        case ast.Return(value) if value:
            return ast.Pass()
    return None


class OneFault(ast.NodeTransformer):
    """Puts a fault into the `site`-th node that can take one."""

    def __init__(self, site: int) -> None:
        self.site, self.seen = site, -1

    def visit(self, node: ast.AST) -> Any:
        if (fault := changed(node)) is not None:
            self.seen += 1
            if self.seen == self.site:
                return ast.copy_location(fault, node)
        return self.generic_visit(node)


def faulty(source: str, count: int) -> list[str]:
    """Up to `count` mutants of a program, each with one fault."""
    sites = sum(changed(node) is not None for node in ast.walk(ast.parse(source)))
    chosen = random.Random(source).sample(range(sites), min(count, sites))
    trees = [OneFault(site).visit(ast.parse(source)) for site in chosen]
    return [ast.unparse(ast.fix_missing_locations(tree)) for tree in trees]


def gutted(source: str, entry_point: str) -> list[str]:
    """The program with its tested function emptied in four ways."""
    mutants = []
    for body in ("pass", "return None", "raise ValueError", "return 'mutant'"):
        tree = ast.parse(source)
        *_, function = (
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == entry_point.split(".")[-1]
        )
        function.body = ast.parse(body).body
        mutants.append(ast.unparse(tree))
    return mutants


Loader = Callable[[], Iterator[tuple[Task, str]]]
SETS: list[Loader] = [humaneval, mbpp, sanitized_mbpp, leetcode]

# References that cannot pass: what they take or return is not data and cannot leave the sandbox.
UNSUPPORTED = {
    ("mbpp", "mbpp-533"): "takes the type int as an argument",
    ("sanitized_mbpp", "mbpp-737"): "returns a re.Match",
    ("sanitized_mbpp", "mbpp-787"): "returns a re.Match",
    ("sanitized_mbpp", "mbpp-794"): "returns a re.Match",
}


def references(load: Loader) -> list[tuple[Task, str]]:
    every = [job for job in load() if (load.__name__, job[0].id) not in UNSUPPORTED]
    return random.Random(0).sample(every, min(SAMPLE, len(every)))


async def verdicts(jobs: list[tuple[Task, str]], seconds: float = 10.0) -> list[Score]:
    limits = Limits(wall_seconds=seconds, cpu_seconds=seconds)
    packages = str(Path(sortedcontainers.__file__).parents[1])  # two LeetCode references use it
    async with LocalSandbox(packages=packages) as sandbox:
        verifier = CodeVerifier(sandbox, thinking=False, limits=limits)
        fenced = [(task, f"```python\n{source}\n```") for task, source in jobs]
        return list(await asyncio.gather(*(verifier.score(*job) for job in fenced)))


@with_data
@pytest.mark.parametrize("load", SETS)
async def test_sweep_every_reference_solution_passes(load: Loader) -> None:
    jobs = references(load)
    scores = await verdicts(jobs)
    failed = {job[0].id: s for job, s in zip(jobs, scores, strict=True) if s.status != "correct"}
    assert not failed


@with_data
@pytest.mark.parametrize("load", SETS)
async def test_sweep_no_gutted_solution_passes(load: Loader) -> None:
    jobs = [
        (task, mutant)
        for task, source in references(load)
        for mutant in gutted(source, task.tests.entry_point)
    ]
    scores = await verdicts(jobs)
    alive = [job for job, score in zip(jobs, scores, strict=True) if score.status != "wrong"]
    assert not alive


@with_data
@pytest.mark.parametrize("load", SETS)
async def test_sweep_most_single_faults_fail(load: Loader) -> None:
    jobs = [
        (task, mutant)
        for task, source in references(load)
        for mutant in faulty(source, 10 if FULL else 3)
    ]
    counts = Counter(score.status for score in await verdicts(jobs, seconds=2.0))
    print(f"{load.__name__}: {len(jobs)} mutants: {dict(counts)}")
    assert counts["error"] == 0
    assert counts["correct"] < 0.25 * len(jobs)  # equivalent mutants, and tests of three asserts


def oracle(tests: CodeTests, shift: str = "") -> str:
    """A program that knows the answers; with `shift`, one that gets the last of them wrong."""
    table = [(case.input, case.expected) for case in tests.cases]
    if tests.form == "stdin":
        answers = dict(table)
        answers[table[-1][0]] += shift
        return f"import sys\nprint({answers!r}[sys.stdin.read()])"
    answers = {json.dumps(given): wanted for given, wanted in table}
    if shift:
        answers[json.dumps(table[-1][0])] = [answers[json.dumps(table[-1][0])]]
    method = (tests.entry_point or "").split(".")[1]
    body = f"        return {answers!r}[json.dumps(list(arguments))]"
    return f"import json\nclass Solution:\n    def {method}(self, *arguments):\n{body}"


@with_data
async def test_sweep_sets_without_solutions_pass_an_oracle_and_fail_one_wrong_answer() -> None:
    tasks = list(stdin_sets())
    assert Counter(task.kind for task in tasks) == {"code-contests": 165, "livecodebench": 279}
    assert sum(t.tests is not None and t.tests.float_tolerance is not None for t in tasks) == 4
    tasks = random.Random(0).sample(tasks, min(3 * SAMPLE, len(tasks)))
    good = [(task, oracle(task.tests)) for task in tasks if task.tests]
    bad = [(task, oracle(task.tests, "7")) for task in tasks if task.tests]
    scores = await verdicts(good + bad)
    assert [s.status for s in scores[: len(good)]] == ["correct"] * len(good)
    assert [s.status for s in scores[len(good) :]] == ["wrong"] * len(bad)

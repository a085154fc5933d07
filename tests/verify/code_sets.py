"""The code data sets as tasks with their reference solutions, and faults to put into those."""

import ast
import asyncio
import json
import random
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from set_rows import rows

from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import Limits
from openqwq.tasks.leetcode import LEETCODE_SETUP
from openqwq.types import CodeTests, Score, Task, TestCase
from openqwq.verify.code import CodeVerifier


def parsed(source: str) -> ast.Module:
    """Parse a trusted program; Python 3.14 warns of strings such as "\\*", which MBPP has."""
    with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
        return ast.parse(source)


def humaneval(data: Path) -> Iterator[tuple[Task, str]]:
    for row in rows(data, "humaneval/HumanEval"):
        head = row["prompt"][: row["prompt"].index(f"def {row['entry_point']}(")]
        script = f"{row['test']}\ncheck({row['entry_point']})"
        tests = CodeTests(
            "script", entry_point=row["entry_point"], script=script, setup=head
        )
        yield (
            Task(row["task_id"], "humaneval", (), "code", tests=tests),
            row["prompt"] + row["canonical_solution"],
        )


def mbpp(data: Path, name: str = "mbpp/mbpp") -> Iterator[tuple[Task, str]]:
    for row in rows(data, name):
        asserts = "\n".join(row["test_list"])
        tree = parsed(row["code"])
        called = set(re.findall(r"(\w+)\s*\(", asserts))
        defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        entry_point = next(name for name in reversed(defined) if name in called)
        # classes and modules of the reference that the tests use by name
        shared = [ast.unparse(node) for node in tree.body if isinstance(node, ast.ClassDef)]
        shared += ["import sys"] * ("sys." in asserts)
        setup = "\n".join(
            [*shared, row.get("test_setup_code", ""), *row.get("test_imports", [])]
        )
        tests = CodeTests("script", entry_point=entry_point, script=asserts, setup=setup)
        yield Task(f"mbpp-{row['task_id']}", "mbpp", (), "code", tests=tests), row["code"]


def sanitized_mbpp(data: Path) -> Iterator[tuple[Task, str]]:
    return mbpp(data, "mbpp/sanitized-mbpp")


def leetcode(data: Path) -> Iterator[tuple[Task, str]]:
    for row in rows(data, "code-rl/leetcode"):
        method = re.findall(r"check\((Solution\(\)\.\w+)\)", row["test"])[-1]
        tests = CodeTests(
            "script",
            entry_point=method.replace("()", ""),
            script=row["test"],
            setup=LEETCODE_SETUP,
        )
        yield Task(row["id"], "leetcode", (), "code", tests=tests), row["solution"]


def stdin_sets(data: Path) -> Iterator[Task]:
    """CodeContests and LiveCodeBench, which come without solutions."""
    tolerance = re.compile(r"(?:absolute|relative) error[^.]*?10\^\{-(\d+)\}")
    for row in rows(data, "code-rl/code-contests"):
        found = tolerance.search(row["problem"])
        cases = tuple(TestCase(test["input"], test["output"]) for test in row["tests"])
        tests = CodeTests(
            "stdin", cases, float_tolerance=10.0 ** -int(found[1]) if found else None
        )
        yield Task(row["id"], "code-contests", (), "code", tests=tests)
    for row in rows(data, "livecodebench-v5/problems"):
        found = tolerance.search(row["prompt"])
        allowed = 10.0 ** -int(found[1]) if found else None
        pairs = [(test["input"], test["output"]) for test in row["public_tests"]]
        if row["testtype"] == "stdin":
            cases = tuple(TestCase(given, wanted) for given, wanted in pairs)
            tests = CodeTests("stdin", cases, float_tolerance=allowed)
        else:
            cases = tuple(
                TestCase(
                    [json.loads(line) for line in given.split("\n")], json.loads(wanted)
                )
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
    sites = sum(changed(node) is not None for node in ast.walk(parsed(source)))
    chosen = random.Random(source).sample(range(sites), min(count, sites))
    trees = [OneFault(site).visit(parsed(source)) for site in chosen]
    return [ast.unparse(ast.fix_missing_locations(tree)) for tree in trees]


def gutted(source: str, entry_point: str) -> list[str]:
    """The program with its tested function emptied in four ways."""
    mutants = []
    for body in ("pass", "return None", "raise ValueError", "return 'mutant'"):
        tree = parsed(source)
        *_, function = (
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == entry_point.split(".")[-1]
        )
        function.body = parsed(body).body
        mutants.append(ast.unparse(tree))
    return mutants


Loader = Callable[[Path], Iterator[tuple[Task, str]]]
SETS: list[Loader] = [humaneval, mbpp, sanitized_mbpp, leetcode]


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


async def verdicts(jobs: list[tuple[Task, str]], seconds: float = 10.0) -> list[Score]:
    limits = Limits(wall_seconds=seconds, cpu_seconds=seconds)
    # two LeetCode references use it
    async with LocalSandbox(packages=["sortedcontainers"]) as sandbox:
        verifier = CodeVerifier(sandbox, thinking=False, limits=limits)
        fenced = [(task, f"```python\n{source}\n```") for task, source in jobs]
        return list(await asyncio.gather(*(verifier.score(*job) for job in fenced)))

"""Tests of users in many forms are judged right, and a failure of theirs is never the program's."""

import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from openqwq.sandbox.local import LocalSandbox
from openqwq.types import CodeTests, Score, Task
from openqwq.verify.code import CodeVerifier

pytestmark = pytest.mark.asyncio(loop_scope="module")
TRIALS = tomllib.loads(Path(__file__).with_name("scripts.toml").read_text(encoding="utf-8"))
ADD = "def add(a, b):\n    return a + b\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verifier() -> AsyncIterator[CodeVerifier]:
    async with LocalSandbox(1) as sandbox:
        yield CodeVerifier(sandbox, thinking=False)


async def judge(
    verifier: CodeVerifier,
    script: str,
    program: str,
    entry_point: str = "add",
    **fields: Any,
) -> Score:
    tests = CodeTests("script", entry_point=entry_point, script=script, **fields)
    task = Task("t", "k", (), "code", tests=tests)
    return await verifier.score(task, f"```python\n{program}\n```")


@pytest.mark.parametrize("trial", TRIALS["trial"], ids=lambda trial: trial["script"][:60])
async def test_every_form_of_test_gets_its_verdict(
    verifier: CodeVerifier, trial: dict[str, str]
) -> None:
    entry_point = trial["entry_point"]
    score = await judge(verifier, trial["script"], trial["program"], entry_point)
    assert score.status == trial["expected"], score
    assert score.value == float(trial["expected"] == "correct")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("x = (", "cannot be compiled"),
        (
            "import pytest\nassert add(1, 2) == 3",
            "import 'pytest', which is not in the sandbox",
        ),
        ("assert ad(1, 2) == 3", "name 'ad', which neither they nor the program define"),
        (
            "int('x')\nassert add(1, 2) == 3",
            "fail before they call the program: ValueError",
        ),
        ("def helper():\n    assert add(1, 2) == 3", "never call the program"),
        (
            "def test_a(tmp_path):\n    assert add(1, 2) == 3",
            "needs the fixture 'tmp_path'",
        ),
        (
            "from unittest.mock import patch\nwith patch('os.getcwd'): add(1, 2)",
            "patch 'os.getcwd'",
        ),
    ],
)
async def test_what_is_wrong_with_tests_is_named(
    verifier: CodeVerifier, script: str, reason: str
) -> None:
    for program in (ADD, ADD.replace("+", "-")):
        score = await judge(verifier, script, program)
        assert (score.status, reason in score.detail) == ("error", True), score


async def test_a_setup_that_fails_is_an_error(verifier: CodeVerifier) -> None:
    score = await judge(verifier, "assert add(1, 2) == 3", ADD, setup="import nothing_such")
    assert (score.status, "the setup fails" in score.detail) == ("error", True), score


HOSTILE = [
    "class add:\n    def __init__(self, *a): pass\n    __eq__ = lambda self, other: True",
    "class E:\n    __eq__ = lambda self, other: True\nadd = lambda a, b: E()",
    "class E:\n    __sub__ = __lt__ = __eq__ = lambda self, other: True\nadd = lambda a, b: E()",
    "def add(a, b): raise StopIteration",
    "class AssertionError(Exception): pass\ndef add(a, b): raise AssertionError",
    "class SkipTest(Exception): pass\ndef add(a, b): raise SkipTest('no')",
    "import unittest\ndef add(a, b): raise unittest.SkipTest('no')",
    "import os\ndef add(a, b): os._exit(0)",
    "def add(a, b): raise SystemExit(0)",
    "import builtins\nbuiltins.input = print\ndef add(a, b): return type(a)",
    "import sys\nfrom openqwq.sandbox import served\nserved.Served.answer = lambda *a: "
    "['value', [[0], [['far', 0, 'function', 'x']]], [], '']\ndef add(a, b): return 3",
    "import sys\nfrom openqwq.sandbox import served\nserved.Served.answer = lambda *a: "
    "['value', [[0], [['far', 0, 'instance', 'x']]], [], '']\ndef add(a, b): return 3",
    "from openqwq.sandbox import served\nserved.Served.answer = lambda *a: "
    "['back', 0, [[0], [['tuple', [1], [2]], ['tuple'], ['dict']]]]\ndef add(a, b): return 3",
]
FORMS = [
    "assert add(1, 2) == 4",
    "assert abs(add(1, 2) - 4) < 1e-6",
    "def test_add():\n    assert add(1, 2) == 4",
    "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
    "        self.assertEqual(add(1, 2), 4)",
    "assert all(map(lambda pair: add(*pair) == 4, [(1, 2)]))",
    "try:\n    assert add(1, 2) == 4\nexcept Exception:\n    raise AssertionError",
]


@pytest.mark.parametrize("script", FORMS)
@pytest.mark.parametrize("program", HOSTILE)
async def test_no_hostile_program_passes_or_is_dropped(
    verifier: CodeVerifier, program: str, script: str
) -> None:
    score = await judge(verifier, script, program)
    assert score.status in ("wrong", "timeout"), score


async def test_an_object_that_claims_to_be_the_expected_data_does_not_pass(
    verifier: CodeVerifier,
) -> None:
    program = (
        "class Any:\n    __eq__ = __lt__ = __sub__ = lambda self, other: True\n"
        "class Stack:\n    def push(self, x): pass\n    def pop(self): return Any()"
    )
    for check in ("s.pop() == 3", "s.pop() - 3 == True", "s.pop() < 3", "3 == s.pop()"):
        script = f"s = Stack()\ns.push(1)\nassert {check}"
        score = await judge(verifier, script, program, "Stack")
        assert score.status in ("wrong", "error"), (check, score)

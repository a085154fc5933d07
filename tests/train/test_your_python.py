"""A user's own judge: what it may be, and what becomes of every value and exception."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from openqwq.config import SandboxConfig
from openqwq.train.judges import Bench
from openqwq.train.your_python import UserJudge, check_judge_function
from openqwq.types import OpenQwQError, Score, Task

TASK = Task("sums:1", "sums", (), "mine")
SOURCE = """
import asyncio, functools, time
from fractions import Fraction
from openqwq.types import Score

class Plain:
    def __call__(self, task, completion): return 0.5

class Awaited:
    async def __call__(self, task, completion, **more): return 0.5

class Scale:
    def __init__(self, scale): self.scale = scale
    def __call__(self, task, completion): return self.scale

made = Scale(0.5)
partial = functools.partial(lambda weight, task, completion: weight, 0.5)
def keywords(**given): return 0.5 * ("task" in given)
def swapped(completion, task): return 0.5 * (task.id == "sums:1")
def fraction(task, completion): return Fraction(1, 2)

def text(task, completion): return "0.5"
def huge(task, completion): return 10**400
def nan(task, completion): return float("nan")
def nothing(task, completion): return None
def no_status(task, completion): return Score(0.5, "right")
def stops(task, completion): raise StopIteration
def leaves(task, completion): raise SystemExit(3)
async def blocks(task, completion): time.sleep(0.5)
async def hangs(task, completion): await asyncio.Event().wait()

def third(task, completion, another): return 0.5
def lone(completion): return 0.5
number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    "name",
    ["Plain", "Awaited", "made", "partial", "keywords", "swapped", "fraction"],
)
async def test_a_function_class_object_or_partial_is_a_judge(file: Path, name: str) -> None:
    check_judge_function(f"{file}:{name}")
    score = await UserJudge(f"{file}:{name}", 5.0).score(TASK, "reply")
    assert score == Score(0.5, "scored"), score.detail


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text", "returned '0.5': return a number"),
        ("huge", "returned inf: return a finite number"),
        ("nan", "returned nan: return a finite number"),
        ("nothing", "returned None: return a number"),
        ("no_status", "status 'right': it must be one of correct, wrong"),
        ("stops", "StopIteration"),
        ("leaves", "SystemExit: 3"),
        ("blocks", "took more than 0.1 s"),
        ("hangs", "took more than 0.1 s"),
    ],
)
async def test_what_is_no_reward_is_an_error_that_says_why(
    file: Path, name: str, said: str
) -> None:
    score = await UserJudge(f"{file}:{name}", 0.1).score(TASK, "reply")
    assert (score.status, score.value) == ("error", 0.0)
    assert said in score.detail


async def test_each_stage_waits_as_long_as_it_says(file: Path) -> None:
    async with AsyncExitStack() as stack:
        bench = Bench(SandboxConfig(), stack, reward_seconds=60.0)
        hangs = await bench.verifier(f"{file}:hangs", 0.1)
        again = await bench.verifier(f"{file}:hangs", 0.2)
        assert "more than 0.1 s" in (await hangs.score(TASK, "reply")).detail
        assert "more than 0.2 s" in (await again.score(TASK, "reply")).detail


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("third", "it takes (task, completion, another)"),
        ("lone", "it takes (completion)"),
        ("number", "is 3, not a function"),
        ("Scale", "cannot be made without arguments"),
    ],
)
def test_what_cannot_be_called_is_refused_before_the_run(
    file: Path, name: str, said: str
) -> None:
    with pytest.raises(OpenQwQError) as raised:
        check_judge_function(f"{file}:{name}")
    assert said in str(raised.value)

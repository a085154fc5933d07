"""The accuracy verifier agrees with the table, cannot be hung, and loses no answer."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import math_verify
import pytest
from latex2sympy2_extended.latex2sympy2 import latex2sympy
from sympy import Rational

from openqwq.types import Score, Task
from openqwq.verify import math_worker
from openqwq.verify.math import MathVerifier
from openqwq.verify.math_quantities import Level

ROWS = Path(__file__).with_name("math_rows.txt")
TABLE = Path(__file__).parents[1] / "data/math-equivalence/cases.jsonl"

# Every case whose upstream verdict we do not share: our verdict and why.
DIFFERENT = {
    "eq-127": (
        False,
        "0.33 is not 1/3: upstream compares to 2 decimal places here, we to 4 or 6",
    ),
    "eq-181": (
        True,
        "x in [-2, 7] is -2 <= x <= 7; the same pair is eq-180, where upstream agrees",
    ),
}


def task(answer: str | None) -> Task:
    return Task("one", "math", (), "math", answer=answer)


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    """One verifier for all tests, so each test also uses it from an event loop of its own."""
    with closing(MathVerifier(thinking=False, deadline=2.0)) as verifier:
        yield verifier


async def judge(verifier: MathVerifier, gold: str, answer: str) -> Score:
    return await verifier.score(task(gold), answer)


async def test_every_case_of_the_table_gets_its_verdict(verifier: MathVerifier) -> None:
    rows = [json.loads(line) for line in TABLE.read_text().strip().split("\n")]
    rows = [row for row in rows if "doubtful" not in (row["note"] or "")]
    assert len(rows) == 178
    scores = await asyncio.gather(
        *(judge(verifier, r["gold"], r["prediction"]) for r in rows)
    )
    for row, score in zip(rows, scores, strict=True):
        expected = DIFFERENT.get(row["id"], (row["expected"], ""))[0]
        status = "correct" if expected else "wrong"
        assert (score.value, score.status) == (float(expected), status), row
    by_id = {row["id"]: row["expected"] for row in rows}
    assert all(by_id[name] != verdict for name, (verdict, _) in DIFFERENT.items())


def own_rows() -> list[tuple[str, str, str]]:
    """Verdict, gold and answer of each of our own rows."""
    found = []
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            expected, gold, answer = line.split(" | ", 2)
            found.append((expected, gold, answer))
    return found


@pytest.mark.parametrize(("expected", "gold", "answer"), own_rows())
async def test_every_kind_of_answer_gets_its_verdict(
    verifier: MathVerifier, expected: str, gold: str, answer: str
) -> None:
    score = await judge(verifier, gold, answer)
    assert (score.status, score.value) == (expected, float(expected == "correct")), score


async def test_no_row_is_judged_worse_than_by_plain_math_verify(
    verifier: MathVerifier,
) -> None:
    rows = [json.loads(line) for line in TABLE.read_text().strip().split("\n")]
    jobs = [(row["expected"], row["gold"], row["prediction"], row["id"]) for row in rows]
    jobs += [
        (expected == "correct", gold, answer, "") for expected, gold, answer in own_rows()
    ]
    worse = []
    for expected, gold, answer, name in jobs:
        theirs = plain_verdict(gold, answer)
        ours = (await judge(verifier, gold, answer)).status == "correct"
        if theirs == expected and ours != expected and name not in DIFFERENT:
            worse.append((gold, answer))
    assert not worse


def plain_verdict(gold: str, answer: str) -> bool:
    """What math-verify says as it comes."""
    readings = [math_verify.parse(text, parsing_timeout=0) for text in (gold, answer)]
    return math_verify.verify(readings[0], readings[1], timeout_seconds=0)


@pytest.mark.parametrize(
    ("gold", "answer", "verdicts"),  # strict, default, lenient
    [
        ("5\\%", "\\boxed{5}", "wrong wrong correct"),
        ("5\\%", "\\boxed{5\\%}", "correct correct correct"),
        ("5\\%", "\\boxed{0.05}", "correct correct wrong"),
        ("12 \\text{ cm}", "\\boxed{12}", "wrong correct correct"),
        ("12 \\text{ cm}", "\\boxed{12 \\text{ m}}", "wrong wrong correct"),
        ("18", "\\boxed{18 \\text{ eggs}}", "wrong correct correct"),
        ("1, 2", "\\boxed{2, 1}", "wrong correct correct"),
        ("(1, 2)", "\\boxed{(2, 1)}", "wrong wrong correct"),
        ("\\{1, 2\\}", "\\boxed{(1, 2)}", "wrong wrong correct"),
        ("\\frac{1}{3}", "\\boxed{0.333333}", "wrong correct correct"),
        ("\\frac{1}{2}", "\\boxed{0.5}", "correct correct correct"),
        ("x^2 - 1", "\\boxed{(x-1)(x+1)}", "correct correct correct"),
        ("7", "\\boxed{8}", "wrong wrong wrong"),
    ],
)
def test_levels_differ_in_units_percent_order_and_rounding(
    gold: str, answer: str, verdicts: str
) -> None:
    levels: list[Level] = ["strict", "default", "lenient"]
    found = [math_worker.judge(gold, answer, level)[0] for level in levels]
    assert found == verdicts.split()


BROKEN = [
    "\0",
    "7\0",
    "\ud800",
    "\\boxed{\ud800}",
    "\x1b[2J",
    "\\boxed{\0}",
    "\u202e7",
    "\\",
]


@pytest.mark.parametrize("answer", BROKEN, ids=repr)
async def test_an_answer_of_broken_text_is_wrong_and_never_an_error(
    verifier: MathVerifier, answer: str
) -> None:
    assert (await judge(verifier, "8", answer)).status == "wrong"
    assert (await judge(verifier, "New York", answer)).status == "wrong"


@pytest.mark.parametrize("gold", ["\0", "\ud800", "\\frac{", "?!"], ids=repr)
async def test_a_gold_of_broken_text_is_an_error(verifier: MathVerifier, gold: str) -> None:
    assert (await judge(verifier, gold, "\\boxed{7}")).status == "error"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "42"),
        ("42", "The answer is $41+1$."),
        ("42", "**42**"),
        ("42", "Answer: 42"),
        ("7", "\\boxed{ 007 }"),
        ("0", "-0"),
        ("5", "\\boxed{3}, no: \\boxed{5}"),
        ("5", "\\boxed{\\boxed{5}}"),
        ("5", "so \\boxed{5"),
        ("\\frac{a^{2}}{b}", "$x$ is \\boxed{\\frac{a^{2}}{b}} for $b \\ne 0$"),
        ("\\{1, 2\\}", "\\boxed{1} or \\boxed{2}"),
        ("1024", "2**10"),
        ("\\sqrt{2}", "1.41421"),
        ("\\frac{1}{12}", "0.08333"),
        ("Let x be 3. So it is $\\boxed{3}$.", "3"),
        ("10^{10^{10}}", "$10^{10^{10}}$"),
        ("6", "\\boxed{2(3)}"),
        ("6", "\\boxed{(-2) (-3)}"),
    ],
)
async def test_an_equal_answer_is_correct(
    verifier: MathVerifier, gold: str, answer: str
) -> None:
    assert await judge(verifier, gold, answer) == Score(1.0, "correct")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "43"),
        ("42", "\\boxed{43}, though 42 is close"),
        ("11", "\\boxed{11} was my first guess, but it is \\boxed{12}"),
        ("2", "\\boxed{1}, \\boxed{2}"),
        ("2", "2 sin x"),
        ("1", "\\boxed{}"),
        ("1", ""),
        ("1", "I do not know."),
        ("\\frac{1}{3}", "0.33"),
        ("5", "\\infty"),
        ("10**10", "$10^{11}$"),
        ("5", "\\boxed{2(3)}"),
        ("3", "\\boxed{2 \\text{ (or 3)}}"),
        ("2", "\\boxed{2 \\text{ or } 3}"),
        ("2", "\\boxed{\\{1, 2, 3\\}}"),
        ("2", "\\boxed{[0, 100]}"),
        ("2", "\\boxed{\\frac{0}{0}}"),
        ("2", "\\boxed{x = x}"),
        ("2", "\\boxed{\\pm 2}"),
        ("A", "\\boxed{A, B, C, D}"),
    ],
)
async def test_any_other_answer_is_wrong(
    verifier: MathVerifier, gold: str, answer: str
) -> None:
    score = await judge(verifier, gold, answer)
    assert (score.value, score.status) == (0.0, "wrong")


HOSTILE = {
    "tower": "10**10**10",
    "LaTeX tower": "$10^{10^{10}}$",
    "nested powers": "5^(5^(5^(5^5)))",
    "negative tower": "$2^{-10^{12}}$",
    "huge decimal power": "$0.5^{10^{12}}$",
    "factorial": "$100000000!$",
    "digits": "9" * 100_000,
    "parentheses": "(" * 50_000 + "1" + ")" * 50_000,
    "open braces": "{" * 30_000,
    "minus signs": "-" * 30_000 + "1",
    "long sum": "$\\sum_{i=1}^{10^9} \\sin(i)$",
    "binomial": "$\\binom{10^9}{5\\cdot 10^8}$",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_answer_ends_as_timeout_within_the_deadline(
    verifier: MathVerifier, name: str
) -> None:
    start = time.monotonic()
    score = await judge(verifier, "7", HOSTILE[name])
    assert (score.value, score.status) == (0.0, "timeout")
    assert time.monotonic() - start < 40  # two CPU seconds and a start, on a busy machine


async def test_no_answer_is_lost_or_changed_by_hostile_neighbours() -> None:
    bad = ["$10^{10^{10}}$", "9" * 100_000, "$\\sum_{i=1}^{10^9} \\sin(i)$"]
    answers = [bad[i // 500] if i % 500 == 0 else f"${i}$" for i in range(1500)]
    async with MathVerifier(thinking=False, deadline=0.7) as verifier:
        golds = (f"{i + i % 2}" for i in range(len(answers)))
        pending = [judge(verifier, g, a) for g, a in zip(golds, answers, strict=True)]
        scores = await asyncio.gather(*pending)
    for number, (answer, score) in enumerate(zip(answers, scores, strict=True)):
        usual = "wrong" if number % 2 else "correct"
        assert score.status == ("timeout" if answer in bad else usual), (
            number,
            answer[:40],
        )


async def test_the_deadline_holds_while_the_event_loop_is_blocked(
    verifier: MathVerifier,
) -> None:
    pending = asyncio.create_task(judge(verifier, "$\\frac{1}{7}$", "$\\frac{2}{14}$"))
    await asyncio.sleep(0.01)
    time.sleep(2.5)  # a training step; the answer is ready long before the loop looks
    assert (await pending).status == "correct"


async def test_thinking_is_never_read_and_must_end() -> None:
    with closing(MathVerifier()) as verifier:
        assert (await verifier.score(task("7"), "\\boxed{8}</think>7")).status == "correct"
        assert (await verifier.score(task("8"), "\\boxed{8}</think>7")).status == "wrong"
        assert await verifier.score(task("8"), "\\boxed{8}") == Score(
            0.0, "truncated", detail="no </think>"
        )


@pytest.mark.parametrize("gold", [None, " ", "$10^{10^{10}}$", "?!"])
async def test_a_useless_gold_is_an_error_and_never_a_zero(
    verifier: MathVerifier, gold: str | None
) -> None:
    score = await verifier.score(task(gold), "$\\frac{1}{2}$")
    assert score.status == "error"
    assert "gold" in score.detail


def workers(parent: int | None = None) -> set[int]:
    """The math workers below a process, this one by default, seen from outside."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (path / "cmdline").read_bytes().split(b"\0")
            above = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if b"openqwq.verify.math_worker" in words and above == (parent or os.getpid()):
                found.add(int(path.name))
    return found


async def only_worker(verifier: MathVerifier, others: set[int]) -> int:
    """The one worker of a verifier, after a first judgement."""
    assert (await judge(verifier, "$1/2$", "0.5")).status == "correct"
    (pid,) = workers() - others
    return pid


async def test_a_worker_that_dies_gives_an_error_and_is_replaced() -> None:
    others = workers()
    with closing(MathVerifier(thinking=False, workers=1)) as verifier:
        first = await only_worker(verifier, others)
        os.kill(first, signal.SIGSEGV)
        score = await judge(verifier, "$1/2$", "0.5")
        assert (score.status, score.detail) == ("error", "the worker ended with status -11")
        assert await only_worker(verifier, others) != first


async def test_a_stopped_worker_cannot_hang_the_verifier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openqwq.verify.workers.PATIENCE", 12.0)
    others = workers()
    with closing(MathVerifier(thinking=False, workers=1, deadline=0.5)) as verifier:
        first = await only_worker(verifier, others)
        os.kill(first, signal.SIGSTOP)
        assert (await judge(verifier, "$1/2$", "0.5")).status == "error"
        assert await only_worker(verifier, others) != first


async def test_a_worker_that_grew_is_replaced_and_no_other_is() -> None:
    others, large = workers(), b"x" * (300 * 2**20)  # our own memory is not the worker's
    with closing(MathVerifier(thinking=False, workers=1, memory=400 * 2**20)) as small:
        first = await only_worker(small, others)
        assert await only_worker(small, others) == first
    assert len(large) > 200 * 2**20
    with closing(MathVerifier(thinking=False, workers=1, memory=110 * 2**20)) as tiny:
        # the libraries alone take half of that, so the next one is fresh
        for _ in range(2):
            assert (await judge(tiny, "$1/2$", "0.5")).status == "correct"
            assert workers() <= others


def test_workers_end_with_their_parent() -> None:
    program = """
import asyncio
from openqwq.types import Task
from openqwq.verify.math import MathVerifier
verifier = MathVerifier(thinking=False, workers=1)
score = asyncio.run(verifier.score(Task("t", "k", (), "math", answer="$1/2$"), "0.5"))
print(score.status, flush=True)
input()
import os
os._exit(1)
"""
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], **piped) as parent:
        assert parent.stdout and parent.stdin
        assert parent.stdout.readline() == "correct\n"
        (pid,) = workers(parent.pid)
        parent.stdin.write("\n")
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"worker {pid} outlives its parent")


def test_percentages_are_read_with_the_parser_for_antlr_4_9(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(math_worker.PSParser.AtomContext, "FUNC_GAMMA", raising=False)
    with pytest.raises(AttributeError, match="FUNC_GAMMA"):
        latex2sympy(r"28\%")
    math_worker.complete_grammar()
    assert latex2sympy(r"28\%").doit() == Rational(28, 100)

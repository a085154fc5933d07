"""Rules on the thinking: each can be broken alone, and then the answer is worth nothing."""

import asyncio

import pytest

from openqwq.types import Score, ScoreStatus, Task
from openqwq.verify.thinking import ThinkingRules, language_consistency

TASK = Task("t", "k", (), "instructions")


class Always:
    def __init__(self, value: float = 1.0, status: ScoreStatus = "correct") -> None:
        self.verdict = Score(value, status, {"rule": 1.0})

    async def score(self, task: Task, completion: str) -> Score:
        return self.verdict


def judge(completion: str, judge: Always | None = None) -> Score:
    rules = ThinkingRules(judge or Always(), limit=6)
    return asyncio.run(rules.score(TASK, completion))


def test_thinking_in_order_leaves_the_verdict_as_it_is() -> None:
    score = judge("1 sun 2 moon\n</think>\n\nsun moon")
    assert (score.value, score.status) == (1.0, "correct")
    assert score.parts == {"rule": 1.0, "format": 1.0, "language": 1.0, "budget": 1.0}


@pytest.mark.parametrize(
    ("completion", "broken"),
    [
        ("</think>\n\nsun moon", "format"),  # empty thinking
        (" \n</think>\n\nsun moon", "format"),
        ("plan\n</think>\n\n  ", "format"),  # no answer
        ("plan\n</think>\n\nsun</think>moon", "format"),  # the end twice
        ("<tool_call>\n</think>\n\nsun", "format"),
        ("一 太阳 二\n</think>\n\nsun moon", "language"),
        ("sun солнце\n</think>\n\nsun moon", "language"),
        ("one two three four five six seven\n</think>\n\nsun", "budget"),
    ],
)
def test_each_rule_broken_alone_makes_the_answer_worthless(
    completion: str, broken: str
) -> None:
    score = judge(completion)
    assert (score.value, score.status) == (0.0, "wrong")
    assert [name for name, held in score.parts.items() if not held] == [broken]
    assert broken in score.detail


def test_a_smaller_penalty_takes_its_share_and_leaves_the_status() -> None:
    rules = ThinkingRules(Always(0.8), limit=6, penalty=0.25)
    score = asyncio.run(rules.score(TASK, "</think>\n\nsun moon"))
    assert (round(score.value, 9), score.status) == (0.6, "correct")


@pytest.mark.parametrize("status", ["error", "truncated"])
def test_errors_and_cut_off_attempts_pass_through(status: ScoreStatus) -> None:
    assert judge("</think>", Always(0.0, status)).status == status


def test_language_consistency_is_the_share_of_words_in_the_script() -> None:
    assert language_consistency("the sun и 月亮 12 + 3", "LATIN") == 0.5
    assert language_consistency("月亮 星", "CJK") == 1.0
    assert language_consistency("12 + 3", "LATIN") == 1.0
    assert language_consistency("sunсолнце", "LATIN") == 0.0

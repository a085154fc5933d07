"""Partial credit: right answers keep it all, tricks get less than half, statuses stay."""

import asyncio

from openqwq.tasks.instructions import WORDS, instructions
from openqwq.tasks.source import draw_tasks
from openqwq.types import Score, Task
from openqwq.verify.instructions import InstructionVerifier
from openqwq.verify.partial import PartialCredit


class Given:
    def __init__(self, score: Score) -> None:
        self.verdict = score

    async def score(self, task: Task, completion: str) -> Score:
        return self.verdict


TASK = Task("t", "k", (), "instructions")


def credit(score: Score, share: float = 0.5) -> Score:
    return asyncio.run(PartialCredit(Given(score), share).score(TASK, ""))


def test_a_share_of_the_value_is_the_fraction_of_rules_that_hold() -> None:
    half = credit(Score(0.0, "wrong", {"fraction": 0.6}))
    assert (half.value, half.status) == (0.3, "wrong")
    assert credit(Score(1.0, "correct", {"fraction": 1.0})).value == 1.0
    assert credit(Score(0.0, "wrong", {"fraction": 0.6}), share=0.0).value == 0.0


def test_a_verdict_without_rules_stays_as_it_is() -> None:
    assert credit(Score(0.0, "truncated")) == Score(0.0, "truncated")
    assert credit(Score(0.0, "error")) == Score(0.0, "error")


def test_tricks_stay_far_below_a_right_answer() -> None:
    judge = PartialCredit(InstructionVerifier(), 0.5)
    stream = draw_tasks(instructions(4, 7), "train", 0)
    for trick in ("copy", "words"):
        values = []
        for _ in range(100):
            task = next(stream)
            question = task.messages[-1]["content"]
            named = " ".join(word for word in WORDS if word in question)
            said = question if trick == "copy" else named
            values.append(asyncio.run(judge.score(task, f"</think>\n\n{said}")).value)
        assert sum(values) / len(values) < 0.5

"""Composed instructions and tastes: golds pass, tricks fail, IFEval is never asked."""

import asyncio
import gzip
import json
from itertools import islice
from pathlib import Path

import pytest

from openqwq.evaluation.evaluate import Outcome, accuracy
from openqwq.tasks.instructions import (
    ENOUGH,
    WORDS,
    Taste,
    TasteVerifier,
    instructions,
    topics,
)
from openqwq.tasks.source import Source, distinct, draw_tasks
from openqwq.tasks.tools import calculator_problems
from openqwq.types import Score, Task
from openqwq.verify.instructions import InstructionVerifier
from openqwq.verify.thinking import ThinkingRules

ASKED = instructions(4, 7)
RULES = ThinkingRules(InstructionVerifier(), 40)


def tasks(source: Source, count: int, **more: float) -> list[Task]:
    return list(islice(draw_tasks(source, "train", 0, **more), count))  # type: ignore[arg-type]


def judge(task: Task, completion: str) -> Score:
    return asyncio.run(RULES.score(task, completion))


def test_every_worked_solution_follows_its_instructions() -> None:
    for task in tasks(ASKED, 400):
        assert judge(task, task.solution or "").status == "correct", task


def test_no_word_is_part_of_another() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert not [(a, b) for a in WORDS for b in WORDS if a != b and a in b]


def test_rules_of_every_kind_are_composed() -> None:
    seen = {rule.id.partition(":")[0] for task in tasks(ASKED, 200) for rule in task.rules}
    assert seen == {"length_constraints", "keywords", "startend", "change_case",
                    "detectable_format"}  # fmt: skip


@pytest.mark.parametrize(
    "trick", ["copy", "thinks of nothing", "prints the rule's words", "empty"]
)
def test_tricks_score_low(trick: str) -> None:
    values = []
    for task in tasks(ASKED, 200):
        question = task.messages[-1]["content"]
        named = [
            word for word in WORDS if word in question.split() or f"{word}." in question
        ]
        answer = (task.solution or "").partition("</think>\n\n")[2]
        said = {
            "copy": f"plan\n</think>\n\n{question}",
            "thinks of nothing": f"\n</think>\n\n{answer}",
            "prints the rule's words": f"plan\n</think>\n\n{' '.join(named)}",
            "empty": "plan\n</think>\n\n",
        }[trick]
        values.append(judge(task, said).value)
    assert sum(values) / len(values) <= 0.02


def test_prompts_are_none_of_ifevals(data_sets: Path) -> None:
    with gzip.open(data_sets / "ifeval" / "prompts.jsonl.gz", "rt") as lines:
        theirs = {json.loads(line)["prompt"] for line in lines}
    assert theirs and not theirs & {t.messages[-1]["content"] for t in tasks(ASKED, 1000)}


@pytest.mark.parametrize(
    "source",
    [
        instructions(min_words=4, max_words=7),
        topics(min_words=3, max_words=7),
        calculator_problems(min_digits=4, max_digits=5),
    ],
    ids=lambda source: source.kind,
)
def test_held_out_problems_are_never_trained_on(source: Source) -> None:
    held_out = {t.id for t in distinct(draw_tasks(source, "held_out", 1), 100)}
    assert len(held_out) >= 40
    assert not held_out & {t.id for t in islice(draw_tasks(source, "train", 0), 2000)}


def score_taste(answer: str, *, wanted: list[str]) -> Score:
    task = Task("t", "topics", (), "preference", reference=Taste(frozenset(wanted)))
    return asyncio.run(TasteVerifier().score(task, f"</think>\n\n{answer}"))


def taste(answer: str, *, wanted: list[str]) -> float:
    return score_taste(answer, wanted=wanted).value


def test_taste_wants_enough_wanted_words_once_and_no_more() -> None:
    wanted = WORDS[:10]
    assert taste(" ".join(wanted[:ENOUGH]), wanted=wanted) == 1.0
    assert taste(" ".join(wanted[: ENOUGH - 1]), wanted=wanted) == 0.8
    assert taste(" ".join([wanted[0]] * ENOUGH), wanted=wanted) == 0.2
    assert taste(" ".join(WORDS[10:15]), wanted=wanted) == 0.0
    assert taste(" ".join(wanted), wanted=wanted) == 0.8  # tiring
    assert taste("", wanted=wanted) == 0.0


def test_held_out_taste_is_the_mean_of_how_far_it_is_met() -> None:
    wanted = WORDS[:10]
    outcomes: list[Outcome] = []
    for count in (ENOUGH, ENOUGH - 1, 0):
        score = score_taste(" ".join(wanted[:count]), wanted=wanted)
        task = f"t/{count}"
        outcomes.append(Outcome(task, "topics", "", "", score.value, score.status, 0))
    assert accuracy(outcomes).pass_at_1 == pytest.approx(0.6)


def test_thinking_pays_for_taste() -> None:
    def gold(thinking_share: float) -> float:
        made = tasks(topics(3, 7), 200, thinking_share=thinking_share)
        return sum(
            asyncio.run(TasteVerifier().score(t, t.solution or "")).value for t in made
        )

    assert gold(1.0) == 200 and gold(0.0) < 120


def test_a_tool_problem_goes_on_after_the_tools_answer_and_its_direct_answer_does_not() -> (
    None
):
    (task,) = tasks(calculator_problems(4, 5), 1)
    assert task.continuation and "<tool_call>" in (task.solution or "")
    call, result = task.continuation.messages[1:]
    expression = call["tool_calls"][0]["arguments"]["expression"]
    assert eval(expression) == int(result["content"]) == int(task.answer or "")
    assert task.continuation.messages[0] == task.messages[0]
    assert f"\\boxed{{{task.answer}}}" in (task.continuation.solution or "")
    (direct,) = tasks(calculator_problems(4, 5), 1, tool_share=0.0)
    assert direct.continuation is None and "<tool_call>" not in (direct.solution or "")
    assert direct.messages == task.messages and direct.tools == task.tools

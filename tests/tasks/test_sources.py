"""Procedural tasks: splits that cannot overlap, thinking that is right, golds that pass."""

import re
from collections.abc import Callable
from itertools import islice

import pytest

from openqwq.sandbox.local import LocalSandbox
from openqwq.tasks.arithmetic import add_columns, multiply_columns, subtract_columns
from openqwq.tasks.gym import GymVerifier
from openqwq.tasks.mix import build_source
from openqwq.tasks.source import Source, distinct, draw_tasks
from openqwq.types import OpenQwQError, Task, Verifier
from openqwq.verify.code import CodeVerifier
from openqwq.verify.math import MathVerifier

Named = tuple[str, dict[str, object]]
SOURCES: list[Named] = [
    ("addition", {"min_digits": 1, "max_digits": 3}),
    ("subtraction", {"min_digits": 1, "max_digits": 3}),
    ("multiplication", {"min_digits": 1, "max_digits": 3}),
    ("linear", {"max_slope": 9, "max_offset": 20}),
    ("pipeline", {"min_steps": 1, "max_steps": 2}),
    ("lookups", {"max_entries": 5, "max_asked": 3}),
    ("gym", {"dataset": "chain_sum", "max_terms": 3, "max_digits": 2}),
    ("gym", {"dataset": "spell_backward", "max_word_len": 5}),
    ("gym", {"dataset": "gcd", "max_numbers": 2, "max_value": 99}),
]


def first(config: Named, count: int, **where: object) -> list[Task]:
    arguments = {"split": "train", "seed": 0, **where}
    return list(islice(draw_tasks(build_source(*config), **arguments), count))  # type: ignore[arg-type]


@pytest.mark.parametrize("config", SOURCES, ids=str)
def test_no_problem_is_on_both_sides_and_both_sides_have_some(config: Named) -> None:
    train = {task.id for task in first(config, 300)}
    held_out = {task.id for task in first(config, 300, split="held_out")}
    assert train and held_out
    assert not train & held_out


def test_swapped_operands_are_the_same_problem() -> None:
    from openqwq.tasks.arithmetic import _problem

    assert _problem(3, "+", 5, 8, "").key == _problem(5, "+", 3, 8, "").key


@pytest.mark.parametrize("config", SOURCES, ids=str)
def test_task_i_depends_on_seed_and_i_alone(config: Named) -> None:
    assert first(config, 5)[3:] == first(config, 2, start=3)
    assert first(config, 5) != first(config, 5, seed=1)


@pytest.mark.parametrize(
    ("write", "combine"),
    [
        (add_columns, lambda a, b: a + b),
        (subtract_columns, lambda a, b: a - b),
        (multiply_columns, lambda a, b: a * b),
    ],
)
def test_every_column_is_a_true_equation_and_together_they_spell_the_result(
    write: Callable[[int, int], str], combine: Callable[[int, int], int]
) -> None:
    for a in range(0, 400, 7):
        for b in range(2, 10):
            steps = [step.split("=") for step in write(max(a, b), min(a, b)).split()]
            for left, right in steps:
                assert eval(left) == int(right), (a, b, left, right)
            # An equation that adds a carry to the one before it takes its place.
            columns: list[str] = []
            for left, right in steps:
                if (
                    columns
                    and write is multiply_columns
                    and left.startswith(f"{columns[-1]}+")
                ):
                    columns.pop()
                columns.append(right)
            digits = [int(column) % 10 for column in columns[:-1]] + [int(columns[-1])]
            value = sum(digit * 10**i for i, digit in enumerate(digits))
            assert value == combine(max(a, b), min(a, b)), (a, b)


def test_thinking_share_is_the_share_of_solutions_that_think() -> None:
    tasks = first(SOURCES[0], 1000, thinking_share=0.2)
    thinking = [task for task in tasks if not (task.solution or "").startswith("</think>")]
    assert 0.15 < len(thinking) / 1000 < 0.25
    assert all(
        re.match(r"(\S+=\d+ ?)+\n</think>\n\n", task.solution or "") for task in thinking
    )


async def test_every_gold_solution_passes_its_verifier_and_another_answer_fails() -> None:
    async with (
        LocalSandbox(1) as sandbox,
        MathVerifier(workers=1) as math,
        GymVerifier() as gym,
    ):
        verifiers: dict[str, Verifier] = {
            "math": math,
            "code": CodeVerifier(sandbox),
            "gym": gym,
        }
        for config in SOURCES:
            tasks = first(config, 8)
            for task in tasks:
                score = await verifiers[task.verifier].score(task, task.solution or "")
                assert (score.value, score.status) == (1.0, "correct"), (task, score)
                others = {t.solution or "" for t in tasks if t.solution != task.solution}
                wrong = [
                    await verifiers[task.verifier].score(task, text) for text in others
                ]
                assert any(s.status == "wrong" for s in wrong), task


async def test_gym_answers_without_end_of_thinking_are_truncated_not_wrong() -> None:
    (task,) = first(SOURCES[5], 1)
    async with GymVerifier() as gym:
        assert (await gym.score(task, "1+1=2")).status == "truncated"


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (("additoin", {}), "'addition'"),
        (("addition", {"digits": 2}), "digits"),
        (("gym", {"dataset": "nothing_such"}), "nothing_such"),
        (("gym", {"dataset": "chain_sum", "color": 2}), "color"),
    ],
    ids=str,
)
def test_an_unknown_source_or_option_is_named(config: Named, named: str) -> None:
    with pytest.raises(OpenQwQError, match=named):
        build_source(*config)


def test_distinct_problems_are_the_first_different_ones_of_the_stream() -> None:
    few = build_source("addition", {"min_digits": 1, "max_digits": 1})
    tasks = list(islice(draw_tasks(few, "train", 0), 400))
    found = distinct(iter(tasks), 10)
    assert [t.id for t in found] == list(dict.fromkeys(t.id for t in tasks))[:10]
    assert len(distinct(iter(tasks), 1000)) == len({t.id for t in tasks})


def test_a_source_without_held_out_problems_says_so() -> None:
    one = build_source("addition", {"min_digits": 1, "max_digits": 1}).draw
    import random

    problem = one(random.Random(0))
    with pytest.raises(OpenQwQError, match="widen its range"):
        sides = (
            next(draw_tasks(Source("only", "math", lambda rng: problem), side, 0))
            for side in ("train", "held_out")
        )
        list(sides)

"""Prompts: seeded, weighted, resumable, without what is mastered."""

import json
import random
from collections import Counter

import pytest

from openqwq.tasks.arithmetic import addition, multiplication
from openqwq.tasks.source import Problem, Source
from openqwq.train.curriculum import Curriculum
from openqwq.types import OpenQwQError

MIX = [(addition(1, 2), 3.0), (multiplication(1, 2), 1.0)]


def test_weights_are_the_shares_of_the_mix() -> None:
    kinds = Counter(task.kind for task in Curriculum(MIX, "0").next_tasks(2000))
    assert 0.7 < kinds["addition"] / 2000 < 0.8


def test_a_restored_state_goes_on_with_the_same_tasks() -> None:
    one = Curriculum(MIX, "0")
    one.retired.add(one.next_tasks(10)[-1].id)
    state = json.loads(json.dumps(one.state()))
    other = Curriculum(MIX, "0")
    other.load_state(state)
    assert other.next_tasks(20) == one.next_tasks(20)
    assert other.state() == one.state()


def test_retired_tasks_do_not_come_back_until_nothing_else_is_left() -> None:
    def draw(rng: random.Random) -> Problem:
        return Problem(str(rng.randrange(20)), "q", "", "a", answer="a")

    curriculum = Curriculum([(Source("few", "math", draw), 1.0)], "0")
    every = {task.id for task in curriculum.next_tasks(200)}
    kept = sorted(every)[0]
    curriculum.retired = every - {kept}
    assert {task.id for task in curriculum.next_tasks(5)} == {kept}
    curriculum.retired = every
    assert len(curriculum.next_tasks(3)) == 3


@pytest.mark.parametrize("mix", [[], [(addition(1, 2), 0.0)]])
def test_an_empty_or_weightless_mix_is_refused(mix: list[tuple[Source, float]]) -> None:
    with pytest.raises(OpenQwQError, match="at least one source"):
        Curriculum(mix, "0")

"""Prompts: seeded, weighted, resumable, without what is mastered."""

import json
import random
from collections import Counter

import pytest

from openqwq.tasks.arithmetic import addition, multiplication
from openqwq.tasks.source import Problem, Source
from openqwq.tasks.table import GeneratedTable, permuted
from openqwq.train.curriculum import Curriculum, epoch_tasks
from openqwq.types import OpenQwQError

TABLES = {
    "addition": GeneratedTable("addition", addition(1, 2), ""),
    "multiplication": GeneratedTable("multiplication", multiplication(1, 2), ""),
}
WEIGHTS = {"addition": 3.0, "multiplication": 1.0}


def test_weights_are_the_shares_of_the_draws() -> None:
    kinds = Counter(task.kind for task in Curriculum(TABLES, WEIGHTS, "0").next_tasks(2000))
    assert 0.7 < kinds["addition"] / 2000 < 0.8


def test_a_task_is_a_pure_function_of_its_number() -> None:
    one, other = Curriculum(TABLES, WEIGHTS, "0"), Curriculum(TABLES, WEIGHTS, "0")
    expected = [one.task(number) for number in range(30)]
    assert [other.task(number) for number in reversed(range(30))] == expected[::-1]


def test_a_restored_state_goes_on_with_the_same_tasks() -> None:
    one = Curriculum(TABLES, WEIGHTS, "0")
    one.retired.add(one.next_tasks(10)[-1].id)
    state = json.loads(json.dumps(one.state()))
    other = Curriculum(TABLES, WEIGHTS, "0")
    other.load_state(state)
    assert other.next_tasks(20) == one.next_tasks(20)
    assert other.state() == one.state()


def test_retired_tasks_do_not_come_back_until_nothing_else_is_left() -> None:
    def draw(rng: random.Random) -> Problem:
        return Problem(str(rng.randrange(20)), "q", "", "a", answer="a")

    table = GeneratedTable("few", Source("few", "math", draw), "")
    curriculum = Curriculum({"few": table}, {"few": 1.0}, "0")
    every = {task.id for task in curriculum.next_tasks(200)}
    kept = sorted(every)[0]
    curriculum.retired = every - {kept}
    assert {task.id for task in curriculum.next_tasks(5)} == {kept}
    assert curriculum.restarts == 0
    curriculum.retired = set(every)
    assert len(curriculum.next_tasks(3)) == 3
    assert curriculum.restarts == 1


def test_every_epoch_passes_each_row_once_in_an_order_of_its_own() -> None:
    first = [permuted(7, number, "s") for number in range(7)]
    second = [permuted(7, number, "s") for number in range(7, 14)]
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second


def test_a_generator_has_no_epochs() -> None:
    with pytest.raises(OpenQwQError, match=r"'addition' is a generator.*steps"):
        list(epoch_tasks(TABLES, WEIGHTS, 1.0, "0"))

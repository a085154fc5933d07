"""Calculators of many wordings: some are kept from training, and each works as it is described."""

import random
from itertools import islice

import pytest
from jsonschema import Draft202012Validator

from openqwq.agent.environments import CalculatorEnvironment
from openqwq.tasks.calculators import SEEN, UNSEEN, Calculator, any_calculator, calculators
from openqwq.tasks.source import Source, draw_tasks
from openqwq.types import Message, OpenQwQError, Score, Task, ToolCall


class Anyone:
    """Judges nothing: these tests read what the tool says."""

    async def score(self, task: Task, completion: str) -> Score:
        return Score(1.0, "correct")


def tasks_of(source: Source, count: int) -> list[Task]:
    return list(islice(draw_tasks(source, "train", 0), count))


def calculator_of(task: Task) -> Calculator:
    assert isinstance(task.reference, Calculator)
    return task.reference


def test_no_name_argument_sentence_or_answer_of_the_unseen_is_trained_on() -> None:
    for field in ("verbs", "nouns", "syllables", "texts", "numbers", "lists", "operations"):
        assert not set(getattr(SEEN, field)) & set(getattr(UNSEEN, field)), field
    assert not set(SEEN.descriptions) & set(UNSEEN.descriptions)
    assert not set(SEEN.answers) & set(UNSEEN.answers)

    seen = {calculator_of(task).name for task in tasks_of(calculators(4, 5), 400)}
    unseen = {
        calculator_of(task).name for task in tasks_of(calculators(4, 5, unseen=True), 400)
    }
    assert len(seen) > 200 and len(unseen) > 200
    assert not seen & unseen


def test_names_to_train_on_are_as_long_as_those_kept_from_it_and_some_start_alike() -> None:
    seen = [calculator_of(task) for task in tasks_of(calculators(4, 5), 400)]
    kept = [calculator_of(task) for task in tasks_of(calculators(4, 5, unseen=True), 400)]
    longest = max(len(name) for form in kept for name in (form.name, *form.arguments))
    as_long = [
        form
        for form in seen
        if any(len(name) >= longest for name in (form.name, *form.arguments))
    ]
    assert len(as_long) > 0.1 * len(seen)

    pairs = [form.arguments[-2:] for form in seen if len(form.arguments) > 1]
    alike = [pair for pair in pairs if pair[0][:4] == pair[1][:4]]
    assert len(alike) > 20


def test_what_public_servers_are_called_is_not_trained_on() -> None:
    words = {*SEEN.verbs, *SEEN.nouns}
    assert not words & {"perform", "calculation", "multiply"}
    assert ("a", "b") not in SEEN.numbers


@pytest.mark.parametrize("unseen", [False, True])
async def test_every_worked_call_fits_its_schema_and_gets_the_answer_that_it_expects(
    unseen: bool,
) -> None:
    environment = CalculatorEnvironment(Anyone())
    forms = set()
    for task in tasks_of(calculators(4, 5, unseen=unseen), 60):
        form = calculator_of(task)
        forms.add(form.form)
        a, b = map(int, task.messages[-1]["content"].removesuffix("?").split()[2::2])
        given = form.product_of(a, b)
        schema = form.specification["function"]["parameters"]
        assert Draft202012Validator(schema).is_valid(given)

        episode = await environment.reset(task, 0)
        call = Message(role="assistant", content="")
        call["tool_calls"] = [ToolCall(name=form.name, arguments=given)]
        (told,) = (await episode.step(call, [])).messages
        assert task.continuation is not None
        assert told == task.continuation.messages[-1]
        assert str(a * b) in told["content"]
    assert forms == {"expression", "pair", "list", "operation"}


def test_an_operation_that_there_is_not_is_an_error_that_names_those_there_are() -> None:
    rng = random.Random(0)
    drawn = [any_calculator(rng, SEEN) for _ in range(40)]
    form = next(each for each in drawn if each.form == "operation")
    operation, a, b = form.arguments
    assert form.expression({operation: "subtract", a: 9, b: 4}) == "(9) - (4)"
    with pytest.raises(OpenQwQError, match=r"'power'.*multiply"):
        form.expression({operation: "power", a: 9, b: 4})

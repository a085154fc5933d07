"""Environments: worked solutions win, shortcuts do not, broken worlds are errors."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from openqwq.agent.environments import (
    CalculatorEnvironment,
    MazeEnvironment,
    PythonEnvironment,
    StockroomEnvironment,
)
from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import CaseResult, Limits, RunRequest, RunResult
from openqwq.tasks import worlds
from openqwq.tasks.source import Source, draw_tasks
from openqwq.tasks.stockroom import Stockroom
from openqwq.tasks.tools import calculator
from openqwq.types import Environment, Message, OpenQwQError, Score, Task
from openqwq.verify.math import MathVerifier


@pytest.fixture(scope="module")
def mathematics() -> Iterator[MathVerifier]:
    with closing(MathVerifier(workers=1)) as verifier:
        yield verifier


def reply(text: str = "", **calls: Any) -> Message:
    """A turn with `text`, and one call for each `name=arguments`."""
    made = [{"name": name, "arguments": arguments} for name, arguments in calls.items()]
    message = Message(role="assistant", content=text)
    return {**message, "tool_calls": made} if made else message  # type: ignore[typeddict-item]


def parsed(solution: str) -> Message:
    """The turn that a worked solution spells."""
    text = solution.partition("</think>")[2].strip()
    content, *calls = text.split("<tool_call>")
    made = [json.loads(call.partition("</tool_call>")[0]) for call in calls]
    message = Message(role="assistant", content=content.strip())
    return {**message, "tool_calls": made} if made else message  # type: ignore[typeddict-item]


async def play(environment: Environment, task: Task) -> tuple[Score, bool]:
    """Play a worked solution; also whether every answer was the one that the solution shows."""
    episode, truthful, done = await environment.reset(task, 0), True, False
    turn: Task | None = task
    try:
        while turn is not None:
            assert not done and turn.solution is not None
            observation = await episode.step(parsed(turn.solution), [])
            done, following = observation.done, turn.continuation
            if following is not None:
                answers = following.messages[len(turn.messages) + 1 :]
                truthful = truthful and answers == observation.messages
            turn = following
        assert done
        return await episode.score(), truthful
    finally:
        await episode.close()


async def play_all(environment: Environment, source: Source, count: int) -> None:
    for split in ("train", "held_out"):
        for task in islice(draw_tasks(source, split, 0), count):  # type: ignore[arg-type]
            score, truthful = await play(environment, task)
            assert score.status == "correct", (task.id, score)
            assert truthful, task.id


async def test_worked_solutions_of_the_stockroom_are_right() -> None:
    await play_all(StockroomEnvironment(), worlds.stockroom(1, 3), 100)


async def test_worked_solutions_of_the_maze_get_out() -> None:
    await play_all(MazeEnvironment(), worlds.maze(3, 9), 100)


async def test_worked_solutions_with_the_calculator_are_right(mathematics: MathVerifier) -> None:
    await play_all(CalculatorEnvironment(mathematics), calculator(4, 7), 5)


async def test_worked_solutions_in_python_pass_their_tests(sandbox: LocalSandbox) -> None:
    await play_all(PythonEnvironment(sandbox), worlds.python(5000, 9000), 2)


@pytest.mark.parametrize("name", worlds.WORLDS)
def test_a_world_holds_out_problems_that_training_never_sees(name: str) -> None:
    source = worlds.WORLDS[name](3, 6)
    train, held_out = (
        {task.id for task in islice(draw_tasks(source, split, 0), 200)}
        for split in ("train", "held_out")
    )
    assert train and held_out and not train & held_out


def stockroom_task() -> Task:
    before = {"A": {"pens": 3}, "B": {"cups": 2}}
    after = {"A": {"pens": 1}, "B": {"cups": 2, "pens": 2}}
    answer = json.dumps({"before": before, "after": after, "said": "1"})
    return Task("s", "stockroom", (), "stockroom", answer=answer)


MOVE = {"item": "pens", "amount": 2, "source": "A", "target": "B"}


async def test_the_stockroom_judges_state_and_answer_apart() -> None:
    for calls, said, parts in [
        ([MOVE], "\\boxed{1}", (1.0, 1.0)),
        ([MOVE], "1", (1.0, 1.0)),
        ([MOVE], "\\boxed{2}", (1.0, 0.0)),
        ([MOVE], "1 or 2", (1.0, 0.0)),
        ([], "\\boxed{1}", (0.0, 1.0)),
        ([MOVE | {"amount": 1}], "\\boxed{1}", (0.0, 1.0)),
    ]:
        episode = await StockroomEnvironment().reset(stockroom_task(), 0)
        for arguments in calls:
            await episode.step(reply(move=arguments), [])
        assert (await episode.step(reply(said), [])).done
        score = await episode.score()
        assert (score.parts["state"], score.parts["answer"]) == parts
        assert score.value == float(parts == (1.0, 1.0))


async def test_a_refused_move_leaves_the_stockroom_as_it_was_and_says_why() -> None:
    episode = await StockroomEnvironment().reset(stockroom_task(), 0)
    observation = await episode.step(reply(move=MOVE | {"amount": 9}, look={"shelf": "A"}), [])
    refusal, shelf = (message["content"] for message in observation.messages)
    assert refusal == "error: shelf A holds 3 pens, not 9"
    assert shelf == "3 pens"
    for bad in [{"amount": -1}, {"target": "Z"}]:
        await episode.step(reply(move=MOVE | bad), [])
    (message,) = (await episode.step(reply(look={"shelf": "A"}), [])).messages
    assert message["content"] == "3 pens"


async def test_calls_of_one_reply_change_the_stockroom_in_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow_remove(self: Stockroom, item: str, amount: int, shelf: str) -> str:
        """Remove, after a while."""
        time.sleep(0.1)
        self.shelves[shelf].pop(item, None)
        return "ok"

    monkeypatch.setattr(Stockroom, "remove", slow_remove)
    monkeypatch.setattr(slow_remove, "__name__", "remove")
    episode = await StockroomEnvironment().reset(stockroom_task(), 0)
    calls = [
        {"name": "remove", "arguments": {"item": "pens", "amount": 3, "shelf": "A"}},
        {"name": "add", "arguments": {"item": "pens", "amount": 1, "shelf": "A"}},
        {"name": "look", "arguments": {"shelf": "A"}},
    ]
    turn: Message = {"role": "assistant", "content": "", "tool_calls": calls}  # type: ignore[typeddict-item]
    observation = await episode.step(turn, [])
    assert [message["content"] for message in observation.messages] == ["ok", "ok", "1 pens"]


async def test_failed_calls_are_counted_and_an_episode_without_answer_is_truncated() -> None:
    episode = await StockroomEnvironment().reset(stockroom_task(), 0)
    assert not (await episode.step(reply(fly={}, look={"shelf": 1}), ["{not json"])).done
    await episode.step(reply(look={"shelf": "A"}), [])
    score = await episode.score()
    assert (score.status, score.parts["calls"], score.parts["call_errors"]) == ("truncated", 4, 3)


async def test_episodes_of_one_task_do_not_share_their_state() -> None:
    environment = StockroomEnvironment()
    first, second = [await environment.reset(stockroom_task(), seed) for seed in (0, 1)]
    await first.step(reply(move=MOVE), [])
    (message,) = (await second.step(reply(look={"shelf": "A"}), [])).messages
    assert message["content"] == "3 pens"


async def test_the_maze_answers_nonsense_and_lets_nobody_through_the_locked_door() -> None:
    task = next(iter(draw_tasks(worlds.maze(2, 2), "train", 0)))  # a key here, the way out there
    (direction,) = json.loads(task.answer or "")["exits"][0]
    episode = await MazeEnvironment().reset(task, 0)
    for command, expected in [
        (f"go {direction}", "The door is locked: find the key."),
        ("open sesame", "Unknown command."),
        (f"go {direction}\ntake key", "Unknown command."),
        ("", "Unknown command."),
    ]:
        observation = await episode.step(reply(command), [])
        assert observation.messages[0]["content"].startswith(expected)
        assert not observation.done
    assert (await episode.score()).value == 0
    await episode.step(reply("take key"), [])
    assert (await episode.step(reply(f"GO {direction}"), [])).done
    assert (await episode.score()).value == 1


async def test_a_python_answer_that_prints_the_expected_values_is_wrong(
    sandbox: LocalSandbox,
) -> None:
    task = next(iter(draw_tasks(worlds.python(50, 90), "train", 0)))
    episode = await PythonEnvironment(sandbox).reset(task, 0)
    await episode.step(reply(python={"code": "x = 41"}), [])
    (message,) = (await episode.step(reply(python={"code": "x + 1"}), [])).messages
    assert message["content"] == "42"
    await episode.step(reply("```python\ndef f(x):\n    return 7\n```"), [])
    score = await episode.score()
    await episode.close()
    assert (score.value, score.status) == (0.0, "wrong")


class BrokenSandbox:
    """Every session fails as a sandbox does whose worker died."""

    async def run(self, request: RunRequest) -> RunResult:
        return RunResult("error", error="no worker")

    async def session(self, limits: Limits = Limits()) -> "BrokenSandbox":  # noqa: B008
        return self

    async def close(self) -> None:
        return


class BrokenSession(BrokenSandbox):
    async def session(self, limits: Limits = Limits()) -> Any:  # noqa: B008
        class Session:
            async def run(self, source: str) -> CaseResult:
                return CaseResult("error", error="no worker")

            async def close(self) -> None:
                return

        return Session()


async def test_a_broken_sandbox_is_an_error_and_never_feedback_or_a_zero() -> None:
    task = next(iter(draw_tasks(worlds.python(50, 90), "train", 0)))
    episode = await PythonEnvironment(BrokenSession()).reset(task, 0)  # type: ignore[arg-type]
    with pytest.raises(OpenQwQError, match="the sandbox failed: no worker"):
        await episode.step(reply(python={"code": "1"}), [])
    await episode.close()
    episode = await PythonEnvironment(BrokenSession()).reset(task, 0)  # type: ignore[arg-type]
    await episode.step(reply("def f(x): return x"), [])
    assert (await episode.score()).status == "error"


async def test_a_session_that_cannot_be_closed_gives_up_its_place(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = PythonEnvironment(sandbox, sessions=1)
    task = next(iter(draw_tasks(worlds.python(50, 90), "train", 0)))
    first, second = [await environment.reset(task, seed) for seed in (0, 1)]
    await first.step(reply(python={"code": "1"}), [])
    close = first.session.close

    async def broken() -> None:
        await close()
        raise OSError("gone")

    monkeypatch.setattr(first.session, "close", broken)
    with pytest.raises(OSError, match="gone"):
        await first.close()
    await asyncio.wait_for(second.step(reply(python={"code": "1"}), []), 30)
    await second.close()


async def test_more_episodes_than_sessions_all_finish(sandbox: LocalSandbox) -> None:
    environment = PythonEnvironment(sandbox, sessions=2)
    task = next(iter(draw_tasks(worlds.python(50, 90), "train", 0)))

    async def run(number: int) -> str:
        episode = await environment.reset(task, number)
        await episode.step(reply(python={"code": f"x = {number}"}), [])
        observation = await episode.step(reply(python={"code": "x"}), [])
        await episode.close()
        return observation.messages[0]["content"]

    found = await asyncio.wait_for(asyncio.gather(*map(run, range(5))), 60)
    assert found == ["0", "1", "2", "3", "4"]
    assert not sandbox.open_sessions


async def test_waiting_in_vain_for_a_session_is_an_error(
    sandbox: LocalSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openqwq.agent.environments.PLACE_SECONDS", 0.1)
    environment = PythonEnvironment(sandbox, sessions=1)
    task = next(iter(draw_tasks(worlds.python(50, 90), "train", 0)))
    first, second = [await environment.reset(task, seed) for seed in (0, 1)]
    await first.step(reply(python={"code": "1"}), [])
    with pytest.raises(OpenQwQError, match="no Python session became free"):
        await second.step(reply(python={"code": "1"}), [])
    await second.close()
    await first.close()


def test_a_task_keeps_its_first_messages_through_its_continuations() -> None:
    task = next(iter(draw_tasks(worlds.stockroom(2, 3), "train", 0)))
    turn: Task | None = task
    while turn is not None:
        assert turn.messages[: len(task.messages)] == task.messages
        same = replace(turn, messages=(), solution=None, continuation=None)
        assert same == replace(task, messages=(), solution=None, continuation=None)
        turn = turn.continuation

"""The two environments in `examples/`: worked solutions win, shortcuts do not."""

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from playing import play_all, reply

from openqwq.data.user_code import load_object
from openqwq.tasks.source import Source, draw_tasks
from openqwq.types import Message, OpenQwQError, Task

FOLDER = Path(__file__).parents[2] / "examples" / "environments"


def example(name: str):  # type: ignore[no-untyped-def]
    """What a config would name so."""
    return load_object(f"{FOLDER}/{name}")


stockroom, StockroomEnvironment, Stockroom, Orders = (
    example(f"stockroom.py:{name}")
    for name in ("stockroom", "StockroomEnvironment", "Stockroom", "Orders")
)
maze, MazeEnvironment = (example(f"maze.py:{name}") for name in ("maze", "MazeEnvironment"))


async def test_worked_solutions_of_the_stockroom_are_right() -> None:
    await play_all(StockroomEnvironment(), stockroom(1, 3), 100)


async def test_worked_solutions_of_the_maze_get_out() -> None:
    await play_all(MazeEnvironment(), maze(3, 9), 100)


@pytest.mark.parametrize("source", [stockroom(3, 6), maze(3, 6)], ids=lambda s: s.kind)
def test_an_example_holds_out_problems_that_training_never_sees(source: Source) -> None:
    train, held_out = (
        {task.id for task in islice(draw_tasks(source, split, 0), 200)}
        for split in ("train", "held_out")
    )
    assert train and held_out and not train & held_out


@pytest.mark.parametrize("environment", [StockroomEnvironment(), MazeEnvironment()])
async def test_a_task_of_another_source_is_refused(environment) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(OpenQwQError, match=r"its source must be \w+\.py"):
        await environment.reset(Task("other:1", "other", (), ""), 0)


def stockroom_task() -> Task:
    before = {"A": {"pens": 3}, "B": {"cups": 2}}
    after = {"A": {"pens": 1}, "B": {"cups": 2, "pens": 2}}
    return Task("s", "stockroom", (), "", reference=Orders(before, after, "1"))


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
    observation = await episode.step(
        reply(move=MOVE | {"amount": 9}, look={"shelf": "A"}), []
    )
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
    def slow_remove(self, item: str, amount: int, shelf: str) -> str:  # type: ignore[no-untyped-def]
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
    assert [message["content"] for message in observation.messages] == [
        "ok",
        "ok",
        "1 pens",
    ]


async def test_failed_calls_are_counted_and_an_episode_without_answer_is_truncated() -> (
    None
):
    episode = await StockroomEnvironment().reset(stockroom_task(), 0)
    assert not (await episode.step(reply(fly={}, look={"shelf": 1}), ["{not json"])).done
    await episode.step(reply(look={"shelf": "A"}), [])
    score = await episode.score()
    assert (score.status, score.parts["calls"], score.parts["call_errors"]) == (
        "truncated",
        4,
        3,
    )


async def test_episodes_of_one_task_do_not_share_their_state() -> None:
    environment = StockroomEnvironment()
    first, second = [await environment.reset(stockroom_task(), seed) for seed in (0, 1)]
    await first.step(reply(move=MOVE), [])
    (message,) = (await second.step(reply(look={"shelf": "A"}), [])).messages
    assert message["content"] == "3 pens"


async def test_the_maze_answers_nonsense_and_lets_nobody_through_the_locked_door() -> None:
    task = next(iter(draw_tasks(maze(2, 2), "train", 0)))  # a key here, the way out there
    (direction,) = task.reference.exits[0]  # type: ignore[attr-defined]
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


def test_a_task_keeps_its_first_messages_through_its_continuations() -> None:
    task = next(iter(draw_tasks(stockroom(2, 3), "train", 0)))
    turn: Task | None = task
    while turn is not None:
        assert turn.messages[: len(task.messages)] == task.messages
        same = replace(turn, messages=(), solution=None, continuation=None)
        assert same == replace(task, messages=(), solution=None, continuation=None)
        turn = turn.continuation

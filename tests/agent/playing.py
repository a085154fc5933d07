"""Playing episodes by hand and by worked solutions, for tests of environments."""

import json
from itertools import islice
from typing import Any

from openqwq.tasks.source import Source, draw_tasks
from openqwq.types import Environment, Message, Score, Task


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
    episode = await environment.reset(task, 0)
    truthful = True
    done = False
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

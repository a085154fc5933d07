"""Problems whose solution takes several turns in an environment of the same name."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from openqwq.tasks.maze import maze
from openqwq.tasks.programs import linear
from openqwq.tasks.source import Problem, Source, Turn
from openqwq.tasks.stockroom import stockroom
from openqwq.types import Message, ToolCall

PYTHON: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "python",
        "description": "Runs Python; variables last from call to call. Shows what is printed"
        " and the value of a last expression.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string"}},
            "required": ["code"],
            "additionalProperties": False,
        },
    },
}


def python(max_slope: int, max_offset: int) -> Source:
    """Functions f(x) = slope * x + offset whose numbers take Python to find, judged by tests."""
    base = linear(max_slope, max_offset)

    def draw(rng: random.Random) -> Problem:
        problem = base.draw(rng)
        x, low, _, high = map(int, re.findall(r"\d+", problem.question))
        code = f"a = {high} - {low}\na, {low} - a * {x}"
        turn = Message(role="assistant", content="", reasoning_content="slope and offset")
        turn["tool_calls"] = [ToolCall(name="python", arguments={"code": code})]
        found = f"({high - low}, {low - (high - low) * x})"
        told = Turn(turn, (Message(role="tool", content=found),))
        return replace(problem, thinking="", tools=(PYTHON,), turns=(told,))

    return Source("python", "python", draw)


WORLDS: dict[str, Callable[[int, int], Source]] = {
    "stockroom": stockroom,
    "maze": maze,
    "python": python,
}

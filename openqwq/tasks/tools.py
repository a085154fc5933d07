"""Arithmetic beyond any scratchpad the model has: only a tool gets it right."""

import random
from collections.abc import Callable, Mapping
from typing import Any

from openqwq.tasks.source import Problem, Source, Turn
from openqwq.types import Message, ToolCall

# As the public MCP server `mcp-server-calculator` describes its tool, so that a model trained here
# meets in use the very prompt it was trained on.
CALCULATE: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Calculates/evaluates the given expression.",
        "parameters": {
            "properties": {"expression": {"title": "Expression", "type": "string"}},
            "required": ["expression"],
            "title": "calculateArguments",
            "type": "object",
        },
    },
}


def calculator(min_digits: int, max_digits: int) -> Source:
    """Products of two long numbers, asked with a calculator at hand."""

    def draw(rng: random.Random) -> Problem:
        a, b = (
            rng.randrange(10 ** (digits - 1), 10**digits)
            for digits in (rng.randint(min_digits, max_digits) for _ in range(2))
        )
        expression, product = f"{a} * {b}", str(a * b)
        call = ToolCall(name="calculate", arguments={"expression": expression})
        turn = Message(role="assistant", content="", tool_calls=[call])
        turn["reasoning_content"] = "too long: calculate"
        return Problem(
            key=f"{min(a, b)}*{max(a, b)}",
            question=f"What is {expression}?",
            thinking="",
            reply=f"\\boxed{{{product}}}",
            answer=product,
            tools=(CALCULATE,),
            turns=(Turn(turn, (Message(role="tool", content=product),)),),
        )

    return Source("calculator", "calculator", draw)


TOOL_TASKS: dict[str, Callable[[int, int], Source]] = {"calculator": calculator}

"""Problems meant for a tool: arithmetic beyond any scratchpad, and numbers found with Python."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from openqwq.tasks.arithmetic import operand
from openqwq.tasks.calculators import calculators
from openqwq.tasks.lookups import lookups
from openqwq.tasks.programs import linear
from openqwq.tasks.source import Problem, Source, Turn
from openqwq.types import Message, ToolCall

# A model trained here meets in use the very prompts it was trained on: the tool as the public MCP
# server `mcp-server-calculator` describes it, and as `qwq agent --tools calculator` does.
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
CALCULATOR: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Work out an arithmetic expression exactly, e.g. 12 * (3 + 4) ** 2 / 7.",
        "parameters": {
            "type": "object",
            "properties": {
                "expression": {
                    "type": "string",
                    "description": "numbers, + - * / // % ** and parentheses, pi, e, abs, min, "
                    "max, round, sqrt, log, exp, sin, cos, tan, gcd",
                }
            },
            "required": ["expression"],
            "additionalProperties": False,
        },
    },
}
CALCULATORS = (CALCULATE, CALCULATOR)

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


def calculator_problems(min_digits: int, max_digits: int) -> Source:
    """Products of two long numbers, asked with a calculator at hand."""

    def draw(rng: random.Random) -> Problem:
        a = operand(rng, min_digits, max_digits)
        b = operand(rng, min_digits, max_digits)
        expression = f"{a} * {b}"
        product = str(a * b)
        described = rng.choice(CALCULATORS)
        name = described["function"]["name"]
        call = ToolCall(name=name, arguments={"expression": expression})
        turn = Message(role="assistant", content="", tool_calls=[call])
        turn["reasoning_content"] = "too long: calculate"
        return Problem(
            key=f"{min(a, b)}*{max(a, b)}",
            question=f"What is {expression}?",
            thinking="",
            reply=f"\\boxed{{{product}}}",
            answer=product,
            tools=(described,),
            turns=(Turn(turn, (Message(role="tool", content=product),)),),
        )

    return Source("calculator", "math", draw, environment="calculator")


def python_problems(max_slope: int, max_offset: int) -> Source:
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

    return Source("python", "code", draw, environment="python")


TOOL_TASKS: dict[str, Callable[..., Source]] = {
    "calculator": calculator_problems,
    "calculators": calculators,
    "lookups": lookups,
    "python": python_problems,
}

"""Small Python functions judged by hidden tests: from examples, and from a description in words."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from openqwq.tasks.arithmetic import multiply_columns, subtract_columns
from openqwq.tasks.source import Problem, Source
from openqwq.types import CodeTests, TestCase

NUM_CASES = 6


def _fenced(program: str) -> str:
    return f"```python\n{program}\n```"


def _hidden_tests(program: str, inputs: Sequence[Any]) -> CodeTests:
    """Tests whose expected values come from our own reference `program` (trusted code)."""
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    cases = tuple(TestCase([value], namespace["f"](value)) for value in inputs)
    return CodeTests("call", cases, entry_point="f")


def linear(max_slope: int, max_offset: int) -> Source:
    """Find f(x) = slope * x + offset from its values at two neighbouring points.

    The hidden tests ask at other points. Functions, not wordings, are split into train and
    held-out, so a held-out function was never seen.
    """

    def draw(rng: random.Random) -> Problem:
        slope = rng.randint(2, max_slope)
        offset = rng.randint(0, max_offset)
        x = rng.randint(1, 9)
        rise = slope * x
        low = rise + offset
        high = low + slope
        question = f"f({x}) = {low}, f({x + 1}) = {high}. Write f(x)."
        thinking = (
            f"{high} - {low}: {subtract_columns(high, low)}\n"
            f"{slope} * {x}: {multiply_columns(slope, x)}\n"
            f"{low} - {rise}: {subtract_columns(low, rise)}"
        )
        program = f"def f(x):\n    return {slope} * x + {offset}"
        inputs = [0, *rng.sample(range(7, 100), NUM_CASES - 2), -rng.randint(1, 50)]
        tests = _hidden_tests(program, inputs)
        key = f"{slope}x+{offset}"
        return Problem(key, question, thinking, _fenced(program), tests=tests)

    return Source("linear", "code", draw)


# In words and in Python; {k} is a number from 2 to 9.
STEPS = (
    ("reverse", "xs[::-1]"),
    ("sort", "sorted(xs)"),
    ("drop the first", "xs[1:]"),
    ("drop the last", "xs[:-1]"),
    ("square", "[x * x for x in xs]"),
    ("keep the even", "[x for x in xs if x % 2 == 0]"),
    ("keep those above {k}", "[x for x in xs if x > {k}]"),
    ("add {k}", "[x + {k} for x in xs]"),
    ("multiply by {k}", "[x * {k} for x in xs]"),
)
RESULTS = (("the list", "xs"), ("the sum", "sum(xs)"), ("the length", "len(xs)"))


def pipeline(min_steps: int, max_steps: int) -> Source:
    """Write the function that takes a list through steps given in words."""

    def draw(rng: random.Random) -> Problem:
        words: list[str] = []
        lines: list[str] = []
        for step, code in rng.choices(STEPS, k=rng.randint(min_steps, max_steps)):
            k = rng.randint(2, 9)
            words.append(step.format(k=k))
            lines.append(code.format(k=k))
        result, code = rng.choice(RESULTS)
        question = f"Write f(xs): {', '.join(words)}, return {result}."
        body = [f"xs = {line}" for line in lines] + [f"return {code}"]
        program = "\n    ".join(["def f(xs):", *body])
        inputs = [[rng.randint(0, 12) for _ in range(n)] for n in range(NUM_CASES)]
        tests = _hidden_tests(program, inputs)
        return Problem(question, question, "\n".join(lines), _fenced(program), tests=tests)

    return Source("pipeline", "code", draw)


PROGRAMS: dict[str, Callable[[int, int], Source]] = {"linear": linear, "pipeline": pipeline}

"""Multi-digit addition, subtraction and multiplication with column-by-column thinking."""

import random
from collections.abc import Callable

from openqwq.tasks.source import Problem, Source


def operand(rng: random.Random, min_digits: int, max_digits: int) -> int:
    """A number whose count of digits is drawn first."""
    digits = rng.randint(min_digits, max_digits)
    return rng.randrange(10 ** (digits - 1), 10**digits)


def _columns(number: int) -> list[int]:
    """Digits, units first."""
    return [int(digit) for digit in reversed(str(number))]


def add_columns(a: int, b: int) -> str:
    """`8+6=14 4+7+1=12` for 48 + 76: each column with its carry, units first."""
    steps: list[str] = []
    carry = 0
    left = _columns(a)
    right = _columns(b)
    for i in range(max(len(left), len(right))):
        terms = left[i : i + 1] + right[i : i + 1] + [1] * carry
        steps.append(f"{'+'.join(map(str, terms))}={sum(terms)}")
        carry = sum(terms) // 10
    return " ".join(steps)


def subtract_columns(a: int, b: int) -> str:
    """`13-7=6 8-4-1=3` for 83 - 47: a column that borrows shows its ten."""
    steps: list[str] = []
    borrow = 0
    right = _columns(b)
    for i, digit in enumerate(_columns(a)):
        taken = right[i : i + 1] + [1] * borrow
        borrow = int(digit < sum(taken))
        top = digit + 10 * borrow
        terms = [top, *taken]
        steps.append(f"{'-'.join(map(str, terms))}={top - sum(taken)}")
    return " ".join(steps)


def multiply_columns(a: int, b: int) -> str:
    """`7*6=42 3*6=18 18+4=22` for 37 * 6 (one-digit b): product, then carry, units first."""
    steps: list[str] = []
    carry = 0
    for digit in _columns(a):
        product = digit * b
        steps.append(f"{digit}*{b}={product}")
        if carry:
            steps.append(f"{product}+{carry}={product + carry}")
        carry = (product + carry) // 10
    return " ".join(steps)


def _problem(a: int, sign: str, b: int, result: int, thinking: str) -> Problem:
    key = f"{min(a, b)}{sign}{max(a, b)}"  # 3+5 and 5+3 are one problem
    question = f"What is {a} {sign} {b}?"
    return Problem(key, question, thinking, f"\\boxed{{{result}}}", answer=str(result))


def addition(min_digits: int, max_digits: int) -> Source:
    """Sums of two numbers, each of `min_digits` to `max_digits` digits."""

    def draw(rng: random.Random) -> Problem:
        a = operand(rng, min_digits, max_digits)
        b = operand(rng, min_digits, max_digits)
        return _problem(a, "+", b, a + b, add_columns(a, b))

    return Source("addition", "math", draw)


def subtraction(min_digits: int, max_digits: int) -> Source:
    """Differences of two numbers, the larger first."""

    def draw(rng: random.Random) -> Problem:
        b = operand(rng, min_digits, max_digits)
        a = operand(rng, min_digits, max_digits)
        if a < b:
            a, b = b, a
        return _problem(a, "-", b, a - b, subtract_columns(a, b))

    return Source("subtraction", "math", draw)


def multiplication(min_digits: int, max_digits: int) -> Source:
    """Products of a number and a one-digit number from 2 to 9."""

    def draw(rng: random.Random) -> Problem:
        a = operand(rng, min_digits, max_digits)
        b = rng.randint(2, 9)
        return _problem(a, "*", b, a * b, multiply_columns(a, b))

    return Source("multiplication", "math", draw)


ARITHMETIC: dict[str, Callable[[int, int], Source]] = {
    "addition": addition,
    "subtraction": subtraction,
    "multiplication": multiplication,
}

"""Exact arithmetic on a syntax tree: nothing is ever evaluated as Python."""

import ast
import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from openqwq.types import OpenQwQError

MAX_BITS = 4096  # of any intermediate result: about 1,200 digits
MAX_CHARACTERS = 1000
MAX_DIGITS = 100  # to round to

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "min": min, "max": max, "round": round, "sqrt": math.sqrt, "log": math.log,
    "exp": math.exp, "sin": math.sin, "cos": math.cos, "tan": math.tan, "gcd": math.gcd,
}  # fmt: skip
_CONSTANTS = {"pi": math.pi, "e": math.e}


def calculator(expression: str) -> str:
    """Work out an arithmetic expression exactly, e.g. 12 * (3 + 4) ** 2 / 7.

    Args:
        expression: numbers, + - * / // % ** and parentheses, pi, e, abs, min, max, round, sqrt,
            log, exp, sin, cos, tan, gcd
    """
    if len(expression) > MAX_CHARACTERS:
        raise OpenQwQError(f"the expression has over {MAX_CHARACTERS} characters: split it")
    try:
        value = _value(ast.parse(expression.strip().replace("^", "**"), mode="eval").body)
        if isinstance(value, Fraction) and value.denominator > 1:
            return f"{value} = {float(value)!r}"
        return str(value)
    except ZeroDivisionError as error:
        raise OpenQwQError(f"{expression!r} divides by zero") from error
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise OpenQwQError(f"{expression!r} is not an arithmetic expression") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise OpenQwQError(f"{expression!r} cannot be worked out: {error}") from error


def _value(node: ast.expr) -> Any:
    """A number: whole ones and quotients stay exact, as fractions."""
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            value: Any = Fraction(number)
        case ast.Constant(value=float() as number):
            value = number
        case ast.Name(id=name) if name in _CONSTANTS:
            value = _CONSTANTS[name]
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            value = _value(operand)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            value = _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            value = _BINARY[type(sign)](_value(left), _value(right))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if (
            name in _FUNCTIONS
        ):
            value = _function(name, [_value(argument) for argument in arguments])
        case _:
            raise OpenQwQError(
                f"{ast.unparse(node)!r} is not arithmetic: use numbers and + - * /"
            )
    if isinstance(value, int):  # `//` of fractions gives one
        value = Fraction(value)
    if isinstance(value, complex) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise OpenQwQError(f"{ast.unparse(node)} is not a finite real number")
    if isinstance(value, Fraction) and _bits(value) > MAX_BITS:
        raise OpenQwQError(f"a number of over {MAX_BITS} bits came up: use smaller ones")
    return value


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        least_bits = (_bits(base) - 1) * abs(exponent)
        if least_bits > MAX_BITS:  # it would take forever
            raise OpenQwQError(f"{base} ** {exponent} has over {MAX_BITS} bits: too large")
    return base**exponent


def _function(name: str, values: list[Any]) -> Any:
    if name == "gcd":
        values = _whole(name, values)
    if name == "round":
        digits = _whole(name, values[1:])
        if any(abs(count) > MAX_DIGITS for count in digits):  # it would take forever
            raise OpenQwQError(f"round takes at most {MAX_DIGITS} digits")
        values = values[:1] + digits
    return _FUNCTIONS[name](*values)


def _whole(name: str, values: list[Any]) -> list[int]:
    if any(value != int(value) for value in values):
        raise OpenQwQError(f"{name} takes whole numbers")
    return list(map(int, values))

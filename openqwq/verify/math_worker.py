"""The process that judges answers with math-verify: one JSON line in, one out."""

import functools
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended.antlr_parser import PSParser
from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy
from math_verify import grader, parse, verify
from sympy import (
    Basic,
    Float,
    Integer,
    MatrixBase,
    Mul,
    Pow,
    Rational,
    Set,
    Union,
    factorial,
)
from sympy.core.cache import cacheit
from sympy.core.expr import UnevaluatedExpr
from sympy.logic.boolalg import Boolean

from openqwq.verify.boxes import BOX
from openqwq.verify.math_kinds import (
    contradicting_brackets,
    ends_with,
    joined_inequalities,
    same_kind,
    same_order,
    spelled,
    unwrapped,
)
from openqwq.verify.math_quantities import Level, comparable
from openqwq.verify.math_text import (
    JOINT_OF_GOLD,
    answer_in,
    infinity_spelled,
    last_boxes,
    mathematics,
    one_spelling,
)
from openqwq.verify.short_answer import short_answers
from openqwq.verify.workers import JudgeReply, serve

CORRECT = ("correct", "")
MAX_DIGITS = 1e6  # of the largest number that evaluating an answer may build
KIND_CHARACTERS = 2000  # no word, date or choice is longer
SIGNS_INSIDE = re.compile(r"\\[pm][mp](?![a-z])")
LONG_DECIMAL = re.compile(r"\.(\d*[1-9]\d{3,})")

general_numeric_eq = grader.sympy_numeric_eq
parsed_gold = functools.lru_cache(maxsize=1024)(parse)


def digits(node: Any) -> float:
    """About log10 of the largest number that evaluating a reading of math-verify's would build."""
    if isinstance(node, Rational):
        return math.log10(abs(node.p) or 1) - math.log10(node.q)
    if not isinstance(node, Basic):
        return 0
    sizes = list(map(digits, node.args))
    if isinstance(node, Pow):
        return max(sizes[0], 0.3) * 10 ** min(sizes[1], 300)
    if isinstance(node, factorial):
        return max(sizes[0], 1) * 10 ** min(sizes[0], 300)
    if isinstance(node, Mul):
        return sum(sizes)
    return max(sizes, default=0)


def judge(gold: str, answer: str, level: Level = "default") -> tuple[str, str]:
    """Return the status of `answer` and, where it is not a plain verdict, the reason."""
    wanted = one_spelling(last_boxes(gold, JOINT_OF_GOLD) or gold)
    told, boxed = answer_in(answer)
    wanted, given = infinity_spelled(wanted, one_spelling(told))
    bare_gold = unwrapped(wanted)
    readings = list(map(unwrapped, [given] if boxed else short_answers(given)))
    if bare_gold and spelled(bare_gold) in map(spelled, readings):
        return CORRECT
    if len(given) < KIND_CHARACTERS:
        same = same_kind(bare_gold, readings)
        if same is not None:
            return CORRECT if same else ("wrong", "another word, date, choice or sequence")

    for reading in readings:
        pairs = comparable(bare_gold, reading, boxed, level)
        if pairs is not None:
            equal = any(same_value(*pair) == CORRECT for pair in pairs)
            return CORRECT if equal else ("wrong", "another number or unit")

    if level == "lenient":
        wanted = without_order(wanted)
        given = without_order(given)
    else:
        for reading in readings:
            if contradicting_brackets(bare_gold, reading):
                return "wrong", "a set is not a pair or an interval"
    if level == "strict":
        for reading in readings:
            if not same_order(bare_gold, reading):
                return "wrong", "another order"

    gold_boxed = BOX.search(gold) is not None
    found = same_value(wanted, given, gold_boxed, boxed, level)
    has_signs = SIGNS_INSIDE.search(wanted) or SIGNS_INSIDE.search(given)
    if found != CORRECT and has_signs:
        wanted = with_both_signs(wanted)
        given = with_both_signs(given)
        found = same_value(wanted, given, gold_boxed, boxed, level)
    if found[0] != "wrong":
        return found
    if same_union(bare_gold, readings[0]) or (not boxed and ends_with(bare_gold, given)):
        return CORRECT
    return found


def same_value(
    gold: str,
    answer: str,
    gold_boxed: bool = False,
    boxed: bool = False,
    level: Level = "default",
) -> tuple[str, str]:
    """Status and reason by algebra: what math-verify makes of two texts."""
    gold = mathematics(gold, gold_boxed)
    answer = mathematics(answer, boxed)
    bare_gold = gold.strip("$ ")
    if bare_gold and bare_gold == answer.strip("$ "):
        return CORRECT
    wanted = parsed_gold(gold, parsing_timeout=0)
    found = parse(answer, parsing_timeout=0)
    readable = any(isinstance(reading, Basic | MatrixBase) for reading in wanted)
    if not readable or _is_large(wanted):
        return "error", f"the gold answer {gold[:200]!r} cannot be parsed or is too large"
    if _is_large(found):
        return "timeout", f"not evaluated: a number of over {MAX_DIGITS:.0e} digits"

    places = {15}
    if level != "strict":
        # six decimal places, or the four and more significant ones that one of the two gives
        decimals = LONG_DECIMAL.findall(gold) + LONG_DECIMAL.findall(answer)
        places = {6, min([6, *map(len, decimals)])}
    for count in places:
        equal = verify(
            wanted,
            found,
            strict=level != "lenient",
            float_rounding=count,
            timeout_seconds=0,
            allow_set_relation_comp=True,
        )
        if equal:
            return CORRECT
    return "wrong", "" if found else "no answer found"


def _is_large(readings: Iterable[Any]) -> bool:
    return any(digits(reading) > MAX_DIGITS for reading in readings)


def without_order(text: str) -> str:
    """A list in parentheses as a set."""
    return re.sub(r"(?:\\left)?\(([^()]*,[^()]*)(?:\\right)?\)", r"\\{\1\\}", text)


def with_both_signs(text: str) -> str:
    """A formula with `\\pm` as the two that it stands for; other text as it is."""
    if not SIGNS_INSIDE.search(text) or "," in text:
        return text
    upper = text.replace("\\pm", "+").replace("\\mp", "-")
    lower = text.replace("\\pm", "-").replace("\\mp", "+")
    return f"{upper}, {lower}"


def same_union(gold: str, answer: str) -> bool:
    """Whether inequalities joined by "or" are the gold's set."""
    if not joined_inequalities(gold) and not joined_inequalities(answer):
        return False
    wanted = _union(gold)
    return wanted is not None and bool(wanted == _union(answer))


def _union(text: str) -> Any:
    """The set of inequalities joined by "or"; None where one cannot be read."""
    parts = list(map(_as_set, joined_inequalities(text) or [text]))
    return None if None in parts else Union(*parts)


def _as_set(text: str) -> Any:
    for reading in parse(f"$${text.strip(' ,')}$$", parsing_timeout=0):
        if isinstance(reading, Set):
            return reading
        if (isinstance(reading, Basic) and reading.is_Relational) or isinstance(
            reading, Boolean
        ):
            with suppress(Exception):  # sympy raises anything
                return reading.as_set()
    return None


def numeric_eq(a: Any, b: Any, places: int, precision: int) -> bool:
    """Whether two numbers, or matrices of them, are equal.

    As in math-verify, but relative to their size: exact numbers must be equal to 30 digits, and
    others to three at the least, where its six decimal places make all small numbers equal.
    """
    if isinstance(a, MatrixBase) and isinstance(b, MatrixBase):
        if a.shape != b.shape:
            return False
        pairs = zip(a.flat(), b.flat(), strict=True)
        return all(numeric_eq(x, y, places, precision) for x, y in pairs)
    # sympy raises anything; what it cannot evaluate is left to math-verify
    with suppress(Exception):
        equal = _relatively_equal(a, b)
        if equal is not None:
            return equal
    return bool(general_numeric_eq(a, b, places, precision))


def _relatively_equal(a: Any, b: Any) -> bool | None:
    """Whether two numbers are equal relative to their size; None where that does not say."""
    is_percent = a.has(UnevaluatedExpr) or b.has(UnevaluatedExpr)
    if is_percent or not (a.is_number and b.is_number):
        return None
    x = a.doit().evalf(50)
    y = b.doit().evalf(50)
    if not (x.is_finite and y.is_finite):
        return bool(x == y)

    exact = not (_is_decimal(a) or _is_decimal(b))
    if exact and isinstance(a.doit(), Rational) and isinstance(b.doit(), Rational):
        return bool(a.doit() == b.doit())
    tolerance = Float("1e-30" if exact else "1e-3")
    if abs(x - y) > max(abs(x), abs(y)) * tolerance:
        return False
    return True if exact else None


def _is_decimal(number: Any) -> bool:
    """Whether a number was written with decimal places, of which math-verify makes fractions."""
    if number.has(Float):
        return True
    return any(10**12 % each.q == 0 and each.q >= 10**4 for each in number.atoms(Rational))


def speed_up() -> None:
    """Make math-verify some five times faster at the same verdicts.

    ANTLR's SLL mode gives the LL parse or a syntax error (its manual, two-stage parsing); what is
    far from zero at one point is not identically zero; a number is read without sympy's general
    parser; a gold relation becomes a set only once.
    """
    math_rule = PSParser.math
    symbolic = grader.sympy_symbolic_eq
    general_number = functools.lru_cache(maxsize=4096)(
        functools.partial(_Latex2Sympy.parse_number, None)
    )

    def number(_: Any, text: str) -> Any:
        if text.isdecimal() and len(text) < 1000:
            return Integer(text)
        return general_number(text)

    def two_stage(parser: Any) -> Any:
        try:
            parser._interp.predictionMode = PredictionMode.SLL
            return math_rule(parser)
        except Exception:  # the class that the library raises on a syntax error
            parser.reset()
            parser._interp.predictionMode = PredictionMode.LL
            return math_rule(parser)

    def refute_first(a: Any, b: Any) -> Any:
        # sympy raises anything; what it cannot evaluate, it simplifies
        with suppress(Exception):
            names = sorted((a - b).free_symbols, key=str)
            point = {name: Rational(2 * i + 3, 7) for i, name in enumerate(names)}
            at_a = a.subs(point).evalf(30)
            at_b = b.subs(point).evalf(30)
            if abs(at_a - at_b) > 1e-9 * max(abs(at_a), abs(at_b)):
                return False
        return symbolic(a, b)

    PSParser.math = two_stage
    grader.sympy_symbolic_eq = refute_first
    grader.sympy_numeric_eq = numeric_eq
    _Latex2Sympy.parse_number = number
    Boolean.as_set = cacheit(Boolean.as_set)


def complete_grammar() -> None:
    """Give the parser for ANTLR 4.9, which hydra needs, the one atom that only the others have.

    latex2sympy2_extended asks every atom for it, and without it fails on percentages.
    """
    if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):
        PSParser.AtomContext.FUNC_GAMMA = lambda _: None


def verdict(request: dict[str, Any]) -> JudgeReply:
    """The reply to a request of `gold` and `answer`."""
    status, detail = judge(request["gold"], request["answer"], request["level"])
    return {"status": status, "detail": detail}


if __name__ == "__main__":
    complete_grammar()
    speed_up()
    serve(verdict)

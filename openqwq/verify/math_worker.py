"""The process that judges answers with math-verify: one JSON line in, one out."""

import functools
import math
import re
from contextlib import suppress
from typing import Any

from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended.antlr_parser import PSParser
from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy
from math_verify import grader, parse, verify
from sympy import Basic, Integer, Mul, Pow, Rational, factorial
from sympy.core.cache import cacheit
from sympy.logic.boolalg import Boolean

from openqwq.verify.workers import Verdict, serve

MAX_DIGITS = 1e6  # of the largest number that evaluating an answer may build

BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
JOINT = re.compile(  # what may stand between boxes that form one answer
    r"(?:[\s$,;.&]|\\[()\[\]]|\\q?quad|(?:\\text\{\s*)?(?:and|or)(?:\s*\})?|[A-Za-z](?:_?\w+)?\s*=)*"
)
DELIMITED = re.compile(r"(?<!\\)\$|\\\[|\\\(")
NUMBER = re.compile(r"[$€£]?\s*-?(?:\d{1,3}(?:[ ,]\d{3})+(?:\.\d+)?|\d*[.,]?\d+)\s*(?:\\?%)?")
POWER = re.compile(r"-?\(?-?\d[\d\s.+*/()-]*(?:\^|\*\*)[\d\s.+*/^()-]*")
COMMAND = re.compile(r"\\[A-Za-z]+\s*(?:\{[A-Za-z ]*\})?")
WORD = re.compile(
    r"(?i)\b(?!(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|and)\b)[a-z]{3,}|\b(?:is|it)\b"
)
PRODUCT = re.compile(r"(?<=[\d)])\s*\((?=-?\d+(?:\.\d+)?\))")  # 2(3): not the mixed number 2 + 3
LONG_DECIMAL = re.compile(r"\.(\d*[1-9]\d{3,})")

parsed_gold = functools.lru_cache(maxsize=1024)(parse)


def last_boxes(text: str) -> str:
    """What the last `\\boxed{}` holds, and before it those joined to it ("and", a comma)."""
    contents: list[str] = []
    following = len(text)
    for box in reversed(list(BOX.finditer(text))):
        end, depth = box.end(), 1
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if contents and not JOINT.fullmatch(text, end, following):
            break
        contents.insert(0, text[box.end() : end - (depth == 0)])
        following = box.start()
    return ", ".join(contents)


def mathematics(text: str) -> str:
    """The part of an answer that math-verify should read.

    The last boxes if any; prose, delimited mathematics, plain numbers and Python's powers as they
    are; any other bare answer between `$$`.
    """
    boxed = last_boxes(text)
    if not boxed:
        if DELIMITED.search(text):
            return text
        text = text.replace("\\$", "").strip("* \n")
        prose = len(text.split()) > 1 and WORD.search(COMMAND.sub("", text))
        if prose or NUMBER.fullmatch(text) or POWER.fullmatch(text):
            return text
    text = PRODUCT.sub(r"\\cdot(", (boxed or text).strip("$ \n"))
    return "$$" + text.replace("\n", " ") + "$$"


def digits(node: Any) -> float:
    """About log10 of the largest number that evaluating a reading of math-verify's would build."""
    if isinstance(node, Rational):
        return math.log10(abs(node.p) or 1) - math.log10(node.q)
    sizes = [digits(part) for part in node.args] if isinstance(node, Basic) else []
    if isinstance(node, Pow):
        return max(sizes[0], 0.3) * 10 ** min(sizes[1], 300)
    if isinstance(node, factorial):
        return max(sizes[0], 1) * 10 ** min(sizes[0], 300)
    return sum(sizes) if isinstance(node, Mul) else max(sizes, default=0)


def judge(gold: str, answer: str) -> tuple[str, str]:
    """Return the status of `answer` and, where it is no plain verdict, the reason."""
    gold, answer = mathematics(gold), mathematics(answer)
    if gold.strip("$ ") and gold.strip("$ ") == answer.strip("$ "):
        return "correct", ""
    wanted, found = parsed_gold(gold, parsing_timeout=0), parse(answer, parsing_timeout=0)
    if not wanted or any(digits(reading) > MAX_DIGITS for reading in wanted):
        return "error", f"the gold answer {gold[:200]!r} cannot be parsed or is too large"
    if any(digits(reading) > MAX_DIGITS for reading in found):
        return "timeout", f"not evaluated: a number of over {MAX_DIGITS:.0e} digits"
    # six decimal places, or the four and more significant ones that the answer gives
    for places in {6, min([6, *map(len, LONG_DECIMAL.findall(answer))])}:
        options = {"float_rounding": places, "timeout_seconds": 0, "allow_set_relation_comp": True}
        if verify(wanted, found, **options):
            return "correct", ""
    return "wrong", "" if found else "no answer found"


def speed_up() -> None:
    """Make math-verify some five times faster at the same verdicts.

    ANTLR's SLL mode gives the LL parse or a syntax error (its manual, two-stage parsing); what is
    far from zero at one point is not identically zero; a number is read without sympy's general
    parser; a gold relation becomes a set only once.
    """
    math_rule, symbolic = PSParser.math, grader.sympy_symbolic_eq
    general_number = functools.lru_cache(maxsize=4096)(
        functools.partial(_Latex2Sympy.parse_number, None)
    )

    def number(_: Any, text: str) -> Any:
        return Integer(text) if text.isdecimal() and len(text) < 1000 else general_number(text)

    def two_stage(parser: Any) -> Any:
        try:
            parser._interp.predictionMode = PredictionMode.SLL
            return math_rule(parser)
        except Exception:  # the class that the library raises on a syntax error
            parser.reset()
            parser._interp.predictionMode = PredictionMode.LL
            return math_rule(parser)

    def refute_first(a: Any, b: Any) -> Any:
        with suppress(Exception):  # sympy raises anything; what it cannot evaluate, it simplifies
            names = sorted((a - b).free_symbols, key=str)
            point = {name: Rational(2 * i + 3, 7) for i, name in enumerate(names)}
            if abs((a - b).subs(point).evalf(15)) > 1e-6:
                return False
        return symbolic(a, b)

    PSParser.math, grader.sympy_symbolic_eq = two_stage, refute_first
    _Latex2Sympy.parse_number = number
    Boolean.as_set = cacheit(Boolean.as_set)


def verdict(request: dict[str, str]) -> Verdict:
    """The reply to a request of `gold` and `answer`."""
    status, detail = judge(request["gold"], request["answer"])
    return {"status": status, "detail": detail}


if __name__ == "__main__":
    speed_up()
    serve(verdict)

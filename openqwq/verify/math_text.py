"""How the answers of mathematics are written: which part of a text is one, in one spelling."""

import re
import unicodedata

from openqwq.verify.answer import tagged_answer
from openqwq.verify.boxes import BOX, closing_brace

JOINT = re.compile(  # what may stand between boxes that form one answer
    r"(?:[\s$,;.&]|\\[()\[\]]|\\q?quad|\\text\{[^{}]*\}|(?:and|or)\b|[A-Za-z](?:_?\w+)?\s*=)*"
    r"|\s*(?:[A-Za-z]+\s+)?and(?:\s+[A-Za-z]+)?\s*"
)
JOINT_OF_GOLD = re.compile(
    rf"(?:{JOINT.pattern})|[^.\n]{{0,40}}?(?:\band\b|[,;&])[^.\n]{{0,40}}"
)
PERCENT_AFTER = re.compile(r"[\s$]*(?:\\?%|percent(?:age)?\b|pct\b)")
DELIMITED = re.compile(r"(?<!\\)\$|\\\[|\\\(")
NUMBER = re.compile(
    r"[$€£]?\s*-?(?:\d{1,3}(?:[ ,]\d{3})+(?:\.\d+)?|\d*[.,]?\d+)\s*(?:\\?%)?"
)
POWER = re.compile(r"-?\(?-?\d[\d\s.+*/()-]*(?:\^|\*\*)[\d\s.+*/^()-]*")
COMMAND = re.compile(r"\\[A-Za-z]+\s*(?:\{[A-Za-z ]*\})?")
WORD = re.compile(
    r"(?i)\b(?!(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|and)\b)[a-z]{3,}|\b(?:is|it)\b"
)
# 2(3): not the mixed number 2 + 3
PRODUCT = re.compile(r"(?<=[\d)])\s*\((?=-?\d+(?:\.\d+)?\))")

_THIN = "\N{THIN SPACE}\N{NARROW NO-BREAK SPACE}\N{NO-BREAK SPACE}\N{SIX-PER-EM SPACE}"
_GROUPED = re.compile(
    rf"(?<![\d.])(\d{{1,3}})((?:(?:\\[,;:! ]|~|[ {_THIN}]|\{{,\}})\d{{3}})+)(?!\d)"
)
_SCIENTIFIC = re.compile(r"(?<![\w.\\])(-?(?:\d+\.?\d*|\.\d+))[eE]([+-]?\d{1,4})(?![\w.])")
_MIXED = re.compile(r"(?<![\w.^/}])(-?)(\d+)(?:\s|\\[ ,;:]|~)+(\d+)/(\d+)(?![\w/])")
_REPEATING = re.compile(
    r"(?<![\d.])(\d*)\.(\d*)\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))(?!\d)"
)
_IN_PARENTHESES = re.compile(r"(?<![\d.])(0)\.(\d*)\((\d+)\)(?![\d.])")
_VULGAR = re.compile(
    "[\N{VULGAR FRACTION ONE QUARTER}-\N{VULGAR FRACTION THREE QUARTERS}⅐-⅞]"
)
_DOTTED = re.compile(r"(?<![\d.])(\d*)\.(\d*?)(\d{1,6}?)\3{2,}(?:\.\.\.|\\[lc]?dots|…)")
_UNICODE = {
    "\N{DEGREE SIGN}": "^\\circ", "\N{MINUS SIGN}": "-", "\N{MULTIPLICATION SIGN}": "\\times ",
    "\N{INFINITY}": "\\infty ", "\N{SQUARE ROOT}": "\\sqrt", "\N{EMPTY SET}": "\\emptyset",
    "\N{UNION}": "\\cup ", "\N{LESS-THAN OR EQUAL TO}": "\\le ", "\N{DIVISION SLASH}": "/",
    "\N{GREATER-THAN OR EQUAL TO}": "\\ge ", "\N{GREEK SMALL LETTER PI}": "\\pi ",
    "\\varnothing": "\\emptyset", "\\dfrac": "\\frac", "\\tfrac": "\\frac", "{:}": ":",
    "\\degree": "^\\circ",
}  # fmt: skip
_INFINITY = re.compile(
    r"(?i)(?<![\\A-Za-z])(?:(?P<sign>negative|minus|positive|plus)\s+)?infinity(?![A-Za-z])"
)
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
_EXPONENT = re.compile(rf"(?<=[\w)}}\]])[{_RAISED}]+")
_AS_DIGITS = str.maketrans(_RAISED, "0123456789+-")
_NEGATIVE_POWER = re.compile(r"\^\s*(-\s*\d+)")
_COLOUR = re.compile(
    r"\\(?:color|textcolor)\s*\{[A-Za-z]+\}|\\(?:ensuremath|displaystyle)(?![a-z])"
)
_LAST_MARK = re.compile(r"(?<![.\\])[.,;]\s*$")


def last_boxes(text: str, joint: re.Pattern[str] = JOINT) -> str:
    """What the last `\\boxed{}` holds, and before it those joined to it ("and", a comma)."""
    contents: list[str] = []
    following = len(text)
    for box in reversed(list(BOX.finditer(text))):
        end = closing_brace(text, box.end())
        if contents and not joint.fullmatch(text, min(end + 1, len(text)), following):
            break
        contents.insert(0, text[box.end() : end])
        following = box.start()
    return ", ".join(contents)


def one_spelling(text: str) -> str:
    """The text in one spelling: of grouped, mixed, scientific and repeating numbers, and signs."""
    for sign, command in _UNICODE.items():
        text = text.replace(sign, command)
    text = _COLOUR.sub("", text)
    text = _EXPONENT.sub(lambda m: f"^{{{m[0].translate(_AS_DIGITS)}}}", text)
    text = _NEGATIVE_POWER.sub(r"^{\1}", text)
    text = _GROUPED.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    text = _MIXED.sub(_mixed, text)
    text = _VULGAR.sub(_vulgar, text)
    text = _IN_PARENTHESES.sub(lambda m: _repeating(m[1], m[2], m[3]), text)
    text = _REPEATING.sub(lambda m: _repeating(m[1], m[2], m[3] or m[4]), text)
    return _DOTTED.sub(lambda m: _repeating(m[1], m[2], m[3]), text)


def infinity_spelled(gold: str, answer: str) -> tuple[str, str]:
    """A gold formula and an answer with the word "infinity" as its sign; others as they are."""
    formula = _INFINITY.sub(_signed_infinity, gold)
    if WORD.search(COMMAND.sub("", formula)):  # prose, or a name such as Project Infinity
        return gold, answer
    return formula, _INFINITY.sub(_signed_infinity, answer)


def _signed_infinity(match: re.Match[str]) -> str:
    sign = "-" if (match["sign"] or "").lower() in ("negative", "minus") else ""
    return f"{sign}\\infty "


def _mixed(match: re.Match[str]) -> str:
    sign, whole, above, below = match.groups()
    if int(above) >= int(below):
        return match[0]
    return rf"{sign}\frac{{{int(whole) * int(below) + int(above)}}}{{{below}}}"


def _vulgar(match: re.Match[str]) -> str:
    """A fraction that is one character."""
    above, _, below = unicodedata.normalize("NFKC", match[0]).partition(
        "\N{FRACTION SLASH}"
    )
    if not below:
        return match[0]
    return rf"\frac{{{above}}}{{{below}}}"


def _repeating(whole: str, fixed: str, cycle: str) -> str:
    """0.1(6) as a fraction."""
    scale = 10 ** len(fixed)
    period = 10 ** len(cycle) - 1
    above = int((whole or "0") + fixed) * period + int(cycle)
    return rf"\frac{{{above}}}{{{scale * period}}}"


def answer_in(text: str) -> tuple[str, bool]:
    """What a text answers, and whether that was boxed or tagged."""
    tagged = tagged_answer(text)
    boxed = last_boxes(text if tagged is None else tagged)
    if boxed:
        last = list(BOX.finditer(text))[-1]
        following = text[text.find("}", last.end()) + 1 :]
        if PERCENT_AFTER.match(following):
            boxed += "\\%"
        return _LAST_MARK.sub("", boxed), True
    if tagged is not None:
        return tagged, True
    return text, False


def mathematics(text: str, boxed: bool) -> str:
    """The part of an answer that math-verify should read.

    What was boxed; prose, delimited mathematics, plain numbers and Python's powers as they are;
    any other bare answer between `$$`.
    """
    if not boxed:
        if DELIMITED.search(text):
            return text
        text = text.replace("\\$", "").strip("* \n")
        prose = len(text.split()) > 1 and WORD.search(COMMAND.sub("", text))
        if prose or NUMBER.fullmatch(text) or POWER.fullmatch(text):
            return text
    text = PRODUCT.sub(r"\\cdot(", text.strip("$ \n"))
    return "$$" + text.replace("\n", " ") + "$$"

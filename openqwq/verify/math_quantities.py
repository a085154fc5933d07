"""Quantities as answers: numbers with a unit, a currency or a percent sign."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Level = Literal["strict", "default", "lenient"]

FORMULA_CHARACTERS = 60  # a gold answer that is longer may be a worked solution
_DECIMAL = r"-?[\d.,]*\d"
_QUANTITY = re.compile(
    r"(?P<before>\\?[$€£¥₹])?\s*"
    rf"(?P<number>{_DECIMAL}(?:\s*(?:/|\\times)\s*[\d^{{}}\-]+)?"
    r"|-?\\frac\s*\{[\d.]+\}\s*\{[\d.]+\})\s*"
    r"(?P<unit>\\?%|\^\\circ(?:\s*[CFK])?|[^\W\d_][^\d=+*/<>]*?(?:\s*\^?[23²³]|/[a-z]+)?)?\.?"
)
_FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "lim", "mod", "pi",
}  # fmt: skip
_PERCENT = {"%", "\\%", "percent", "pct", "percentage", "percents", "per cent"}
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_CURRENCIES = {
    "$": "dollar",
    "\\$": "dollar",
    "€": "euro",
    "£": "pound",
    "¥": "yen",
    "₹": "rupee",
}
# Measures by name, for each thing measured: how much of it one is.
_SCALES: dict[str, dict[str, float]] = {
    "length": {
        "mm": 0.001, "millimeter": 0.001, "cm": 0.01, "centimeter": 0.01, "m": 1, "meter": 1,
        "km": 1000, "kilometer": 1000, "in": 0.0254, "inch": 0.0254, "ft": 0.3048, "foot": 0.3048,
        "feet": 0.3048, "yard": 0.9144, "mile": 1609.344,
    },
    "mass": {
        "mg": 1e-6, "milligram": 1e-6, "g": 0.001, "gram": 0.001, "kg": 1, "kilogram": 1,
        "ton": 1000,
    },
    "weight": {"oz": 1, "ounce": 1, "lb": 16, "pound": 16},
    "time": {
        "s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600,
        "day": 86400, "week": 604800,
    },
    "months": {"month": 1, "year": 12},
    "volume": {"ml": 0.001, "milliliter": 0.001, "l": 1, "liter": 1},
    "angle": {"degree": 1},
    "arc": {"radian": 1},
    "dollars": {"cent": 0.01, "dollar": 1, "usd": 1},
    "euros": {"euro": 1, "eur": 1},
    "yen": {"yen": 1},
    "rupees": {"rupee": 1},
    "yuan": {"yuan": 1},
}  # fmt: skip
_MEASURES: dict[str, tuple[str, float]] = {}
for _kind, _table in _SCALES.items():
    for _name, _size in _table.items():
        _MEASURES[_name] = (_kind, _size)


@dataclass(frozen=True)
class Quantity:
    """A number as text, and what it counts: a unit in small letters, "%" or ""."""

    number: str
    unit: str


def quantity(text: str) -> Quantity | None:
    """A number with what it counts; None for anything else, as for a number times a symbol."""
    if len(text) >= 200:
        return None
    match = _QUANTITY.fullmatch(text.strip())
    if not match:
        return None
    number = match["number"]
    unit = match["unit"] or ""
    name = _CURRENCIES.get(match["before"] or "", "") or _unit(unit.strip())
    if unit and name != "%" and not match["before"] and "circ" not in unit:
        apart = text[match.end("number") :].startswith(" ")
        if not _is_a_unit(unit, name, apart):
            return None
    return Quantity(number.replace(" ", ""), name)


def _is_a_unit(unit: str, name: str, apart: bool) -> bool:
    """Whether letters after a number count something, and are not symbols or a function of it."""
    letters = re.sub(r"\W", "", unit.split(" ")[0])
    known = measured(name) is not None
    if letters.lower() in _FUNCTIONS:
        return False
    if not apart and not (known and len(letters) > 1):
        return False
    return known or len(letters) >= 3


def comparable(
    gold: str, answer: str, boxed: bool, level: Level
) -> list[tuple[str, str]] | None:
    """The pairs of numbers of which one must be equal for two quantities to be; None without units.

    [] where units contradict. A percentage is equal to its hundredth. Only a bare answer, which is
    what tables hold, may leave a percent sign out.
    """
    wanted = quantity(gold)
    given = quantity(answer)
    if given is None or not (given.unit or (wanted and wanted.unit)):
        return None
    if wanted is None:
        if len(gold) > FORMULA_CHARACTERS:
            return None
        wanted = Quantity(gold, "")
    pair = (wanted.number, given.number)
    units = (wanted.unit, given.unit)
    if level == "lenient" or wanted.unit == given.unit:
        return [pair]
    if "%" in units:
        hundredth = (_hundredth(wanted), _hundredth(given))
        one_sided = not boxed and "" in units and level == "default"
        return [hundredth, pair] if one_sided else [hundredth]
    if level == "strict":
        return []
    ours = measured(wanted.unit)
    theirs = measured(given.unit)
    if ours is None or theirs is None:
        return [pair]
    if ours[0] != theirs[0]:
        return []
    return [(_times(wanted.number, ours[1]), _times(given.number, theirs[1]))]


def _hundredth(given: Quantity) -> str:
    """The number, of which a percent sign makes the hundredth."""
    if given.unit != "%":
        return given.number
    return rf"\frac{{{given.number}}}{{100}}"


def _times(number: str, factor: float) -> str:
    if factor == 1:
        return number
    return rf"{number} \times {Decimal(repr(factor)):f}"


def _unit(text: str) -> str:
    """A unit in small letters and in the singular; the power of a square or cubic one after it."""
    if text in _PERCENT or text.lower() in _PERCENT:
        return "%"
    text = text.replace("^\\circ", "degree").replace("²", "^2").replace("³", "^3")
    power = re.search(r"\^?([23])$", text)
    words = re.sub(r"\^?[23]$", "", text).replace(".", "").split()
    exponent = power[1] if power else ""
    if words and words[0].lower() in _POWERS:
        exponent = _POWERS[words.pop(0).lower()]
    if not words:
        return ""
    name = words[0].lower().replace("metre", "meter").replace("litre", "liter")
    for singular in (name, name.removesuffix("s"), name.removesuffix("es")):
        if singular in _MEASURES:
            return singular + exponent
    return name.removesuffix("s") + exponent


def measured(unit: str) -> tuple[str, float] | None:
    """What a unit measures, with its power, and how much of it; None for what is counted."""
    exponent = int(unit[-1]) if unit[-1:] in ("2", "3") else 1
    known = _MEASURES.get(unit.rstrip("23"))
    if known is None:
        return None
    return f"{known[0]}{exponent}", known[1] ** exponent

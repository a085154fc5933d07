"""Quantities as answers: numbers with a unit, a currency or a percent sign."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

Level = Literal["strict", "default", "lenient"]

FORMULA_CHARACTERS = 60  # a gold answer that is longer may be a worked solution
_DECIMAL = r"-?[\d.,]*\d"
_QUANTITY = re.compile(
    r"(?P<before>\\?[$€£¥₹])?\s*"
    rf"(?P<number>{_DECIMAL}(?:\s*(?:/|\\times)\s*[\d^{{}}\-]+)?"
    r"|-?\\frac\s*\{[\d.]+\}\s*\{[\d.]+\})\s*"
    r"(?P<unit>\\?%|\^\\circ(?:\s*[CFK])?|\\frac\s*\{[A-Za-z ]+\}\s*\{[A-Za-z ]+\}"
    r"|/?[^\W\d_][^\d=+*/<>]*?(?:/[a-z]+)?(?:\s*\^?(?:[23²³]|\{[23]\}))?)?\.?"
)
_PERCENTAGE = re.compile(r"([^,=%]*\d[^,=%]*?)\s*(?:\\?%|(?i:percent|pct))")
_NO_UNITS = {  # words after a number that count nothing
    "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "lim", "mod", "pi",
    "and", "or", "to",
}  # fmt: skip
_QUOTIENT = re.compile(r"(?P<above>[^/]*?)\s*(?:/|\bper\b)\s*(?P<below>[^/]+)")
_SPEEDS = {"mph": "mile/hour", "kph": "km/hour", "kmh": "km/hour", "kmph": "km/hour"}
_PERCENT = {"%", "\\%", "percent", "pct", "percentage", "percents", "per cent"}
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_STERLING = "gbp"  # not "pound", which is a weight as well
_CURRENCIES = {
    "$": "dollar",
    "\\$": "dollar",
    "€": "euro",
    "£": _STERLING,
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
    "sterling": {_STERLING: 1, "pence": 0.01},
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
        return _percentage(text.strip())
    number = match["number"]
    unit = match["unit"] or ""
    currency = _CURRENCIES.get(match["before"] or "", "")
    if currency and not _QUOTIENT.match(unit):
        name = currency
    else:
        name = _unit(currency + unit.strip())
    if unit and name != "%" and not match["before"] and "circ" not in unit:
        apart = text[match.end("number") :].startswith(" ")
        if not _is_a_unit(unit, name, apart):
            return None
    return Quantity(number.replace(" ", ""), name)


def _percentage(text: str) -> Quantity | None:
    """A formula with a percent sign after it: 33\\frac{1}{3}\\%."""
    match = _PERCENTAGE.fullmatch(text)
    if not match or re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}", match[1]):
        return None
    return Quantity(match[1], "%")


def _is_a_unit(unit: str, name: str, apart: bool) -> bool:
    """Whether letters after a number count something, and are not symbols or a function of it."""
    letters = re.sub(r"\W", "", unit.split(" ")[0])
    known = measured(name) is not None
    if letters.lower() in _NO_UNITS:
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
    wanted = _in_pounds_of(given, wanted)
    given = _in_pounds_of(wanted, given)
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
        same_above = ours[0].split("/")[0] == theirs[0].split("/")[0]
        one_is_quotient = ("/" in ours[0]) != ("/" in theirs[0])
        return [pair] if same_above and one_is_quotient else []
    return [(_times(wanted.number, ours[1]), _times(given.number, theirs[1]))]


def _in_pounds_of(other: Quantity, found: Quantity) -> Quantity:
    """`found`, whose pounds are money where the other's are."""
    if _STERLING not in other.unit:
        return found
    return replace(found, unit=re.sub("^pound(?![a-z])", _STERLING, found.unit))


def _hundredth(given: Quantity) -> str:
    """The number, of which a percent sign makes the hundredth."""
    if given.unit != "%":
        return given.number
    return rf"\frac{{{given.number}}}{{100}}"


def _times(number: str, factor: Fraction) -> str:
    if factor == 1:
        return number
    if factor.denominator == 1:
        return rf"{number} \times {factor}"
    return rf"{number} \times \frac{{{factor.numerator}}}{{{factor.denominator}}}"


def _unit(text: str) -> str:
    """A unit in small letters and in the singular; the power of a square or cubic one after it."""
    if text in _PERCENT or text.lower() in _PERCENT:
        return "%"
    text = text.replace("^\\circ", "degree").replace("²", "^2").replace("³", "^3")
    text = re.sub(r"\\frac\s*\{(.*?)\}\s*\{(.*?)\}", r"\1/\2", text)
    text = re.sub(r"\{([23])\}", r"\1", text)
    quotient = _QUOTIENT.fullmatch(text)
    if quotient and quotient["above"]:
        return f"{_unit(quotient['above'])}/{_unit(quotient['below'])}"
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
    return _SPEEDS.get(name, name.removesuffix("s") + exponent)


def measured(unit: str) -> tuple[str, Fraction] | None:
    """What a unit measures, with its power, and how much of it; None for what is counted."""
    above, _, below = unit.partition("/")
    if below:
        ours = measured(above)
        theirs = measured(below)
        if ours is None or theirs is None:
            return None
        return f"{ours[0]}/{theirs[0]}", ours[1] / theirs[1]
    exponent = int(unit[-1]) if unit[-1:] in ("2", "3") else 1
    known = _MEASURES.get(unit.rstrip("23"))
    if known is None:
        return None
    return f"{known[0]}{exponent}", Fraction(str(known[1])) ** exponent

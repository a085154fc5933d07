"""Gold answers that are not formulas: choices, words, dates, numbers of a base, sets.

Each function takes a gold and an answer as written and says whether they are equal, or None where
they are not of its kind. Algebra is for math-verify.
"""

import re
from collections.abc import Sequence

from openqwq.verify.boxes import closing_brace

_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|tt|sf)|mbox|operatorname)\s*\{"
)
_CHOICE = re.compile(r"\(?\s*(?P<letter>[A-Z])\s*\)?")
_CHOSEN = re.compile(
    r"(?i:option|choice|answer)?\s*\(?([A-Z])\)?\s*(?:[.:)]\s*\S.*|[.:)]?)", re.DOTALL
)
_LETTERED = re.compile(
    r"(?:\((?=[A-Z]\))|(?=[A-Z][.:)]))(?P<letter>[A-Z])[.:)]\s*\S.*", re.DOTALL
)
_DECLARED = re.compile(
    r"(?i:(?:option|choice|answer)\s*)\(?(?P<letter>[A-Z])\)?\s+is\s+(?:the\s+)?(?:correct|right|best)"
)
_CHOICES = re.compile(r"\(?[A-Z]\)?(?:\s*(?:,|and|or|&|, and)\s*\(?[A-Z]\)?)*")
_WORDS = re.compile(r"[^\W\d_]+(?:[ '\-,][^\W\d_]+)*[.!]?")
_SHORT_WORDS = {
    "yes",
    "no",
    "odd",
    "even",
    "true",
    "all",
    "any",
    "red",
    "one",
    "two",
    "six",
    "ten",
}
_NUMERALS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
]  # fmt: skip
_DIGITS = _NUMERALS[1:10]
_NUMERALS += [f"twenty-{digit}" for digit in _DIGITS]
for _tens in ("thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"):
    _NUMERALS.append(_tens)
    _NUMERALS += [f"{_tens}-{digit}" for digit in _DIGITS]
_MONTHS = [
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
]
_BASED = re.compile(r"\(?([0-9A-Za-z]+)\)?_\{?(?:\\text\{)?\s*(\w+)\s*\}*")
_DOTS = re.compile(r"\\(?:[lc]|vd|dd)?dots[cbmio]?|\.\.\.|…")
_INEQUALITY = re.compile(r"[<>]|\\(?:leq?|geq?|lt|gt)(?![a-z])")
_NO_SOLUTION = re.compile(
    r"(?i)\\emptyset|\\\{\s*\\\}|(?:the )?empty set|none"
    r"|(?:(?:there|it) (?:is|are|has|have) )?no (?:real )?solutions?(?: exists?)?\.?"
)
_DATE_IN_TEXT = re.compile(
    rf"(?i)\b(?:\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}|\d{{1,2}}/\d{{1,2}}/\d{{4}}"
    rf"|(?:{'|'.join(_MONTHS)})[a-z]*\.? \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?"
    rf"|\d{{1,2}}(?:st|nd|rd|th)? (?:of )?(?:{'|'.join(_MONTHS)})[a-z]*(?:,? \d{{4}})?)"
)
_REALS = re.compile(
    r"(?i)(?:[a-z]\s*\\in\s*)?(?:\\mathbb\s*(?:\{\s*R\s*\}|R)|\\R|\\Reals"
    r"|\(\s*-\\infty\s*,\s*\+?\\infty\s*\))"
    r"|(?:the set of )?(?:all )?(?:real numbers|reals)"
)
_CLOCK = re.compile(r"(?i)(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?\s*(?:([ap])\.?\s*m\.?)?")
_RATIO = re.compile(r"\d+(?:\s*:\s*\d+){2,}")


def unwrapped(text: str) -> str:
    """Without dollar signs, delimiters, text commands, and marks around it."""
    text = text.strip().strip("$").strip()
    text = re.sub(r"\\[()\[\]]", "", text)
    while match := _COMMAND.search(text):
        end = closing_brace(text, match.end())
        text = text[: match.start()] + " " + text[match.end() : end] + " " + text[end + 1 :]
    text = re.sub(r"\\[,;:! ]|\\q?quad|~", " ", text).replace("{}", "")
    if text.count("$") > 1:
        text = re.sub(r"(?<!\\)[$]", "", text)
    return " ".join(text.strip("*_` \n").split())


def spelled(text: str) -> str:
    """Without spaces that tell nothing apart, and braces around a lone character."""
    text = re.sub(r"(\\[A-Za-z]+)\s+(?![A-Za-z])", r"\1", text)
    text = re.sub(r"(?<![\w.\\])\s+|\s+(?![\w.\\])", "", text)
    return re.sub(r"\{(\w)\}", r"\1", text)


def ends_with(gold: str, answer: str) -> bool:
    """Whether a sentence says the gold last: "The train leaves at 3:45 PM."."""
    said = re.split(r"(?:\b(?:is|are|at|be|equals|choose|pick)|=)\s+", answer)
    last = said[-1].strip().rstrip(".!")
    return len(said) > 1 and spelled(unwrapped(last)) == spelled(gold).rstrip(".")


def same_choice(gold: str, answer: str) -> bool | None:
    """A letter of a list of choices: `C`, `(C)`, `C. 42`, `\\text{C: the third}`; or several."""
    if _CHOICES.fullmatch(gold) and _CHOICES.fullmatch(answer):
        all_wanted = sorted(re.findall("[A-Z]", gold))
        all_given = sorted(re.findall("[A-Z]", answer))
        if len(all_wanted) > 1 or len(all_given) > 1:
            return all_wanted == all_given
    wanted = _CHOICE.fullmatch(gold) or _LETTERED.fullmatch(gold)
    given = _CHOSEN.fullmatch(answer) or _DECLARED.search(answer)
    if not wanted or not given:
        return None
    return wanted["letter"] == given[1]


def same_words(gold: str, answer: str) -> bool | None:
    """Words, whatever their case; a gold of few letters may be a product of symbols instead."""
    if gold.isdecimal() and _word_key(answer) in _NUMERALS:
        return _NUMERALS.index(_word_key(answer)) == int(gold)
    if not _WORDS.fullmatch(gold) or gold.startswith("\\"):
        return None
    wanted = _word_key(gold)
    given = _word_key(answer)
    if wanted == given:
        return True
    if wanted in ("yes", "no", "true", "false") and re.match(
        rf"{wanted}\b[,.:;]", answer.lower()
    ):
        return True
    if wanted in _NUMERALS:
        return str(_NUMERALS.index(wanted)) == given or None
    if " " in wanted:
        return False
    is_word = wanted.isalpha() and (len(gold) > 3 or wanted in _SHORT_WORDS)
    return False if is_word else None


def _word_key(text: str) -> str:
    words = re.sub(r"[^\w\s'-]", " ", text.casefold()).split()
    while words and words[0] in ("the", "a", "an"):
        words = words[1:]
    return " ".join(words)


def same_date(gold: str, answer: str) -> bool | None:
    """A day: 2024-03-01, March 1, 2024, 1 March 2024, 3/1/2024 (month first), March 1."""
    wanted = _date(gold)
    if wanted is None:
        return None
    given = _date(answer) or _last_date(answer)
    if given is None:
        return False
    years = {wanted[0], given[0]} - {0}
    return wanted[1:] == given[1:] and len(years) <= 1


def _date(text: str) -> tuple[int, int, int] | None:
    """Year (0 where none is named), month and day."""
    text = text.strip().rstrip(".").lower()
    if match := re.fullmatch(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})", text):
        return int(match[1]), int(match[3]), int(match[4])
    if match := re.fullmatch(r"(\d{1,2})/(\d{1,2})/(\d{4})", text):
        return int(match[3]), int(match[1]), int(match[2])
    name = r"([a-z]{3})[a-z]*\.?"
    day = r"(\d{1,2})(?:st|nd|rd|th)?"
    if match := re.fullmatch(rf"(?:[a-z]+day,? )?{name} {day}(?:,? (\d{{4}}))?", text):
        month, number, year = match.groups()
    elif match := re.fullmatch(
        rf"(?:[a-z]+day,? )?(?:the )?{day} (?:of )?{name}(?:,? (\d{{4}}))?", text
    ):
        number, month, year = match.groups()
    else:
        return None
    if month not in _MONTHS:
        return None
    return int(year or 0), _MONTHS.index(month) + 1, int(number)


def _last_date(text: str) -> tuple[int, int, int] | None:
    """The date that a sentence names last, such as "It falls on May 5th, 2021."."""
    written = list(_DATE_IN_TEXT.finditer(text))
    return _date(written[-1][0]) if written else None


def same_clock(gold: str, answer: str) -> bool | None:
    """A time of day: 10:30 a.m.; without a.m. and p.m. it may be another thing, such as a ratio."""
    wanted = _CLOCK.fullmatch(gold)
    given = _CLOCK.fullmatch(answer)
    if not wanted or not given or not (wanted[4] or wanted[2]):
        return None
    if not (wanted[4] or given[4]):
        return None
    if wanted[4] and given[4]:
        return _seconds(wanted) == _seconds(given)
    same = _seconds(wanted) == _seconds(given)
    return same or wanted.group(1, 2, 3) == given.group(1, 2, 3)


def _seconds(clock: re.Match[str]) -> int:
    """Seconds since midnight."""
    hours, minutes, seconds = (int(part or 0) for part in clock.group(1, 2, 3))
    if clock[4]:
        hours = hours % 12 + 12 * (clock[4].lower() == "p")
    return hours * 3600 + minutes * 60 + seconds


def same_ratio(gold: str, answer: str) -> bool | None:
    """Ratios of three and more numbers, of which math-verify reads the first alone."""
    if not _RATIO.fullmatch(gold):
        return None
    wanted = list(map(int, gold.split(":")))
    if not _RATIO.fullmatch(answer):
        return None
    given = list(map(int, answer.split(":")))
    if len(wanted) != len(given):
        return False
    all_wanted = sum(wanted)
    all_given = sum(given)
    if not all_wanted or not all_given:
        return wanted == given  # zeros have no shares to compare
    pairs = zip(wanted, given, strict=True)
    return all(a * all_given == b * all_wanted for a, b in pairs)


def same_reals(gold: str, answer: str) -> bool | None:
    """All real numbers, in signs and in words."""
    if not _REALS.fullmatch(gold):
        return None
    return bool(_REALS.fullmatch(answer)) or None


def same_based(gold: str, answer: str) -> bool | None:
    """Numbers with their base: 1101_2. Without a base in the answer, the digits decide."""
    wanted = _based(gold)
    given = _based(answer)
    if wanted is None or given is None:
        return None
    return wanted == given


def _based(text: str) -> tuple[str, str] | None:
    """Digits without leading zeros, and the base in digits."""
    match = _BASED.fullmatch(text.replace(" ", ""))
    if not match or (match[1].isalpha() and match[2] != "16"):
        return None
    base = match[2].lower()
    if base in _NUMERALS:
        base = str(_NUMERALS.index(base))
    if not base.isdecimal():
        return None
    return match[1].upper().lstrip("0"), base


def same_sequence(gold: str, answer: str) -> bool | None:
    """Sequences with dots: equal items, though one may give more of them before the dots.

    Dots alone, or with a single item, could stand for any sequence: two must be shared.
    """
    wanted = _DOTS.split(gold)
    given = _DOTS.split(answer)
    if len(wanted) != 2 and len(given) != 2:
        return None
    if len(wanted) != len(given):
        return False
    before = [_items(wanted[0]), _items(given[0])]
    before.sort(key=len)
    shorter, longer = before
    after = _items(wanted[-1])
    if longer[: len(shorter)] != shorter or after != _items(given[-1]):
        return False
    return len(shorter) == len(longer) or len(shorter) + len(after) >= 2


def _items(text: str) -> list[str]:
    parts = re.split(r"[,;+]", re.sub(r"\s|\\[()\[\]{}]|[{}]", "", text))
    return [part for part in parts if part]


def same_emptiness(gold: str, answer: str) -> bool | None:
    """The empty set, in signs and in words."""
    if not _NO_SOLUTION.fullmatch(gold):
        return None
    return bool(_NO_SOLUTION.fullmatch(answer)) or None


KINDS = (
    same_choice, same_date, same_clock, same_ratio, same_reals, same_based, same_emptiness,
    same_sequence, same_words,
)  # fmt: skip


def same_kind(gold: str, answers: Sequence[str]) -> bool | None:
    """Whether one of the readings of an answer is the gold; None where no kind can tell."""
    for kind in KINDS:
        verdicts = [kind(gold, answer) for answer in answers]
        if True in verdicts:
            return True
        if False in verdicts:
            return False
    return None


def contradicting_brackets(gold: str, answer: str) -> bool:
    """Whether one is a set in braces and the other a pair or an interval in parentheses."""
    if _is_set(gold):
        return _is_pair(answer)
    return _is_set(answer) and _is_pair(gold)


def _is_set(text: str) -> bool:
    return text.startswith("\\{") and text.endswith("\\}")


def _is_pair(text: str) -> bool:
    return bool(re.fullmatch(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]]", text))


def same_order(gold: str, answer: str) -> bool:
    """Whether two lists, if both are, have their items in one order."""
    wanted = _items(gold)
    given = _items(answer)
    if len(wanted) < 2 or len(given) < 2 or sorted(wanted) != sorted(given):
        return True
    return wanted == given


def joined_inequalities(text: str) -> list[str]:
    """The parts of inequalities joined by "or"."""
    parts = re.split(r"\bor\b|\\(?:lor|vee)\b", text)
    if len(parts) > 1 and all(map(_INEQUALITY.search, parts)):
        return parts
    return []

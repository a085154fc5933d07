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
_CHOICE = re.compile(r"\(?\s*([A-Z])\s*\)?")
_CHOSEN = re.compile(
    r"(?i:option|choice|answer)?\s*\(?([A-Z])\)?\s*(?:[.:)]\s*\S.*|[.:)]?)", re.DOTALL
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
_BASED = re.compile(r"([0-9A-Za-z]+)_\{?(?:\\text\{)?\s*(\w+)\s*\}*")
_DOTS = re.compile(r"\\(?:[lc]|vd|dd)?dots[cbmio]?|\.\.\.|…")
_INEQUALITY = re.compile(r"[<>]|\\(?:leq?|geq?|lt|gt)(?![a-z])")
_NO_SOLUTION = re.compile(
    r"(?i)\\emptyset|\\\{\s*\\\}|(?:the )?empty set|no (?:real )?solutions?|none"
)


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


def same_choice(gold: str, answer: str) -> bool | None:
    """A letter of a list of choices: `C`, `(C)`, `C. 42`, `\\text{C: the third}`; or several."""
    if _CHOICES.fullmatch(gold) and _CHOICES.fullmatch(answer):
        all_wanted = sorted(re.findall("[A-Z]", gold))
        all_given = sorted(re.findall("[A-Z]", answer))
        if len(all_wanted) > 1 or len(all_given) > 1:
            return all_wanted == all_given
    wanted = _CHOICE.fullmatch(gold)
    given = _CHOSEN.fullmatch(answer)
    if not wanted or not given:
        return None
    return wanted[1] == given[1]


def same_words(gold: str, answer: str) -> bool | None:
    """Words, whatever their case; a gold of few letters may be a product of symbols instead."""
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
    given = _date(answer)
    if given is None:
        return False
    years = {wanted[0], given[0]} - {0}
    return wanted[1:] == given[1:] and len(years) <= 1


def _date(text: str) -> tuple[int, int, int] | None:
    """Year (0 where none is named), month and day."""
    text = text.strip().rstrip(".").lower()
    if match := re.fullmatch(r"(\d{4})-(\d{1,2})-(\d{1,2})", text):
        return int(match[1]), int(match[2]), int(match[3])
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
    """Sequences with dots: equal items, though one may give more of them before the dots."""
    wanted = _DOTS.split(gold)
    given = _DOTS.split(answer)
    if len(wanted) != 2 and len(given) != 2:
        return None
    if len(wanted) != len(given):
        return False
    before = [_items(wanted[0]), _items(given[0])]
    before.sort(key=len)
    shorter, longer = before
    return longer[: len(shorter)] == shorter and _items(wanted[-1]) == _items(given[-1])


def _items(text: str) -> list[str]:
    parts = re.split(r"[,;+]", re.sub(r"\s|\\[()\[\]{}]|[{}]", "", text))
    return [part for part in parts if part]


def same_emptiness(gold: str, answer: str) -> bool | None:
    """The empty set, in signs and in words."""
    if not _NO_SOLUTION.fullmatch(gold):
        return None
    return bool(_NO_SOLUTION.fullmatch(answer)) or None


KINDS = (same_choice, same_date, same_based, same_emptiness, same_sequence, same_words)


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


def alternatives(text: str) -> list[str]:
    """The parts of inequalities joined by "or"."""
    parts = re.split(r"\bor\b|\\(?:lor|vee)\b", text)
    if len(parts) > 1 and all(map(_INEQUALITY.search, parts)):
        return parts
    return []

"""Counts English sentences and capitalised words nearly as nltk does, without its trained data.

After Punkt (Kiss & Strunk 2006): `?` and `!` end a sentence; a full stop does unless it belongs to
an abbreviation, to an initial before a letter, or to dots or a number before a small letter.
"""

import re
from string import whitespace

_ABBREVIATION = re.compile(
    "adm|apr|aug|bros|capt|co|col|corp|dec|dr|feb|fla|ft|gen|gov|inc|jan|jr|lt|ltd|maj|mr|mrs|ms|"
    r"nov|oct|prof|rep|rev|sen|sept|sgt|sr|st|vs|[ap]\.m|d\.c|e\.g|i\.e|ph\.d|u\.[kns]"
)
# the last one that punctuation may follow
_END = re.compile(r".*[.?!](?=[()\[{}\]\"':;*@!?\s])")
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*")
_CONTRACTION = re.compile(r"(?<=\w)(?=n't\b|'(?:s|m|d|ll|re|ve)\b)", re.IGNORECASE)
_WORD_EDGE = re.compile(r"[\s()\[\]{}<>;@#$%&*?!\"“”‘’«»]+|--+|\.\.\.|[,:](?!\d)")


def count_sentences(text: str) -> int:
    """How many sentences `text` holds; a line end alone ends none."""
    # what closes the last sentence is not another
    text = text.rstrip(whitespace + "\"')]}")
    tokens = text.split()
    count = int(bool(tokens))
    for token, following in zip(tokens, [*tokens, ""][1:], strict=True):
        if end := _END.match(token + " " * bool(following)):
            rest = token[end.end() :]
            count += _ends_sentence(end[0], (rest or following)[0])
    return count


def count_capital_words(text: str) -> int:
    """Words wholly in capitals, split as in the Penn Treebank (DON'T is two words)."""
    return sum(word.isupper() for word in _WORD_EDGE.split(_CONTRACTION.sub(" ", text)))


def _ends_sentence(before: str, after: str) -> bool:
    """Whether the last character of `before` ends a sentence, given the one that comes next."""
    word = re.split(r"[()\[\]{}\"`:;*@!?]", before)[-1].rstrip(".").lower()
    if before.endswith(".."):
        return after.isupper()
    if not before.endswith("."):
        return True
    continues = after in ";:,.!?" or after.islower()
    if len(word) == 1 and word.isalpha():  # an initial, or the letter of a list item
        return not (continues or after.isupper())
    return not (_ABBREVIATION.fullmatch(word) or (_NUMBER.fullmatch(word) and continues))

"""The box around a final answer, as it is written in LaTeX."""

import re

BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_DEPTH = {"{": 1, "}": -1}


def last_box(text: str, may_be_open: bool = False) -> str | None:
    """What the last whole `\\boxed{}` holds; None without one.

    With `may_be_open` the box may lack its end: it holds the rest of the text.
    """
    boxes = list(BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    end = closing_brace(text, start)
    if end == len(text) and not may_be_open:
        return None
    return text[start:end]


def closing_brace(text: str, start: int) -> int:
    """Where the brace stands that closes the one before `start`; the text's length if none does."""
    depth = 1
    for index in range(start, len(text)):
        depth += _DEPTH.get(text[index], 0)
        if not depth:
            return index
    return len(text)

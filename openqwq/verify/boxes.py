"""The box around a final answer, as it is written in LaTeX."""

import re

_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")


def last_box(text: str) -> str | None:
    """What the last whole `\\boxed{}` holds; None without one."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    begin = boxes[-1].end()
    depth = 1
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[begin:end]
    return None

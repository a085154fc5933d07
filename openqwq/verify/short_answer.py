"""Finds the short answer that a reply ends with: tagged, boxed, announced, in bold, or alone."""

import re

from openqwq.verify.answer import fenced_blocks, tagged_answer

_BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
_ANNOUNCED = re.compile(
    r"(?i)\b(?:answer|result|solution)\b[^\n.:=]{0,60}?"
    r"(?:\b(?:is|are|equals)\b\s*:?|:|\*\*\s*\n|\n)\s*"
)
_BOLD = re.compile(r"\*\*(?!\s)([^\n]+?)(?<!\s)\*\*")
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|tt)?|math(?:rm|bf|tt|sf))\s*\{([^{}]*)\}")
_WHOLE_TEXT = re.compile(r"\\text\s*\{(.*)\}", re.DOTALL)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_SIGNS = {
    "\\cdot": "*", "\\times": "*", "\\left": "", "\\right": "", "\\,": "", "\\!": "", "\\ ": " ",
    "\\%": "%", "\\$": "$", "\\_": "_", "\\{": "{", "\\}": "}", "\\quad": " ", "\\\\": "\n",
}  # fmt: skip


def short_answers(reply: str) -> list[str]:
    """The ways to read the answer of a reply, the likeliest first.

    They are spellings of one answer: with and without a last full stop, LaTeX and plain, the rest
    of the reply or of the line after "the answer is". What is tagged or boxed is the answer, and
    nothing else is read.
    """
    text = reply.strip()
    tagged = tagged_answer(text)
    if tagged is not None:
        return _spellings(last_box(tagged) or tagged)
    boxed = last_box(text)
    if boxed is not None:
        return _spellings(boxed)

    found = [text]
    announced = list(_ANNOUNCED.finditer(text))
    bold = _BOLD.findall(text)
    blocks = fenced_blocks(text)
    if announced:
        rest = text[announced[-1].end() :].strip()
        outside = rest.strip("* \n")  # bold that began before it, or ends after it
        for each in (rest, outside):
            found += [each, each.split("\n")[0], each.split(". ")[0]]
        bold = _BOLD.findall(rest)
    if bold and not (text.startswith("**") and text.endswith("**")):
        found.append(bold[-1])
    if blocks:
        found.append(blocks[-1].text)
    spellings: list[str] = []
    for each in found:
        spellings += _spellings(each)
    return list(dict.fromkeys(spellings))


def last_box(text: str) -> str | None:
    """What the last `\\boxed{}` holds, whose end may be missing; None without one."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            return text[start:end]
    return text[start:]


def _spellings(answer: str) -> list[str]:
    """One answer as it is written, without marks around it, without a full stop, without LaTeX."""
    bare = _unmarked(answer)
    plain = _unmarked(_without_latex(bare)) if "\\" in bare or "^" in bare else bare
    found = [bare, bare.removesuffix("."), plain, plain.removesuffix(".")]
    return [each for each in dict.fromkeys(found) if each] or [answer]


def _unmarked(text: str) -> str:
    """Without the bold, code, mathematics or fence that encloses the whole of it."""
    text = text.strip().removesuffix("\\").strip()
    blocks = fenced_blocks(text) if text.startswith(("```", "~~~")) else []
    if blocks:
        return blocks[0].text.strip("\n")
    whole = _WHOLE_TEXT.fullmatch(text)
    if whole:
        text = whole[1]
    for mark in ("**", "__", "`", "$$", "$"):
        closed = text.removesuffix(".")
        if len(closed) > 2 * len(mark) and closed.startswith(mark) and closed.endswith(mark):
            text = closed[len(mark) : -len(mark)].strip()
    return text


def _without_latex(text: str) -> str:
    text = _TEXT.sub(r"\1", text)
    text = _FRACTION.sub(r"\1/\2", text)
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    return re.sub(r"\^\s*\{([^{}]*)\}", r"**(\1)", text).replace("^", "**")

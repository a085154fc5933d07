"""Finds the short answer that a reply ends with: tagged, boxed, announced, in bold, or alone."""

import re

from openqwq.verify.answer import fenced_blocks, tagged_answer
from openqwq.verify.boxes import last_box

_ANNOUNCED = re.compile(
    r"(?i)\b(?:answer|result|solution|choice|option)\b[^\n.:=]{0,60}?"
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
        return _spellings(last_box(tagged, may_be_open=True) or tagged)
    boxed = last_box(text, may_be_open=True)
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


def _spellings(answer: str) -> list[str]:
    """One answer as it is written, without marks around it, without a full stop, without LaTeX."""
    bare = _unmarked(answer)
    plain = bare
    if "\\" in bare or "^" in bare:
        plain = _unmarked(_without_latex(bare))
    found = [bare, bare.removesuffix("."), plain, plain.removesuffix(".")]
    return [each for each in dict.fromkeys(found) if each] or [answer]


def _unmarked(text: str) -> str:
    """Without the bold, code, mathematics or fence that encloses the whole of it."""
    text = text.strip().removesuffix("\\").strip()
    if text.startswith(("```", "~~~")):
        blocks = fenced_blocks(text)
        if blocks:
            return blocks[0].text.strip("\n")
    whole = _WHOLE_TEXT.fullmatch(text)
    if whole:
        text = whole[1]
    for mark in ("**", "__", "`", "$$", "$"):
        closed = text.removesuffix(".")
        if (
            len(closed) > 2 * len(mark)
            and closed.startswith(mark)
            and closed.endswith(mark)
        ):
            text = closed[len(mark) : -len(mark)].strip()
    return text


def _without_latex(text: str) -> str:
    text = _TEXT.sub(r"\1", text)
    text = _FRACTION.sub(r"\1/\2", text)
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    return re.sub(r"\^\s*\{([^{}]*)\}", r"**(\1)", text).replace("^", "**")

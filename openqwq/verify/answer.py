"""What a completion answers: only the text after its thinking counts, never the thinking."""

import re
from dataclasses import dataclass
from textwrap import dedent

_LANGUAGE = re.compile(r"[\s{.]*([\w+#-]*)")
_PYTHON = {"python", "py", "python3", "py3", "python2", "ipython", "sage"}
_STATEMENT = re.compile(
    r"^\s*(?:(?:def|class|import|from|for|while|if|with|try|return|async|lambda)\b|@\w|print\s*\()"
    r"|^[^\n=<>!]*[\w\])]\s*[-+*/%|&^]?=[^=]",
    re.MULTILINE,
)
_ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
# further spaces than these before a closing fence: it stands inside the program
_CLOSING_INDENT = 3


@dataclass(frozen=True)
class FencedBlock:
    """A fenced block: its language in small letters ("" where none is named) and its text."""

    language: str
    text: str


@dataclass(frozen=True)
class _Fence:
    """A line that may open or close a block: what stands before its marks, and after them."""

    before: str
    marks: str
    info: str


def final_answer(completion: str, thinking: bool = True) -> str | None:
    """The text after the first `</think>`, or None if the thinking never ends.

    A completion starts inside the thinking, which QwQ's template opens in the prompt. Of a model
    that does not think (`thinking` False) the whole completion is the answer.
    """
    if not thinking:
        return completion
    _, end, answer = completion.partition("</think>")
    return answer if end else None


def tagged_answer(answer: str) -> str | None:
    """What the last `<answer>` tag holds; None without one."""
    found = _ANSWER_TAG.findall(answer)
    return str(found[-1]).strip() if found else None


def fenced_blocks(text: str) -> list[FencedBlock]:
    """The fenced code blocks of Markdown, in order.

    Backticks or tildes, indented or after text on their line; a last block may lack its end.
    """
    blocks: list[FencedBlock] = []
    opening: _Fence | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        fence = _fence(line)
        if opening is None:
            if fence:
                opening = fence
                lines = []
        elif fence and _closes(fence, opening):
            blocks.append(_block(opening, lines))
            opening = None
        else:
            lines.append(line)
    if opening is not None and any(line.strip() for line in lines):
        lines[-1] = lines[-1].removesuffix("```")
        blocks.append(_block(opening, lines))
    return blocks


def last_block(answer: str) -> str:
    """The last fenced block of any language; an answer without one is itself the block."""
    blocks = fenced_blocks(answer)
    return blocks[-1].text if blocks else answer


def last_program(answer: str) -> str:
    """The Python program that an answer gives.

    The last block that is named Python; else the last block without a language that reads like a
    program, so that sample output and commands after it do not count; else the last block. An
    answer without blocks is itself the program, without `<answer>` tags and stray fences.
    """
    blocks = fenced_blocks(answer)
    named = [block for block in blocks if block.language in _PYTHON]
    unnamed = [block for block in blocks if not block.language]
    programs = [block for block in unnamed if _STATEMENT.search(block.text)]
    for candidates in (named, programs, unnamed, blocks):
        if candidates:
            return candidates[-1].text

    text = tagged_answer(answer) or answer
    kept = [
        line for line in text.split("\n") if not re.fullmatch(r"\s*(`{3,}|~{3,})\s*", line)
    ]
    return "\n".join(kept)


def _fence(line: str) -> _Fence | None:
    """The fence that a line is, or ends with: "Here it is: ```python"."""
    end = max(line.rfind("```"), line.rfind("~~~")) + 3
    if end < 3:
        return None
    before = line[:end].rstrip(line[end - 1])
    info = line[end:].strip()
    if "```" in before or "~~~" in before or "`" in info:
        return None
    if before.strip() and not re.fullmatch(r"[\w+#-]+", info):
        return None
    return _Fence(before, line[len(before) : end], info)


def _closes(fence: _Fence, opening: _Fence) -> bool:
    """Whether a fence ends the block that `opening` began."""
    words_follow = fence.info and not fence.info.startswith("</")
    if words_follow or fence.before.strip():
        return False
    if fence.marks[0] != opening.marks[0] or len(fence.marks) < len(opening.marks):
        return False
    indent = 0 if opening.before.strip() else len(opening.before)
    return len(fence.before) <= indent + _CLOSING_INDENT


def _block(opening: _Fence, lines: list[str]) -> FencedBlock:
    language = _LANGUAGE.match(opening.info)
    name = language[1].lower() if language else ""
    return FencedBlock(name, dedent("\n".join(lines)) + "\n")

"""How calls look in one form: patterns for where they open, close, and what stands between."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, AnyStr

from openqwq.text.forms import CallForm, Markers
from openqwq.types import ToolCall

Schemas = Mapping[str, Mapping[str, Any]]  # of the arguments, by the name of the tool
Check = Callable[[ToolCall], str]  # why a call cannot be made, or ""
# What models put around a call that stands alone: a code fence, or tags that nobody asked for.
WRAPPERS = ("```json", "```tool_call", "```", "<tools>", "<function_call>")
WRAPPED = rf"\s*(?:{'|'.join(WRAPPERS)})?\s*"
BARE = re.compile(rf"{WRAPPED}(?=[{{\[])")
BARE_SO_FAR = re.compile(WRAPPED)


class Syntax:
    """A call form as patterns over text in which marker tokens are single characters.

    `schemas` are those of the tools that may be called; None where any name will do.
    """

    def __init__(
        self,
        form: CallForm,
        markers: Markers,
        schemas: Schemas | None,
        check: Check | None = None,
    ) -> None:
        self.form = form
        self.markers = markers
        self.schemas = schemas
        self._check = check
        opening = _parts(form.opening, markers)
        closing = _parts(form.closing, markers)
        leading = [part for part in opening if part in markers.texts] or opening[:1]
        python_tag = [c for c, text in markers.texts.items() if text == "<|python_tag|>"]
        self.openers = [*leading, *python_tag]
        self.closers = [part for part in closing if part != "```"][-1:]
        if form.in_text:
            # the prompt showed the tags as text, so the model may write them so
            self.openers += [markers.decode(opener) for opener in self.openers]
            self.closers += [markers.decode(closer) for closer in self.closers]
        self.opener = _any_of(self.openers)
        self.closer = _any_of(self.closers) if self.closers else None
        around = [*opening, *closing, "```json"]
        skipped = [part for part in around if part not in self.closers]
        noise = rf"[\s,;\[\]]|{_any_of(skipped).pattern}"
        self.noise = re.compile(rf"(?:{noise})*")
        self.noise_after = re.compile(rf"(?:{noise}|[}}]|```)*")  # a call
        between = [f"(?:{re.escape(part)})?" for part in _parts(form.between, markers)]
        after_name = r"\s*".join(["", *between, r"(?=\{)"])
        self.named = re.compile(rf"(?P<name>[\w.:/-]+){after_name}")

    def is_tool(self, name: str) -> bool:
        """Whether a call of this name may be one."""
        return self.schemas is None or name in self.schemas

    def fault(self, calls: Sequence[ToolCall]) -> str:
        """Why these are not calls; "" where they are."""
        for call in calls:
            if not self.is_tool(call["name"]):
                return f"the reply calls {call['name']!r}, which is not a tool it may call"
            if self._check is not None and (fault := self._check(call)):
                return fault
        return ""

    def may_be_bare(self, text: str) -> bool:
        """Whether more text could make a bare call of it."""
        begun = text.lstrip()
        return bool(BARE_SO_FAR.fullmatch(text)) or may_begin(begun, WRAPPERS)

    def partial_opener(self, text: str) -> int:
        """How many characters at the end of `text` may begin an opener."""
        return max((overlap(text, opener) for opener in self.openers), default=0)


def _parts(text: str, markers: Markers) -> list[str]:
    """A form's opening or closing text: marker characters apart, without white space."""
    return re.findall(r"[\ud800-\udfff]|[^\s\ud800-\udfff]+", markers.encode(text))


def _any_of(parts: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, parts)) or "(?!)")


def overlap(text: AnyStr, opener: AnyStr) -> int:
    """The length of the longest end of `text` that begins `opener` without being all of it."""
    for length in range(min(len(text), len(opener) - 1), 0, -1):
        if text.endswith(opener[:length]):
            return length
    return 0


def may_begin(text: str, wholes: Sequence[str]) -> bool:
    """Whether more text could make one of `wholes` of it."""
    return any(len(text) < len(whole) and whole.startswith(text) for whole in wholes)

"""One place of an answer where calls begin, read while its text comes in."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, AnyStr, Literal

from openqwq.text.forms import CallForm, Markers
from openqwq.text.values import (
    JsonEnd,
    PythonEnd,
    RawStrings,
    json_call,
    parameters_call,
    plain_json,
    python_calls,
)
from openqwq.types import ToolCall

DeltaKind = Literal[
    "reasoning", "content", "call_start", "call_arguments", "tool_call", "malformed_call"
]
Schemas = Mapping[str, Mapping[str, Any]]  # of the arguments, by the name of the tool
Check = Callable[[ToolCall], str]  # why a call cannot be made, or ""
NO_CALL = "a call is not valid JSON with a name and arguments, or was cut off"
HEAD = re.compile(
    r'\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
FIRST_KEY = re.compile(r'\{\s*"([^"]*)"(?:\s*:\s*("(?:[^"\\]|\\.)*"))?')
CALL_KEYS = {"name", "type", "function", "id", "arguments", "parameters"}
NAMED_HEAD = re.compile(r"(?P<name>[\w.:/-]+)\s*(?:\[ARGS\])?\s*(?=\{)")
# What models put around a call that stands alone: a code fence, or tags that nobody asked for.
WRAPPERS = ("```json", "```tool_call", "```", "<tools>", "<function_call>")
WRAPPED = rf"\s*(?:{'|'.join(WRAPPERS)})?\s*"
BARE = re.compile(rf"{WRAPPED}(?=[{{\[])")
BARE_SO_FAR = re.compile(WRAPPED)
BARE_END = re.compile(r"\s*\]?\s*(?:```|</tools>|</function_call>)?")
AROUND = ("```json", "</tools>", "</function_call>", "<function=")
PYTHONIC = re.compile(r"\[\s*([A-Za-z_][\w.]*)\s*\(")
PYTHONIC_SO_FAR = re.compile(r"\[\s*(?:[A-Za-z_][\w.]*\s*)?")
FUNCTION = re.compile(r"<function=([^>\n]+)>(.*?)</function>", re.DOTALL)
NAME_SO_FAR = re.compile(r"[\w.:/-]*\s*\S{0,12}\s*")


@dataclass(frozen=True)
class Delta:
    """A piece of a reply: more text, or a call (`index` counts the well-formed ones).

    Where pieces of calls are asked for, `call_start` names the call in `text`, and
    `call_arguments` are more of its arguments' JSON. A whole call has that JSON in `arguments`;
    `raw` is what the model wrote, and `fault` says why a malformed call is none.
    """

    kind: DeltaKind
    text: str = ""
    call: ToolCall | None = None
    index: int = 0
    arguments: str = ""
    raw: str = ""
    fault: str = ""


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
        if (
            form.in_text
        ):  # the prompt showed the tags as text, so the model may write them so
            self.openers += [markers.decode(opener) for opener in self.openers]
            self.closers += [markers.decode(closer) for closer in self.closers]
        self.opener = _any_of(self.openers)
        self.closer = _any_of(self.closers) if self.closers else None
        skipped = [
            part for part in [*opening, *closing, "```json"] if part not in self.closers
        ]
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
        return bool(BARE_SO_FAR.fullmatch(text)) or _may_begin(begun, WRAPPERS)

    def partial_opener(self, text: str) -> int:
        """How many characters at the end of `text` may begin an opener."""
        return max((overlap(text, opener) for opener in self.openers), default=0)


@dataclass(frozen=True)
class _Found:
    """What stands at a place up to `end`: calls, or what is none."""

    calls: Sequence[ToolCall]
    end: int


class CallReader:
    """Reads the calls that begin at one place of an answer.

    `text` is what has been read, `rest` what follows once it is `over`. A `bare` one began without
    any marker: until it has found a call it may find that there is none, and then it `gave_up` and
    all of `text` is content.
    """

    def __init__(
        self, syntax: Syntax, text: str, at: int, calls: int, pieces: bool, bare: bool
    ) -> None:
        """Calls are looked for from `at` on, and numbered from `calls` on."""
        self.text = text
        self.calls = calls
        self.over = False
        self.gave_up = False
        self.rest = ""
        self._syntax = syntax
        self._pieces = pieces
        self._bare = bare
        self._tentative = bare
        self._any = False
        self._fault = ""  # of a malformed call whose end is looked for
        self._search_from = at
        self._raw_from = 0
        self._move(at)

    def _move(self, at: int) -> None:
        self._at = at  # up to here all is understood
        self._passed = at  # and up to here there is nothing but what stands between calls
        self._scan: JsonEnd | None = None  # of the object in progress
        self._scan_from = at
        self._list: PythonEnd | None = None
        self._name: str | None = None  # of the call, where it stands before the object
        self._arguments: JsonEnd | None = None
        self._sent = 0  # up to here arguments were handed out
        self._handed_out = ""
        self._raw_strings = RawStrings()

    def feed(self, text: str, final: bool) -> list[Delta]:
        """What becomes certain with more text; at the `final` one all is decided."""
        self.text += text
        deltas: list[Delta] = []
        while not (self.over or self.gave_up):
            found = None if self._fault else self._next(final)
            if found is None:
                break
            fault = self._syntax.fault(found.calls) if found.calls else NO_CALL
            if fault:
                self._refuse(found.end, fault)
            else:
                self._accept(deltas, found)
        if self._fault:
            self._skip(deltas)
        elif not (self.over or self.gave_up):
            self._hand_out(deltas)
        if final and not (self.over or self.gave_up):
            self._cut_off(deltas)
        return deltas

    def _next(self, final: bool) -> _Found | None:
        """The next call, or what is not one; None where more text is needed or nothing follows."""
        syntax = self._syntax
        text = self.text
        if self._scan is not None:
            return self._object(self._scan_from, self._name)
        if self._may_be_list():
            return self._python_list()
        between = syntax.noise_after if self._any else syntax.noise
        noise = between.match(text, self._passed)
        start = noise.end() if noise else self._passed
        self._passed = start
        closing = (
            syntax.closer.match(text, start) if syntax.closer and not self._bare else None
        )
        if closing and not self._any:
            return _Found([], start)
        if closing:
            self._end(closing.end())
            return None
        rest = text[start:]
        if not rest or (not final and _may_begin(rest, [*syntax.closers, *AROUND])):
            return None
        if rest.startswith("{"):
            return self._object(start, None)
        if self._any and (self._bare or not syntax.closer):
            self._end(self._at)
            return None
        if self._bare:
            return _Found([], start)
        if rest.startswith("<function="):
            function = FUNCTION.match(text, start)
            if function is None:
                return None
            schema = (syntax.schemas or {}).get(function[1], {})
            return _Found(
                [parameters_call(function[1], function[2], schema)], function.end()
            )
        head = syntax.named.match(text, start) or NAMED_HEAD.match(text, start)
        if head:
            return self._object(head.end(), head["name"])
        if not final and NAME_SO_FAR.fullmatch(rest):
            return None
        return _Found([], start)

    def _object(self, start: int, name: str | None) -> _Found | None:
        """A call that is a JSON object, or whose arguments are one behind its `name`."""
        if self._scan is None:
            self._scan = JsonEnd(start, None if self._bare else self._syntax.closer)
            self._scan_from = start
            self._name = name
        end = self._scan.feed(self.text)
        if end is None and not self._scan.broken:
            if self._tentative and not self._may_be_call(start):
                return _Found([], start)
            return None
        if end is None:
            return _Found([], start)
        written = self._syntax.markers.decode(self.text[start:end])
        if name is not None:
            arguments = plain_json(written)
            fits = isinstance(arguments, dict)
            return _Found([ToolCall(name=name, arguments=arguments)] if fits else [], end)
        call = json_call(written)
        only_named = '"arguments"' not in written and '"parameters"' not in written
        if call is None or (self._tentative and only_named):
            return _Found([], end)
        return _Found([call], end)

    def _may_be_call(self, start: int) -> bool:
        """Whether an object that began without any marker may still be a call of a tool."""
        found = FIRST_KEY.match(self.text, start)
        if found is None:
            return True
        key, value = found.groups()
        if key != "name" or value is None:
            return key in CALL_KEYS
        return self._syntax.is_tool(str(plain_json(value)))

    def _may_be_list(self) -> bool:
        """Whether calls in Python may stand here."""
        if self._any or not (self._bare or self._syntax.form.kind == "pythonic"):
            return False
        rest = self.text[self._at :].lstrip()
        return not rest or (rest[0] == "[" and rest[1:].lstrip()[:1] not in ("{", "["))

    def _python_list(self) -> _Found | None:
        start = self.text.find("[", self._at)
        if start < 0:
            return None
        head = PYTHONIC.match(self.text, start)
        if head is None:
            waits = PYTHONIC_SO_FAR.fullmatch(self.text[start:])
            return None if waits else _Found([], start)
        if self._tentative and not self._syntax.is_tool(head[1]):
            return _Found([], start)
        self._list = self._list or PythonEnd(start)
        end = self._list.feed(self.text)
        if end is None:
            return None
        calls = python_calls(self._syntax.markers.decode(self.text[start:end]))
        return _Found(calls or [], end)

    def _accept(self, deltas: list[Delta], found: _Found) -> None:
        """Hand out whole calls."""
        self._hand_out(deltas)
        raw = self._syntax.markers.decode(self.text[self._raw_from : found.end])
        for call in found.calls:
            arguments = json.dumps(call["arguments"], ensure_ascii=False)
            if self._arguments is not None:
                arguments = self._handed_out
            elif self._pieces:
                deltas.append(Delta("call_start", call["name"], index=self.calls))
                deltas.append(Delta("call_arguments", arguments, index=self.calls))
            deltas.append(Delta("tool_call", "", call, self.calls, arguments, raw))
            self.calls += 1
        self._any = True
        self._tentative = False
        self._raw_from = found.end
        self._move(found.end)

    def _hand_out(self, deltas: list[Delta]) -> None:
        """Give out pieces of the arguments in progress, once the name is known to be a tool's."""
        if not self._pieces or self._scan is None:
            return
        if self._arguments is None:
            head = HEAD.match(self.text, self._scan_from)
            name = self._name
            start = self._scan_from
            if name is None and head:
                name = str(plain_json(head["name"]))
                start = head.end()
            if name is None or not self._syntax.is_tool(name):
                return
            self._arguments = JsonEnd(start)
            self._sent = start
            self._tentative = False
            deltas.append(Delta("call_start", name, index=self.calls))
        end = self._arguments.feed(self.text)
        known = len(self.text) if end is None else end
        if known > self._sent:
            written = self._syntax.markers.decode(self.text[self._sent : known])
            piece = self._raw_strings.feed(written)
            self._handed_out += piece
            self._sent = known
            deltas.append(Delta("call_arguments", piece, index=self.calls))

    def _refuse(self, end: int, fault: str) -> None:
        """Take what stands here as text, or as a malformed call up to the closing marker."""
        if self._tentative:
            self.gave_up = True
        elif self._any and (self._bare or not self._syntax.closer):
            self._end(self._at)
        else:
            self._fault = fault
            self._search_from = end

    def _skip(self, deltas: list[Delta]) -> None:
        """Look for the end of a malformed call."""
        closer = self._syntax.closer
        found = (
            closer.search(self.text, self._search_from)
            if closer and not self._bare
            else None
        )
        if found:
            self._malformed(deltas, found.start(), found.end())

    def _cut_off(self, deltas: list[Delta]) -> None:
        """Decide what is left where no more text comes."""
        if self._tentative:
            self.gave_up = True
            return
        noise = self._syntax.noise_after.match(self.text, self._at)
        if self._any and noise and noise.end() == len(self.text):
            self._end(len(self.text))
            return
        # An open string may have swallowed the marker that closes the call.
        closer = self._syntax.closer
        found = closer.search(self.text, self._at) if closer and not self._bare else None
        self._fault = self._fault or NO_CALL
        if found:
            self._malformed(deltas, found.start(), found.end())
        else:
            self._malformed(deltas, len(self.text), len(self.text))

    def _malformed(self, deltas: list[Delta], text_end: int, end: int) -> None:
        decode = self._syntax.markers.decode
        text = decode(self.text[self._at : text_end])
        raw = decode(self.text[self._raw_from : end])
        delta = Delta("malformed_call", text, index=self.calls, raw=raw, fault=self._fault)
        deltas.append(delta)
        self._end(end)

    def _end(self, end: int) -> None:
        """All calls here are read; what follows is content again."""
        if self._bare and (fence := BARE_END.match(self.text, end)):
            end = fence.end() if fence.group().strip() else end
        self.over = True
        self.rest = self.text[end:]


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


def _may_begin(text: str, wholes: Sequence[str]) -> bool:
    """Whether more text could make one of `wholes` of it."""
    return any(len(text) < len(whole) and whole.startswith(text) for whole in wholes)

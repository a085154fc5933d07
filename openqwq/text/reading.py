"""One place of an answer where calls begin, read while its text comes in."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from openqwq.text.call_syntax import Syntax, may_begin
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
NO_CALL = "a call is not valid JSON with a name and arguments, or was cut off"
HEAD = re.compile(
    r'\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
FIRST_KEY = re.compile(r'\{\s*"([^"]*)"(?:\s*:\s*("(?:[^"\\]|\\.)*"))?')
CALL_KEYS = {"name", "type", "function", "id", "arguments", "parameters"}
NAMED_HEAD = re.compile(r"(?P<name>[\w.:/-]+)\s*(?:\[ARGS\])?\s*(?=\{)")
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
    `raw` is what the model wrote, and `fault` says why a malformed call is not one.
    """

    kind: DeltaKind
    text: str = ""
    call: ToolCall | None = None
    index: int = 0
    arguments: str = ""
    raw: str = ""
    fault: str = ""


@dataclass(frozen=True)
class _Found:
    """What stands at a place up to `end`: calls, or something that is not a call."""

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
        if not rest or (not final and may_begin(rest, [*syntax.closers, *AROUND])):
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
        if closer is None or self._bare:
            return
        found = closer.search(self.text, self._search_from)
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

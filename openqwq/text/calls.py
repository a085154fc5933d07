"""From the text of an answer to content and tool calls, while it comes in.

What is not a call stays text, where and as it was written. Newlines between content and calls are
format and dropped.
"""

from openqwq.text.call_syntax import BARE, Syntax
from openqwq.text.reading import CallReader, Delta


class ContentParser:
    """Turns an answer's text into content and calls."""

    def __init__(self, syntax: Syntax | None, pieces: bool) -> None:
        """Without a `syntax` all is content; with `pieces` calls come piece by piece as well."""
        self._syntax = syntax
        self._pieces = pieces
        self._buffer = ""
        self._newlines = ""  # held back: they are text only where text follows
        self._started = False
        self._may_be_bare = syntax is not None and (
            syntax.schemas is not None or not syntax.form.opening
        )
        self._reader: CallReader | None = None
        self._calls = 0
        self._ends_with_call = False

    def feed(self, text: str, final: bool = False) -> list[Delta]:
        """What becomes certain with more text; `final` if no more comes."""
        self._buffer += text
        deltas: list[Delta] = []
        while self._buffer or (final and self._reader):
            if not (
                self._read(deltas, final) if self._reader else self._look(deltas, final)
            ):
                break
        if final and self._newlines and not self._ends_with_call:
            deltas.append(Delta("content", self._newlines))
            self._newlines = ""
        return deltas

    def _read(self, deltas: list[Delta], final: bool) -> bool:
        """Read on in a call; whether there is more to do."""
        reader = self._reader
        assert reader is not None
        found = reader.feed(self._buffer, final)
        self._buffer = ""
        for delta in found:
            if delta.kind == "malformed_call":
                raw = self._newlines + delta.raw
                self._newlines = ""
                self._started = True
                delta = Delta(
                    delta.kind, delta.text, index=delta.index, raw=raw, fault=delta.fault
                )
            self._ends_with_call = delta.kind != "malformed_call"
            deltas.append(delta)
        self._calls = reader.calls
        if reader.gave_up:
            self._may_be_bare = False
            self._buffer = reader.text
        elif reader.over:
            self._buffer = reader.rest
        else:
            return False
        self._reader = None
        return bool(self._buffer)

    def _look(self, deltas: list[Delta], final: bool) -> bool:
        """Say what is content, up to where a call begins; whether there is more to do."""
        syntax = self._syntax
        text = self._buffer
        if syntax is None:
            self._buffer = ""
            self._say(deltas, text)
            return False
        if self._may_be_bare:
            if found := BARE.match(text):
                self._reader = CallReader(
                    syntax, text, found.end(), self._calls, self._pieces, bare=True
                )
                self._buffer = ""
                return self._read(deltas, final)
            if not final and syntax.may_be_bare(text):
                return False
        if found := syntax.opener.search(text):
            self._say(deltas, text[: found.start()])
            start = text[found.start() :]
            at = found.end() - found.start()
            self._reader = CallReader(
                syntax, start, at, self._calls, self._pieces, bare=False
            )
            self._buffer = ""
            self._may_be_bare = False
            return self._read(deltas, final)
        kept = 0 if final else syntax.partial_opener(text)
        self._buffer = text[len(text) - kept :]
        self._say(deltas, text[: len(text) - kept])
        return False

    def _say(self, deltas: list[Delta], text: str) -> None:
        text = self._newlines + (
            self._syntax.markers.decode(text) if self._syntax else text
        )
        if not self._started:
            text = text.lstrip("\n")
        body = text.rstrip("\n")
        self._newlines = text[len(body) :]
        if body:
            self._started = True
            self._ends_with_call = False
            self._may_be_bare = False
            deltas.append(Delta("content", body))

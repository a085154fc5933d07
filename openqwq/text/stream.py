r"""The think/tool state machine: token ids in; reasoning, content and tool calls out.

The first `</think>` ends the thinking, later ones are text; inside the thinking every marker is
text, so a call written there is never executed; special tokens such as `<|im_end|>` have no text.
Newlines around the reasoning, before the content and between content and calls are format, not
text (the usual end of thinking is `\n</think>\n\n`): they are dropped.
"""

import codecs
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, ToolCall

CLOSING_TEXT = "\n</think>\n\n"  # what ends a thinking from outside


class ThinkTracker:
    """Which tokens are thinking, by id alone; with `close_id` None nothing ever is.

    A reply that does not start inside the thinking opens it only with its very first token.
    """

    def __init__(self, open_id: int | None, close_id: int | None, starts_in_thinking: bool) -> None:
        self._open_id, self._close_id = open_id, close_id
        self._may_open = close_id is not None and not starts_in_thinking
        self.in_thinking = close_id is not None and starts_in_thinking
        self.reasoning_tokens = 0  # the two markers are not counted

    def feed(self, token_id: int) -> bool:
        """Advance by one token; True where it is the marker that opens or closes the thinking."""
        marker = self._close_id if self.in_thinking else self._open_id
        if token_id == marker and (self.in_thinking or self._may_open):
            self.in_thinking, self._may_open = not self.in_thinking, False
            return True
        self._may_open = False
        self.reasoning_tokens += self.in_thinking
        return False


@dataclass(frozen=True)
class Delta:
    """A piece of a reply: more text, or a whole call (`index` counts the well-formed ones)."""

    kind: Literal["reasoning", "content", "tool_call", "malformed_call"]
    text: str = ""
    call: ToolCall | None = None
    index: int = 0


@dataclass(frozen=True)
class Reply:
    """A parsed reply; `malformed_calls` hold the text between tags that is not a valid call."""

    reasoning: str
    content: str
    tool_calls: list[ToolCall]
    malformed_calls: list[str]
    reasoning_tokens: int

    def message(self) -> Message:
        """This reply as a turn of the history; malformed calls have no place in one."""
        message = Message(role="assistant", content=self.content)
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message


class _Text:
    """Incremental UTF-8 that holds newlines back until text follows them and drops leading ones."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._started = False
        self.held = ""

    def feed(self, data: bytes, final: bool = False) -> str:
        """Text that is certain by now; `final` turns half a character into U+FFFD."""
        text = self.held + self._decoder.decode(data, final)
        if not self._started:
            text = text.lstrip("\n")
        body = text.rstrip("\n")
        self.held = text[len(body) :]
        self._started = self._started or bool(body)
        return body


class ReplyParser:
    """Turns a reply's tokens, one at a time, into deltas; call `finish` after the last token.

    `starts_in_thinking` holds for QwQ, whose prompt ends with `<think>`; the function of that name
    tells it from any prompt. A checkpoint without think tokens only ever has content.
    """

    def __init__(self, tokenizer: Tokenizer, starts_in_thinking: bool = True) -> None:
        self._tokenizer = tokenizer
        self._silent = tokenizer.special_ids.union(tokenizer.eos_ids)
        self._tracker = ThinkTracker(
            tokenizer.think_open_id, tokenizer.think_close_id, starts_in_thinking
        )
        self._reasoning, self._content = _Text(), _Text()
        self._call: bytearray | None = None  # bytes since an open <tool_call>
        self._calls, self._any_call = 0, False

    @property
    def in_thinking(self) -> bool:
        """Whether the next token is thinking, unless it is `</think>`."""
        return self._tracker.in_thinking

    @property
    def reasoning_tokens(self) -> int:
        """Thinking tokens so far, without the two markers."""
        return self._tracker.reasoning_tokens

    def feed(self, token_id: int) -> list[Delta]:
        """What becomes certain with this token, often nothing."""
        if self._tracker.feed(token_id):
            return _text_delta("reasoning", self._reasoning.feed(b"", final=True))
        data = b"" if token_id in self._silent else self._tokenizer.token_bytes(token_id)
        if self.in_thinking:
            return _text_delta("reasoning", self._reasoning.feed(data))
        if self._call is not None:
            if token_id == self._tokenizer.tool_call_close_id:
                return [self._close_call(self._call)]
            self._call += data
            return []
        if token_id == self._tokenizer.tool_call_open_id:
            self._call, self._any_call = bytearray(), True
            return _text_delta("content", self._content.feed(b"", final=True))
        return _text_delta("content", self._content.feed(data))

    def finish(self) -> list[Delta]:
        """What is left at the end; a call that was never closed is malformed."""
        if self.in_thinking:
            return _text_delta("reasoning", self._reasoning.feed(b"", final=True))
        if self._call is not None:
            return [Delta("malformed_call", self._call.decode(errors="replace"))]
        rest = self._content.feed(b"", final=True)
        return _text_delta("content", rest if self._any_call else rest + self._content.held)

    def _close_call(self, data: bytearray) -> Delta:
        self._call = None
        text = data.decode(errors="replace")
        call = _tool_call(text)
        if call is None:
            return Delta("malformed_call", text)
        self._calls += 1
        return Delta("tool_call", call=call, index=self._calls - 1)


def parse_reply(
    tokenizer: Tokenizer, token_ids: Iterable[int], starts_in_thinking: bool = True
) -> Reply:
    """Parse a whole reply by feeding it to `ReplyParser`."""
    parser = ReplyParser(tokenizer, starts_in_thinking)
    deltas = [delta for token_id in token_ids for delta in parser.feed(token_id)] + parser.finish()
    return Reply(
        "".join(delta.text for delta in deltas if delta.kind == "reasoning"),
        "".join(delta.text for delta in deltas if delta.kind == "content"),
        [delta.call for delta in deltas if delta.call is not None],
        [delta.text for delta in deltas if delta.kind == "malformed_call"],
        parser.reasoning_tokens,
    )


def starts_in_thinking(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> bool:
    """Whether a prompt leaves its reply inside the thinking: its last think token opens."""
    markers = (tokenizer.think_open_id, tokenizer.think_close_id)
    last = next((i for i in reversed(prompt_ids) if i in markers), None)
    return last is not None and last == tokenizer.think_open_id


def _text_delta(kind: Literal["reasoning", "content"], text: str) -> list[Delta]:
    return [Delta(kind, text)] if text else []


def _tool_call(text: str) -> ToolCall | None:
    """The call that `text` spells, or None unless it is valid JSON with a name and arguments."""
    try:
        value = json.loads(text)
        # What cannot be written back as JSON in UTF-8 (NaN, lone surrogates) is no valid call.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    match value:
        case {"name": str(name), "arguments": dict(arguments)}:
            return ToolCall(name=name, arguments=arguments)
    return None

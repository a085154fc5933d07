r"""The think/tool state machine: token ids in; reasoning, content and tool calls out.

The first `</think>` ends the thinking, later ones are text; inside the thinking every marker is
text, so a call written there is never executed; special tokens such as `<|im_end|>` have no text.
Newlines around the reasoning, before the content and between content and calls are format, not
text (the usual end of thinking is `\n</think>\n\n`): they are dropped. So are markers that say
nothing: `<think>` again where a thinking has just begun, `</think>` before any answer.

Models that write in channels are read by `channels`, to the same deltas.
"""

import codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openqwq.text import channels
from openqwq.text.call_syntax import Check, Syntax
from openqwq.text.calls import ContentParser
from openqwq.text.forms import Markers, call_form, markers_of
from openqwq.text.reading import Delta
from openqwq.text.thinking import OPEN, Spans, ThinkTracker
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, ToolCall

CLOSING_TEXT = "\n</think>\n\n"  # what ends a thinking from outside
LONGEST_TAG_TOKENS = 12  # tokens at a prompt's end that may spell a tag and white space


@dataclass(frozen=True)
class Reply:
    """A parsed reply; `malformed_calls` hold the text between tags that is not a valid call.

    One that ends `in_thinking` has no answer.
    """

    reasoning: str
    content: str
    tool_calls: list[ToolCall]
    malformed_calls: list[str]
    reasoning_tokens: int
    in_thinking: bool = False

    def message(self) -> Message:
        """This reply as a turn of the history; malformed calls have no place in one."""
        message = Message(role="assistant", content=self.content)
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message


class _Thoughts:
    """Incremental UTF-8 that holds newlines back until text follows, and drops leading ones."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._started = False
        self._newlines = ""

    def feed(self, data: bytes, final: bool = False) -> list[Delta]:
        """Text that is certain by now; `final` turns half a character into U+FFFD."""
        text = self._newlines + self._decoder.decode(data, final)
        if not self._started:
            text = text.lstrip("\n")
        body = text.rstrip("\n")
        self._newlines = text[len(body) :]
        self._started = self._started or bool(body)
        return [Delta("reasoning", body)] if body else []


class ReplyParser:
    """Turns a reply's tokens, one at a time, into deltas; call `finish` after the last token.

    `starts_in_thinking` holds for QwQ, whose prompt ends with `<think>`; the function of that name
    tells it from any prompt. `tools` are the specifications of those that may be called: what calls
    another is malformed, and with an empty list nothing is a call. With None any name will do.
    What `check` finds a fault in is malformed too.
    With `pieces` a call's arguments come as they are written, before the whole call.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        starts_in_thinking: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        pieces: bool = False,
        check: Check | None = None,
    ) -> None:
        self._tracker = think_tracker(tokenizer, starts_in_thinking)
        syntax = None
        if tools is None or tools:
            schemas = None if tools is None else _schemas(tools)
            syntax = Syntax(call_form(tokenizer), markers_of(tokenizer), schemas, check)
        self._markers = syntax.markers if syntax else Markers({}, {})
        self._has_channels = tokenizer.writes_channels
        self._thoughts = _Thoughts()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._content = ContentParser(syntax, pieces)
        self._was_thinking = starts_in_thinking

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
        spans = self._tracker.split(token_id)
        if self._has_channels:
            marker = self._markers.encode(self._tracker.call_mark)
        else:
            marker = self._markers.characters.get(token_id, "")
            if self.in_thinking or not spans:
                marker = ""
            if marker:
                spans = spans[:-1]  # the last one is the marker's own text
        deltas = self._take(spans)
        if marker:
            deltas += self._content.feed(self._decoder.decode(b"", final=True) + marker)
        return deltas

    def finish(self) -> list[Delta]:
        """What is left at the end; a call that was cut off is malformed."""
        deltas = self._take(self._tracker.rest())
        if self.in_thinking:
            return deltas + self._thoughts.feed(b"", final=True)
        return deltas + self._content.feed(
            self._decoder.decode(b"", final=True), final=True
        )

    def speaks(self, token_id: int) -> bool:
        """Whether a token, if it came next, would be of the answer's text, calls included."""
        return self._tracker.speaks(token_id)

    def _take(self, spans: Spans) -> list[Delta]:
        deltas: list[Delta] = []
        for thinks, data in [*spans, (self.in_thinking, b"")]:
            if self._was_thinking and not thinks:
                deltas += self._thoughts.feed(b"", final=True)
            self._was_thinking = thinks
            if thinks:
                deltas += self._thoughts.feed(data)
            else:
                deltas += self._content.feed(self._decoder.decode(data))
        return deltas


def parse_reply(
    tokenizer: Tokenizer,
    token_ids: Iterable[int],
    starts_in_thinking: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Reply:
    """Parse a whole reply by feeding it to `ReplyParser`."""
    parser = ReplyParser(tokenizer, starts_in_thinking, tools)
    deltas: list[Delta] = []
    for token_id in token_ids:
        deltas += parser.feed(token_id)
    deltas += parser.finish()
    return Reply(
        "".join(delta.text for delta in deltas if delta.kind == "reasoning"),
        "".join(delta.text for delta in deltas if delta.kind == "content"),
        [delta.call for delta in deltas if delta.call is not None],
        [delta.text for delta in deltas if delta.kind == "malformed_call"],
        parser.reasoning_tokens,
        parser.in_thinking,
    )


def think_tracker(tokenizer: Tokenizer, starts_in_thinking: bool) -> ThinkTracker:
    """What tells the thinking of a reply from its answer, in the form that the model writes."""
    if tokenizer.writes_channels:
        return channels.ChannelTracker(tokenizer, starts_in_thinking)
    return ThinkTracker(tokenizer, starts_in_thinking)


def closing_ids(tokenizer: Tokenizer) -> list[int]:
    """The tokens that end a thinking from outside and begin the answer."""
    text = channels.CLOSING if tokenizer.writes_channels else CLOSING_TEXT
    return tokenizer.encode(text, allow_special=True, goes_on=True)


def starts_in_thinking(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> bool:
    """Whether a prompt leaves its reply inside the thinking.

    Its last think token opens; without such tokens its text ends with the opening tag.
    """
    if tokenizer.writes_channels:
        return channels.starts_in_thinking(tokenizer, prompt_ids)
    if tokenizer.think_close_id is None:
        end = b"".join(map(tokenizer.token_bytes, prompt_ids[-LONGEST_TAG_TOKENS:]))
        return end.rstrip().endswith(OPEN)
    for token_id in reversed(prompt_ids):
        if token_id in (tokenizer.think_open_id, tokenizer.think_close_id):
            return token_id == tokenizer.think_open_id
    return False


def _schemas(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The schemas of the tools' arguments, by name."""
    functions = [tool.get("function", tool) for tool in tools]
    return {function["name"]: function.get("parameters") or {} for function in functions}

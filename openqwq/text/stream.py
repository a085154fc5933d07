r"""The think/tool state machine: token ids in; reasoning, content and tool calls out.

The first `</think>` ends the thinking, later ones are text; inside the thinking every marker is
text, so a call written there is never executed; special tokens such as `<|im_end|>` have no text.
Newlines around the reasoning, before the content and between content and calls are format, not
text (the usual end of thinking is `\n</think>\n\n`): they are dropped. So are markers that say
nothing: `<think>` again where a thinking has just begun, `</think>` before any answer.
"""

import codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openqwq.text.call_syntax import Check, Syntax, overlap
from openqwq.text.calls import ContentParser
from openqwq.text.forms import call_form, markers_of
from openqwq.text.reading import Delta
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, ToolCall

CLOSING_TEXT = "\n</think>\n\n"  # what ends a thinking from outside
OPEN, CLOSE = b"<think>", b"</think>"
LONGEST_TAG_TOKENS = 12  # tokens at a prompt's end that may spell a tag and white space


class InlineThinking:
    """Thinking between tags in plain text, which may come in any pieces."""

    def __init__(self, in_thinking: bool = False) -> None:
        self.in_thinking = in_thinking
        # nothing but white space since the reply or its last marker began
        self._blank = True
        self._held = b""  # text that may turn out to be a tag

    def read(self, data: bytes) -> list[tuple[bool, bytes]]:
        """Advance by some text; the bytes that are certain by now, each with whether it thinks."""
        spans: list[tuple[bool, bytes]] = []
        self._held += data
        while self._held and self._take_tag(spans):
            pass
        return spans

    def rest(self) -> list[tuple[bool, bytes]]:
        """What was held back, once no more tokens come."""
        held = self._held
        self._held = b""
        return [(self.in_thinking, held)] if held else []

    def _take_tag(self, spans: list[tuple[bool, bytes]]) -> bool:
        """Take what is certain off the text held back; whether a tag was among it."""
        if self._blank:
            begun = self._held.lstrip()
            for tag in (OPEN, CLOSE):
                if begun.startswith(tag):
                    self.in_thinking = tag == OPEN
                    self._held = begun[len(tag) :]
                    return True
                if tag.startswith(begun):
                    return False  # white space, and perhaps the beginning of a tag
            self._blank = False
        if not self.in_thinking:
            spans.append((False, self._held))
            self._held = b""
            return False
        thought, closed, after = self._held.partition(CLOSE)
        kept = 0 if closed else overlap(thought, CLOSE)
        if len(thought) > kept:
            spans.append((True, thought[: len(thought) - kept]))
        self._held = after if closed else thought[len(thought) - kept :]
        if closed:
            self.in_thinking = False
            self._blank = True
        return bool(closed)


class ThinkTracker(InlineThinking):
    """Which tokens are thinking.

    A checkpoint with think tokens is told by their ids, any other by the tags in its text. A reply
    that does not start inside the thinking may open it before it says anything else.
    """

    def __init__(self, tokenizer: Tokenizer, starts_in_thinking: bool) -> None:
        super().__init__(starts_in_thinking)
        self.reasoning_tokens = 0  # the two markers are not counted
        self._tokenizer = tokenizer
        self._held_tokens = 0

    @property
    def may_open(self) -> bool:
        """Whether the thinking may still be opened."""
        return self._blank and not self.in_thinking

    def opening_id(self, prompt_ids: Sequence[int]) -> int:
        """The token with which a model opens the thinking of its reply itself; -1 if none is.

        None is where the chat template opens it, and where a prompt closes it again at its end.
        """
        opening = self._tokenizer.think_open_id
        if opening is None or self.in_thinking or not self._tokenizer.leaves_thinking_open:
            return -1
        for token_id in reversed(prompt_ids):
            if self._tokenizer.token_bytes(token_id).strip():
                return -1 if token_id == self._tokenizer.think_close_id else opening
        return opening

    def feed(self, token_id: int) -> bool:
        """Advance by one token; True where with it the thinking opens or closes."""
        before = self.in_thinking
        self.split(token_id)
        return self.in_thinking != before

    def split(self, token_id: int) -> list[tuple[bool, bytes]]:
        """Advance by one token; the bytes that are certain by now, each with whether it thinks."""
        tokenizer = self._tokenizer
        if tokenizer.think_close_id is None:
            return self._split_text(token_id)
        if token_id == tokenizer.think_close_id:
            if self.in_thinking or self._blank:
                self.in_thinking = False
                self._blank = True
                self._held = b""
                return []
        elif token_id == tokenizer.think_open_id and self._blank:
            # once more: a budget must not miss it
            self.reasoning_tokens += self.in_thinking
            self.in_thinking = True
            self._held = b""
            return []
        self.reasoning_tokens += self.in_thinking
        data = b"" if token_id in tokenizer.silent_ids else tokenizer.token_bytes(token_id)
        if not self._blank:
            return [(self.in_thinking, data)]
        self._blank = not data.strip() and token_id not in tokenizer.silent_ids
        if self._blank and not self.in_thinking:
            self._held += data
            return []
        return [*self.rest(), (self.in_thinking, data)]

    def _split_text(self, token_id: int) -> list[tuple[bool, bytes]]:
        """The same where tags are plain text, which may begin and end inside of tokens."""
        tokenizer = self._tokenizer
        was_thinking = self.in_thinking
        data = b"" if token_id in tokenizer.silent_ids else tokenizer.token_bytes(token_id)
        if token_id in tokenizer.added_ids:
            self._blank = False
            self.reasoning_tokens += was_thinking
            return [*self.rest(), (was_thinking, data)]
        spans = self.read(data)
        if was_thinking:
            self._count(len(data))
        return spans

    def _count(self, size: int) -> None:
        """Count a token of `size` bytes of the thinking, or uncount those of its closing tag."""
        if not self.in_thinking:
            self.reasoning_tokens -= self._held_tokens
            self._held_tokens = 0
            return
        self.reasoning_tokens += 1
        self._held_tokens = self._held_tokens + 1 if len(self._held) >= size else 0


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
        self._tracker = ThinkTracker(tokenizer, starts_in_thinking)
        syntax = None
        if tools is None or tools:
            schemas = None if tools is None else _schemas(tools)
            syntax = Syntax(call_form(tokenizer), markers_of(tokenizer), schemas, check)
        self._markers = syntax.markers.characters if syntax else {}
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
        marker = self._markers.get(token_id)
        if marker is None or self.in_thinking or not spans:
            return self._take(spans)
        deltas = self._take(spans[:-1])  # the last one is the marker's own text
        return deltas + self._content.feed(self._decoder.decode(b"", final=True) + marker)

    def finish(self) -> list[Delta]:
        """What is left at the end; a call that was cut off is malformed."""
        deltas = self._take(self._tracker.rest())
        if self.in_thinking:
            return deltas + self._thoughts.feed(b"", final=True)
        return deltas + self._content.feed(
            self._decoder.decode(b"", final=True), final=True
        )

    def _take(self, spans: list[tuple[bool, bytes]]) -> list[Delta]:
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
    )


def starts_in_thinking(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> bool:
    """Whether a prompt leaves its reply inside the thinking.

    Its last think token opens; without such tokens its text ends with the opening tag.
    """
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

"""Replies in channels, as gpt-oss writes them (OpenAI calls the format harmony).

A reply is a run of messages, `<|start|>assistant<|channel|>NAME<|message|>...<|end|>`; the prompt
ends behind the first `<|start|>assistant`. What a header says decides what its message is:

* a recipient, `to=functions.NAME` in front of the channel or behind it: a call of that tool;
* the channel `analysis`: thinking;
* any other, `final` above all: the answer. `commentary` without a recipient is one too: models say
  there what they are about to do before they call tools, and it is meant for the reader.

`<|return|>` ends a reply, and so does `<|call|>`. Headers are neither thinking nor answer.
"""

import re
from collections.abc import Sequence

from openqwq.text.forms import CHANNELS
from openqwq.text.thinking import Spans, ThinkTracker
from openqwq.text.tokenizer import CHANNEL_ENDS, Tokenizer

CLOSING = "<|end|><|start|>assistant<|channel|>final<|message|>"
START, END, CHANNEL, MESSAGE = "<|start|>", "<|end|>", "<|channel|>", "<|message|>"
RECIPIENT = re.compile(r"\bto=((?:(?!<\|)\S)+)")
NAMESPACE = "functions."
ADDRESSED = "commentary to=functions."
ROLE = b"assistant"
ADDRESS = b"to="
NO_ARGUMENTS = "{}"
PARTING = b"\n\n"  # between two messages of one kind


def starts_in_thinking(tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> bool:
    """Whether a prompt leaves its reply inside a message of the channel `analysis`."""
    start = tokenizer.added_tokens[START]
    if start not in prompt_ids:
        return False
    place = len(prompt_ids) - 1 - list(reversed(prompt_ids)).index(start)
    tracker = ChannelTracker(tokenizer, False)
    for token_id in prompt_ids[place:]:
        tracker.split(token_id)
    return tracker.in_thinking


class ChannelTracker(ThinkTracker):
    """`ThinkTracker` of replies in channels."""

    def __init__(self, tokenizer: Tokenizer, starts_in_thinking: bool) -> None:
        super().__init__(tokenizer, starts_in_thinking)
        self._names = {token_id: text for text, token_id in tokenizer.added_tokens.items()}
        self._in_header = not starts_in_thinking
        self._in_call = False
        self._header = b""
        self._is_first = True  # nothing but the prompt has begun this header
        self._has_marker = False  # this header has one
        self._is_empty = True  # nothing has been said in this message
        self._spoke = False  # some message of the answer has begun

    @property
    def may_open(self) -> bool:
        """Whether a thinking may still be opened."""
        return self._in_header

    def opening_id(self, prompt_ids: Sequence[int]) -> int:
        """See `ThinkTracker.opening_id`: it takes several tokens."""
        return -1

    def speaks(self, token_id: int) -> bool:
        """See `ThinkTracker.speaks`."""
        elsewhere = self._in_header or self._in_call
        return not elsewhere and token_id not in self._names and super().speaks(token_id)

    def closing(self, closing_ids: Sequence[int], ruled: bool) -> list[int]:
        """See `ThinkTracker.closing`: a grammar writes the next message's header itself."""
        return list(closing_ids[:1] if ruled else closing_ids)

    def grammar(self, grammar: str, may_think: bool) -> str:
        """The grammar of the messages that may come next.

        An answer stands in the channel `final`, unless its grammar writes headers. Where the model
        `may_think`, the header of a thinking may come instead, and then nothing.
        """
        channel = self._id_of(CHANNEL)
        message = self._id_of(MESSAGE)
        header = "" if self._is_first else f'{self._id_of(START)} "assistant" '
        answer = "only_answer"
        if channel not in grammar:
            answer = f'{channel} "final" {message} only_answer'
        if may_think:
            answer = f'({channel} "analysis" {message} | {answer})'
        start = f"start: {header}{answer}\nonly_answer:"
        return re.sub(r"(?m)^start\s*:", lambda _: start, grammar, count=1)

    def next_header(self) -> str:
        """The grammar of a header behind a thinking: that of the answer, or of a call."""
        start, channel = self._id_of(START), self._id_of(CHANNEL)
        call = f'"{ADDRESSED}" /[a-zA-Z0-9_.:-]+/ " " {self._id_of("<|constrain|>")} "json"'
        kind = f'("final" | {call})'
        rule = f'start: {start} "assistant" {channel} {kind} {self._id_of(MESSAGE)}'
        return f"%llguidance {{}}\n{rule}"

    def split(self, token_id: int) -> Spans:
        """See `ThinkTracker.split`; `call_mark` tells where a call begins and ends."""
        self.call_mark = ""
        name = self._names.get(token_id, "")
        if name == MESSAGE and self._in_header:
            return self._open_message()
        if name in (START, END, CHANNEL, *CHANNEL_ENDS):
            return self._pass_marker(name)
        data = self.tokenizer.token_bytes(token_id)
        if self._in_header:
            self._header += data
            self._has_marker = self._has_marker or bool(name)
            return self._stray_text()
        self._is_empty = self._is_empty and not data.strip()
        self.reasoning_tokens += self.in_thinking
        return [(self.in_thinking, b"" if token_id in self.tokenizer.silent_ids else data)]

    def rest(self) -> Spans:
        """What began like a header and is none; a header that was cut off says nothing."""
        held = self._header
        self._header = b""
        is_header = self._has_marker or held.strip().startswith((ROLE, ADDRESS))
        if not self._in_header or is_header or not held.strip():
            return []
        return [(False, held)]

    def _id_of(self, marker: str) -> str:
        """A marker as grammars name it."""
        return f"<[{self.tokenizer.added_tokens[marker]}]>"

    def _pass_marker(self, name: str) -> Spans:
        """A marker at a message's end, or in a header."""
        if self.in_thinking and name in CHANNEL_ENDS:
            return []  # the reply ends inside of its thinking
        if self._in_header and name == CHANNEL:
            self._header += name.encode()
            self._has_marker = True
            return []
        if self._in_call:
            arguments = NO_ARGUMENTS if self._is_empty else ""
            self.call_mark = arguments + CHANNELS.closing
        spans = self.rest()
        if name == CHANNEL:
            self._header = name.encode()
        self._in_header = True
        self._in_call = False
        self.in_thinking = False
        self._is_first = False
        self._has_marker = name in (START, CHANNEL)
        return spans

    def _open_message(self) -> Spans:
        """Go on behind a header, as it says."""
        header = self._header.decode(errors="replace")
        self._header = b""
        self._in_header = False
        self._is_first = False
        self._is_empty = True
        recipient = RECIPIENT.search(header)
        if recipient:
            self._in_call = True
            tool = recipient[1].removeprefix(NAMESPACE)
            self.call_mark = f"{CHANNELS.opening}{tool}{CHANNELS.between}"
            return []
        _, _, channel = header.partition(CHANNEL)
        self.in_thinking = channel.strip() == "analysis"
        if self.in_thinking:
            return [(True, PARTING)] if self.reasoning_tokens else []
        spoke = self._spoke
        self._spoke = True
        return [(False, PARTING)] if spoke else []

    def _stray_text(self) -> Spans:
        """Text where a header is expected: the answer, if it cannot begin one."""
        begun = self._header.strip()
        address = begun.removeprefix(ROLE).strip()
        is_address = ADDRESS.startswith(address) or address.startswith(ADDRESS)
        if self._has_marker or ROLE.startswith(begun) or is_address:
            return []
        spans = self.rest()
        self._in_header = False
        self._spoke = True
        return spans

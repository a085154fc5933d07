"""Which tokens of a reply are thinking: told by markers, by tags in its text, or by channels."""

from collections.abc import Sequence

from openqwq.text.call_syntax import overlap
from openqwq.text.tokenizer import Tokenizer

Spans = list[tuple[bool, bytes]]  # of a reply's text, each with whether it thinks
OPEN, CLOSE = b"<think>", b"</think>"


class InlineThinking:
    """Thinking between tags in plain text, which may come in any pieces."""

    def __init__(self, in_thinking: bool = False) -> None:
        self.in_thinking = in_thinking
        # nothing but white space since the reply or its last marker began
        self._blank = True
        self._held = b""  # text that may turn out to be a tag

    def read(self, data: bytes) -> Spans:
        """Advance by some text; the bytes that are certain by now, each with whether it thinks."""
        spans: Spans = []
        self._held += data
        while self._held and self._take_tag(spans):
            pass
        return spans

    def rest(self) -> Spans:
        """What was held back, once no more tokens come."""
        held = self._held
        self._held = b""
        return [(self.in_thinking, held)] if held else []

    def _take_tag(self, spans: Spans) -> bool:
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
        self.tokenizer = tokenizer
        self.reasoning_tokens = 0  # the two markers are not counted
        self.call_mark = (
            ""  # what the last token is in the form of calls, where it is no text
        )
        self._held_tokens = 0

    @property
    def may_open(self) -> bool:
        """Whether the thinking may still be opened."""
        return self._blank and not self.in_thinking

    def opening_id(self, prompt_ids: Sequence[int]) -> int:
        """The token with which a model opens the thinking of its reply itself; -1 if none is.

        None is where the chat template opens it, and where a prompt closes it again at its end.
        """
        opening = self.tokenizer.think_open_id
        if opening is None or self.in_thinking or not self.tokenizer.leaves_thinking_open:
            return -1
        for token_id in reversed(prompt_ids):
            if self.tokenizer.token_bytes(token_id).strip():
                return -1 if token_id == self.tokenizer.think_close_id else opening
        return opening

    def speaks(self, token_id: int) -> bool:
        """Whether a token, if it came next, would be of the answer's text, calls included."""
        if self.in_thinking or token_id in self.tokenizer.silent_ids:
            return False
        return token_id != self.tokenizer.think_open_id

    def closing(self, closing_ids: Sequence[int], ruled: bool) -> list[int]:
        """What ends the thinking from outside; `ruled` where a grammar governs the answer."""
        return list(closing_ids)

    def grammar(self, grammar: str, may_think: bool) -> str:
        """The grammar of what may come next, from a `grammar` of the answer."""
        return grammar

    def next_header(self) -> str:
        """The grammar of what may stand between a thinking and an answer; "" where nothing does."""
        return ""

    def feed(self, token_id: int) -> bool:
        """Advance by one token; True where with it the thinking opens or closes."""
        before = self.in_thinking
        self.split(token_id)
        return self.in_thinking != before

    def split(self, token_id: int) -> Spans:
        """Advance by one token; the bytes that are certain by now, each with whether it thinks."""
        tokenizer = self.tokenizer
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

    def _split_text(self, token_id: int) -> Spans:
        """The same where tags are plain text, which may begin and end inside of tokens."""
        tokenizer = self.tokenizer
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

"""What a policy said, as rewards of one's own read it."""

from collections.abc import Sequence
from typing import Any

from openqwq.types import FinishReason, Message


class CompletionText(str):
    """What a policy said, thinking included, as your own rewards are given it.

    It is the text itself; `thinking` and `answer` are its two parts (`answer` is None where the
    thinking never ended), `messages` the whole conversation, prompt included.
    """

    thinking: str
    answer: str | None
    messages: tuple[Message, ...]
    finish_reason: FinishReason

    def __new__(
        cls,
        text: str,
        thinking: str,
        answer: str | None,
        messages: Sequence[Message] = (),
        finish_reason: FinishReason = "stop",
    ) -> "CompletionText":
        """See the class."""
        made = super().__new__(cls, text)
        made.thinking = thinking
        made.answer = answer
        made.messages = tuple(messages)
        made.finish_reason = finish_reason
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """How a copy is made, in this process or another."""
        parts = (str(self), self.thinking, self.answer, self.messages, self.finish_reason)
        return CompletionText, parts

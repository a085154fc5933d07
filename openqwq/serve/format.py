"""What every format of a reply has in common: the protocol, how it ended, what it cost."""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from openqwq.serve.protocol import ApiError
from openqwq.serve.reply import LEAST_LOG_PROB, Ask, Finish, Piece

Json = dict[str, Any]


class Format(Protocol):
    """How one API writes a reply; `feed` takes every piece, streamed or not.

    `done` is the text that a stream ends with, if its API has one.
    """

    finishes: list[Finish]
    done: str | None

    def start(self) -> list[Json]:
        """The events before the first piece."""
        ...

    def feed(self, number: int, piece: Piece) -> list[Json]:
        """The events that a piece of reply `number` makes."""
        ...

    def end(self) -> list[Json]:
        """The events after the last piece."""
        ...

    def fail(self, error: ApiError) -> list[Json]:
        """The events of a reply that broke off after its stream had begun."""
        ...

    def whole(self) -> Json:
        """The whole reply."""
        ...


def finite(log_prob: float) -> float:
    """A log-prob that JSON can hold; the least one where the engine tells none.

    llama.cpp tells none of tokens that end inside a character.
    """
    return LEAST_LOG_PROB if math.isnan(log_prob) else max(log_prob, LEAST_LOG_PROB)


def ending(finish: Finish | None) -> Json:
    """The two fields that say how a reply ended."""
    if finish is None:
        return {"finish_reason": None, "finish_details": None}
    return {"finish_reason": finish.reason, "finish_details": details(finish)}


def details(finish: Finish) -> Json | None:
    """Why the reason alone misleads, or None."""
    if finish.detail is None:
        return None
    kind, message = finish.detail
    return {"type": kind, "message": message}


def usage(ask: Ask, finishes: Sequence[Finish]) -> Json:
    """The tokens of a request: the prompt once, every reply's own."""
    completion = sum(finish.completion_tokens for finish in finishes)
    prompt = len(ask.prompt_ids) + sum(finish.more_prompt_tokens for finish in finishes)
    reasoning = sum(finish.reasoning_tokens for finish in finishes)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }

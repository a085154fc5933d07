"""What every format of a reply has in common: the protocol, how it ended, what it cost."""

import math
from collections.abc import Sequence
from typing import Protocol

from openqwq.serve.protocol import ApiError, Json
from openqwq.serve.reply import LEAST_LOG_PROB, Ask, Finish, Piece
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import TokenEvent


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
    if math.isnan(log_prob):
        return LEAST_LOG_PROB
    return max(log_prob, LEAST_LOG_PROB)


def log_prob_entries(tokenizer: Tokenizer, tokens: Sequence[TokenEvent]) -> list[Json]:
    """The log-probs of tokens and their alternatives, as chats and responses show them."""
    entries: list[Json] = []
    for token in tokens:
        entry = _log_prob_entry(tokenizer, token.token_id, token.log_prob)
        entry["top_logprobs"] = [
            _log_prob_entry(tokenizer, token_id, log_prob)
            for token_id, log_prob in token.alternatives
        ]
        entries.append(entry)
    return entries


def _log_prob_entry(tokenizer: Tokenizer, token_id: int, log_prob: float) -> Json:
    data = tokenizer.token_bytes(token_id)
    text = data.decode(errors="replace")
    return {"token": text, "logprob": finite(log_prob), "bytes": list(data)}


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

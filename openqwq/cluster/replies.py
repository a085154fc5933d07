"""Whole replies over another engine's streams: budgets, loops and stops are those of our engine.

A stream runs until a token has to be forced; that token is put, and another stream goes on after
it. What the other engine drew past the forced token is thrown away.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from openqwq.engine.sequence import Sequence


@dataclass(frozen=True)
class DrawnTokens:
    """Tokens of one step with their log-probs (nats), and the version of the weights."""

    token_ids: list[int]
    log_probs: list[float]
    version: int


# (what has been drawn so far) -> what follows, until its end of turn or its limit
Stream = Callable[[Sequence], AsyncGenerator[DrawnTokens, None]]


async def draw(reply: Sequence, stream: Stream, version: Callable[[], int]) -> None:
    """Draw `reply` to its end; `version` is asked for the weights of now, for forced tokens."""
    while reply.finish_reason is None:
        if _put_forced(reply, version()):
            continue
        async with aclosing(stream(reply)) as steps:
            async for drawn in steps:
                if not _take(reply, drawn):
                    break


def _put_forced(reply: Sequence, version: int) -> bool:
    """Put the next token if nobody may draw it."""
    forced = reply.next_forced()
    if forced is None:
        return False
    reply.append(forced, 0.0, False, version)
    return True


def _take(reply: Sequence, drawn: DrawnTokens) -> bool:
    """Take tokens until the reply ends or one has to be forced; whether the stream may go on."""
    for token_id, log_prob in zip(drawn.token_ids, drawn.log_probs, strict=True):
        reply.append(token_id, log_prob, True, drawn.version)
        if reply.finish_reason or _put_forced(reply, drawn.version):
            return False
    return True

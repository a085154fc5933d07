"""Requests that another engine draws: how the failures of members reach the caller."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import pytest

from openqwq.engine.relay import DrawnToken, Relay
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError, SamplingParams


@pytest.mark.parametrize(
    ("failures", "kind"),
    [
        ((RuntimeError("closed"), OpenQwQError("gone")), OpenQwQError),
        ((RuntimeError("closed"), RuntimeError("closed")), RuntimeError),
    ],
)
async def test_a_member_that_fails_alone_raises_its_own_error(
    tokenizer: Tokenizer,
    plain: Callable[..., SamplingParams],
    failures: Sequence[Exception],
    kind: type[Exception],
) -> None:
    both = asyncio.Barrier(2)

    async def draw(sequences: Sequence[Any]) -> AsyncGenerator[DrawnToken]:
        if len(sequences) == 2:
            # the shared request ends early: each member goes on by itself
            for index in (0, 1):
                yield DrawnToken(index, 5, -1.0)
            return
        await both.wait()
        raise failures[sequences[0].seed]

    relay = Relay("other", draw, lambda: None, tokenizer, 64, 2)
    with pytest.raises(kind):
        await relay.generate([1, 2], plain(9), n=2)

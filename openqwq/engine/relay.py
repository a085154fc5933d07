"""Replies that another engine draws: our budgets, stops and counts around its stream of tokens.

A foreign engine draws tokens; whenever our rules want another token than it would draw (a spent
thinking budget, "answer now"), its request ends and a new one begins behind what was forced.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from collections.abc import Sequence as Ids
from contextlib import aclosing
from dataclasses import dataclass

from openqwq.engine.sequence import Sequence, room_after
from openqwq.text.grammar import answer_grammar
from openqwq.text.stream import closing_ids, starts_in_thinking, think_tracker
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import (
    Completion,
    OpenQwQError,
    SamplingParams,
    Steering,
    TokenEvent,
)

USUAL_CONTEXT = 32768  # tokens, unless the model has fewer or the caller says otherwise


@dataclass(frozen=True)
class DrawnToken:
    """One token that the other engine drew for the member `index` of a request.

    `log_prob` is NaN where that engine does not tell it.
    """

    index: int
    token_id: int
    log_prob: float
    alternatives: tuple[tuple[int, float], ...] = ()


def fitting_context(asked: int | None, trained: int) -> int:
    """The context length, tokens; raises OpenQwQError for one that the model does not have."""
    if asked is not None and not 1 <= asked <= trained:
        raise OpenQwQError(
            f"the context length is {asked}: it must be from 1 to the model's own, {trained}"
        )
    return asked or min(USUAL_CONTEXT, trained)


# Draws for sequences that share prompt and tokens so far; member i uses the first one's seed + i.
RelayDraw = Callable[[Ids[Sequence]], AsyncGenerator[DrawnToken]]


class Relay:
    """A `Generate` over `draw`, for requests of up to `group` members at once.

    `name` is the engine's in errors; `free` is called by `close`; `grammars` says whether it can
    follow one, `adapters` names those that a request may ask for.
    """

    def __init__(
        self,
        name: str,
        draw: RelayDraw,
        free: Callable[[], None],
        tokenizer: Tokenizer,
        context_length: int,
        group: int,
        grammars: bool = False,
        adapters: Ids[str] = (),
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.context_length = context_length
        self._draw = draw
        self._group = group
        self.close = free
        self._grammars = grammars
        self._adapters = adapters
        self._closing_ids = closing_ids(tokenizer)

    async def generate(
        self, prompt_ids: Ids[int], params: SamplingParams, n: int = 1
    ) -> list[Completion]:
        """See `Generate.generate`; raises OpenQwQError for what the engine cannot do."""
        sequences = [self._sequence(prompt_ids, params, params.seed + i) for i in range(n)]
        for first in range(0, n, self._group):
            members = sequences[first : first + self._group]
            async with aclosing(self._request(members)) as tokens:
                async for _ in tokens:
                    pass

        failures: tuple[Exception, ...] = ()
        try:
            async with asyncio.TaskGroup() as tasks:
                for sequence in sequences:
                    tasks.create_task(self._finish(sequence))
        except ExceptionGroup as group:
            failures = group.exceptions
        if failures:
            raise min(failures, key=lambda failure: not isinstance(failure, OpenQwQError))
        return [sequence.completion() for sequence in sequences]

    async def stream(
        self, prompt_ids: Ids[int], params: SamplingParams, steering: Steering | None = None
    ) -> AsyncIterator[TokenEvent]:
        """See `Generate.stream`."""
        sequence = self._sequence(prompt_ids, params, params.seed)
        sequence.steering = steering
        sent = 0
        async with aclosing(self._requests(sequence)) as tokens:
            async for _ in tokens:
                while event := sequence.event(sent):
                    sent += 1
                    yield event

    async def score(
        self, token_ids: Ids[int], top_log_probs: int = 0, adapter: str = ""
    ) -> list[TokenEvent]:
        """See `Scores.score`; a request a token, each of which the bias forces to be drawn.

        The engines report the log-probs before any bias, and keep the prompt in their caches.
        """
        events: list[TokenEvent] = []
        for place in range(1, len(token_ids)):
            forced = ((token_ids[place], 1e4),)
            params = SamplingParams(
                0,
                max_tokens=1,
                top_log_probs=top_log_probs,
                logit_bias=forced,
                adapter=adapter,
            )
            sequence = self._sequence(token_ids[:place], params, 0)
            log_prob = math.nan
            alternatives: tuple[tuple[int, float], ...] = ()
            async with aclosing(self._draw([sequence])) as drawn:
                async for token in drawn:
                    if token.token_id == token_ids[place]:
                        log_prob = token.log_prob
                        alternatives = token.alternatives
                    break
            shown = alternatives[:top_log_probs]  # some back ends always tell one
            events.append(TokenEvent(token_ids[place], log_prob, False, None, shown))
        return events

    def _sequence(
        self, prompt_ids: Ids[int], params: SamplingParams, seed: int
    ) -> Sequence:
        if params.grammar and not self._grammars:
            raise OpenQwQError(
                f"the engine {self.name} cannot follow a grammar: use the engine torch, or ask"
                " without one"
            )
        if params.adapter and params.adapter not in self._adapters:
            raise OpenQwQError(
                f"the engine {self.name} has no adapter {params.adapter!r}: use the engine torch, "
                "or name the adapter's own model on the server"
            )
        room = room_after(prompt_ids, self.context_length)
        thinking = starts_in_thinking(self.tokenizer, prompt_ids)
        think = think_tracker(self.tokenizer, thinking)
        limit = min(params.max_tokens, room)
        # What the other engine draws is checked by our own reading of the grammar.
        grammar = answer_grammar(self.tokenizer, params.grammar) if params.grammar else None
        return Sequence(
            list(prompt_ids),
            params,
            seed,
            limit,
            think,
            self._closing_ids,
            grammar,
            follows_grammars=self._grammars,
        )

    async def _finish(self, sequence: Sequence) -> None:
        async with aclosing(self._requests(sequence)) as tokens:
            async for _ in tokens:
                pass

    async def _requests(self, sequence: Sequence) -> AsyncGenerator[None]:
        """One request after another until the sequence ends; yields whenever it has grown."""
        while sequence.finish_reason is None:
            before = len(sequence.token_ids)
            async with aclosing(self._request([sequence])) as tokens:
                async for _ in tokens:
                    yield
            if len(sequence.token_ids) == before:
                raise RuntimeError(
                    f"the engine {self.name} ended a request without a token"
                )

    async def _request(self, sequences: Ids[Sequence]) -> AsyncGenerator[None]:
        """One request, which ends early once no member wants more of it."""
        if _force(sequences[0]):
            # a single one, whose thinking ends before anything is drawn
            yield
        active = {i for i, s in enumerate(sequences) if s.finish_reason is None}
        if not active:
            return

        async with aclosing(self._draw(sequences)) as drawn:
            async for token in drawn:
                if token.index not in active:
                    continue
                sequence = sequences[token.index]
                if _force(sequence) or _take(sequence, token):
                    active.remove(token.index)
                yield
                if not active:
                    return


def _take(sequence: Sequence, token: DrawnToken) -> bool:
    """Append a drawn token; whether the sequence wants no more from this request."""
    was_thinking = sequence.think.in_thinking
    was_ruled = sequence.grammar is not None
    alternatives = token.alternatives[: sequence.params.top_log_probs]
    sequence.append(token.token_id, token.log_prob, True, 0, alternatives)
    if sequence.finish_reason:
        return True
    # A grammar governs the answer alone: it goes with a request of its own.
    turned = was_thinking != sequence.think.in_thinking
    return was_ruled and (turned or sequence.grammar is None)


def _force(sequence: Sequence) -> bool:
    """Append what must come instead of a drawn token; whether there was anything."""
    before = len(sequence.token_ids)
    while sequence.finish_reason is None and (forced := sequence.next_forced()) is not None:
        sequence.append(forced, 0.0, False, 0)
    return len(sequence.token_ids) > before

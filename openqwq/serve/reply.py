"""One reply, token by token, as pieces; streamed and whole answers are both made of them.

A whole reply is folded from the pieces, so that it cannot differ from the streamed one.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from openqwq.engine.open import OpenedModel
from openqwq.text.reading import Delta, overlap
from openqwq.text.stream import ReplyParser, starts_in_thinking
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import FinishReason, SamplingParams, Steering, TokenEvent, ToolCall

TEXT = {"reasoning", "content"}
UNSCORED = math.inf  # the log-prob of a text's first token, which nothing precedes
LEAST_LOG_PROB = -9999.0  # OpenAI's stand-in for minus infinity, which JSON cannot hold


@dataclass(frozen=True)
class Ask:
    """What a request asks of the model, whichever API it came by.

    `tools` maps the name of each tool that may be called to what checks its arguments, if they
    must follow a schema. `stop` texts end the answer; `one_call` ends it after its first call.
    `echo` repeats the prompt before the reply; a `silent` ask wants no reply behind it.
    """

    prompt_ids: Sequence[int]
    params: SamplingParams
    n: int = 1
    stop: tuple[str, ...] = ()
    tools: Mapping[str, Any] = field(default_factory=dict)
    one_call: bool = False
    echo: bool = False
    silent: bool = False


@dataclass(frozen=True)
class Finish:
    """How a reply ended: OpenAI's reason, and a (type, message) where that reason misleads."""

    reason: str  # stop, length or tool_calls
    detail: tuple[str, str] | None
    completion_tokens: int
    reasoning_tokens: int
    more_prompt_tokens: int = 0  # of the further turns, where the server runs tools itself
    stop_text: str | None = None  # the stop text that ended the answer


@dataclass(frozen=True)
class Piece:
    """A piece of a reply; the last one has `finish`. `tokens` are the answer's since the last."""

    kind: Literal["reasoning", "content", "tool_call", "tool_step", "end"]
    text: str = ""
    call: ToolCall | None = None
    index: int = 0
    step: dict[str, Any] | None = None  # a call that the server runs itself
    tokens: tuple[TokenEvent, ...] = ()
    finish: Finish | None = None


class StopSearch:
    """Finds stop texts across pieces: text that may begin one is held back until it is decided."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """What may be shown by now; nothing after a stop text."""
        if self.found is not None:
            return ""
        text = self._held + text
        ends = [(place, stop) for stop in self._stop if (place := text.find(stop)) >= 0]
        if ends:
            place, self.found = min(ends)
            self._held = ""
            return text[:place]
        if not self._stop:
            return text
        keep = max(overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, once no more text comes."""
        text, self._held = self._held, ""
        return text


class Assembler:
    """Turns one reply's token events into pieces."""

    def __init__(self, tokenizer: Tokenizer, ask: Ask, steering: Steering | None = None) -> None:
        thinking = starts_in_thinking(tokenizer, ask.prompt_ids)
        self._parser = ReplyParser(tokenizer, thinking, [{"name": name} for name in ask.tools])
        self._tokenizer, self._ask, self._steering = tokenizer, ask, steering or Steering()
        self._stop = StopSearch(ask.stop)
        self._logged: list[TokenEvent] = []
        self._in_call = False
        self._tokens = self._calls = 0
        self._malformed = ""
        self._thinking_looped = False
        self.ended = False  # by a stop text or after the one call allowed

    def feed(self, event: TokenEvent) -> list[Piece]:
        """The pieces that this token makes certain."""
        self._tokens += 1
        if not event.sampled and self._parser.in_thinking and not self._steering.answer_now:
            budget = self._ask.params.thinking_budget
            spent = budget is not None and self._parser.reasoning_tokens >= budget
            self._thinking_looped |= not spent  # nothing else makes the engine end it
        if self._ask.params.log_probs and self._is_answer(event.token_id):
            self._logged.append(event)
        return self._pieces(self._parser.feed(event.token_id))

    def finish(self, reason: FinishReason) -> list[Piece]:
        """The last pieces, after the engine's finish reason."""
        pieces = [] if self.ended else self._pieces(self._parser.finish())
        if rest := self._stop.rest():
            pieces.append(Piece("content", rest, tokens=self._take_logged()))
        cut = reason in ("length", "loop") and not self.ended
        ending = "length" if cut else "tool_calls" if self._calls else "stop"
        detail = self._malformed and ("malformed_tool_call", self._malformed)
        if cut and reason == "loop":
            detail = ("loop", "the reply repeated itself and was ended")
        elif self._thinking_looped:
            detail = detail or ("thinking_loop", "the thinking repeated itself and was ended")
        elif reason == "stop" and self._parser.in_thinking:
            detail = ("no_answer", "the model ended its reply inside its thinking")
        finish = Finish(
            ending,
            detail or None,
            self._tokens,
            self._parser.reasoning_tokens,
            stop_text=self._stop.found,
        )
        return [*pieces, Piece("end", tokens=self._take_logged(), finish=finish)]

    def _is_answer(self, token_id: int) -> bool:
        """Whether a token, about to be parsed, is of the answer's text."""
        own = self._tokenizer
        if self._parser.in_thinking or token_id in own.special_ids or token_id in own.eos_ids:
            return False
        was_in_call = self._in_call
        if token_id in (own.tool_call_open_id, own.tool_call_close_id):
            self._in_call = token_id == own.tool_call_open_id
            return False
        return not was_in_call and token_id != own.think_open_id

    def _pieces(self, deltas: list[Delta]) -> list[Piece]:
        pieces: list[Piece] = []
        for delta in deltas:
            if self.ended:
                break
            if delta.kind == "reasoning":
                pieces.append(Piece("reasoning", delta.text))
                continue
            fault = delta.fault or self._fault(delta.call)
            text = delta.raw or delta.text  # what is no call stays as the model wrote it
            if delta.kind == "tool_call" and not fault:
                pieces += self._content(self._stop.rest())
                pieces.append(Piece("tool_call", call=delta.call, index=self._calls))
                self._calls += 1
                self.ended = self._ask.one_call
            else:
                self._malformed = fault or self._malformed
                pieces += self._content(self._stop.feed(text))
                self.ended = self._stop.found is not None
        return pieces

    def _fault(self, call: ToolCall | None) -> str:
        """Why a call of a tool is text and no call; "" if it is one, or if there is none."""
        checker = self._ask.tools[call["name"]] if call else None
        if call and checker is not None and not checker.is_valid(call["arguments"]):
            return f"the arguments of {call['name']!r} do not follow its schema"
        return ""

    def _content(self, text: str) -> list[Piece]:
        return [Piece("content", text, tokens=self._take_logged())] if text else []

    def _take_logged(self) -> tuple[TokenEvent, ...]:
        taken, self._logged = tuple(self._logged), []
        return taken


async def reply(
    model: OpenedModel, ask: Ask, number: int = 0, steering: Steering | None = None
) -> AsyncGenerator[Piece, None]:
    """Reply `number` to `ask`, drawn with its own seed; closing the iterator frees its slot."""
    assembler = Assembler(model.tokenizer, ask, steering)
    params = replace(ask.params, seed=ask.params.seed + number)
    events = model.generate.stream(ask.prompt_ids, params, steering)
    reason: FinishReason = "stop"
    async with aclosing(events):  # type: ignore[type-var]  # every back end's is a generator
        async for event in events:
            for piece in assembler.feed(event):
                yield piece
            if assembler.ended:
                break
            reason = event.finish_reason or reason
    for piece in assembler.finish(reason):
        yield piece


async def merged(
    streams: Sequence[AsyncGenerator[Piece, None]],
) -> AsyncGenerator[tuple[int, Piece], None]:
    """The pieces of several replies as they come, each with its reply's number.

    Text that is there at once makes one piece, so that it costs one event.
    """
    queue: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()

    async def pump(number: int, stream: AsyncGenerator[Piece, None]) -> None:
        try:
            async with aclosing(stream):
                async for piece in stream:
                    queue.put_nowait((number, piece))
            queue.put_nowait((number, None))
        except Exception as error:  # raised again in the reader
            queue.put_nowait((number, error))

    tasks = [asyncio.create_task(pump(i, stream)) for i, stream in enumerate(streams)]
    running = len(tasks)
    try:
        while running:
            number, item = await queue.get()
            while isinstance(item, Piece) and item.kind in TEXT and not queue.empty():
                follower, more = queue.get_nowait()
                if follower != number or not isinstance(more, Piece) or more.kind != item.kind:
                    yield number, item
                    number, item = follower, more
                else:
                    tokens = item.tokens + more.tokens
                    item = Piece(item.kind, item.text + more.text, tokens=tokens)
            if isinstance(item, Exception):
                raise item
            if item is None:
                running -= 1
            else:
                yield number, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

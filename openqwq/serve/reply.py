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
from openqwq.text.call_syntax import overlap
from openqwq.text.reading import Delta
from openqwq.text.stream import ReplyParser, starts_in_thinking
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import FinishReason, SamplingParams, Steering, TokenEvent, ToolCall

# pieces that more of their kind only lengthen
TEXT = {"reasoning", "content", "call_arguments"}
UNSCORED = math.inf  # the log-prob of a text's first token, which nothing precedes
LEAST_LOG_PROB = -9999.0  # OpenAI's stand-in for minus infinity, which JSON cannot hold


@dataclass(frozen=True)
class OfferedTool:
    """A tool that may be called: the schema of its arguments, and what checks a strict one's."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    check: Any = None


@dataclass(frozen=True)
class Ask:
    """What a request asks of the model, whichever API it came by.

    `tools` are those that may be called, by name; with `partial_calls` their arguments are handed
    out while they are written, unless they are checked first. `stop` texts end the answer;
    `one_call` ends it after its first call. `echo` repeats the prompt before the reply; a `silent`
    ask wants no reply behind it.
    """

    prompt_ids: Sequence[int]
    params: SamplingParams
    n: int = 1
    stop: tuple[str, ...] = ()
    tools: Mapping[str, OfferedTool] = field(default_factory=dict)
    one_call: bool = False
    partial_calls: bool = False
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
    """A piece of a reply; the last one has `finish`. `tokens` are the answer's since the last.

    A call of a tool is a `call_start` with its name, `call_arguments` with more of its JSON, and a
    `call_end` with the whole call; `index` counts the calls. Where another kind of piece comes
    before its `call_end`, the call is malformed and what the model wrote follows as content.
    """

    kind: Literal[
        "reasoning",
        "content",
        "call_start",
        "call_arguments",
        "call_end",
        "tool_step",
        "end",
    ]
    text: str = ""
    call: ToolCall | None = None
    index: int = 0
    step: dict[str, Any] | None = None  # a call that the server runs itself
    tokens: tuple[TokenEvent, ...] = ()
    finish: Finish | None = None


def call_pieces(call: ToolCall, arguments: str, index: int) -> list[Piece]:
    """A call that is there at once; `arguments` is their JSON as the model wrote it."""
    return [
        Piece("call_start", call["name"], index=index),
        Piece("call_arguments", arguments, index=index),
        Piece("call_end", call=call, index=index),
    ]


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
        ends = [(text.find(stop), stop) for stop in self._stop if stop in text]
        if ends:
            place, self.found = min(ends)
            self._held = ""
            return text[:place]
        kept = max((overlap(text, stop) for stop in self._stop), default=0)
        certain = len(text) - kept
        self._held = text[certain:]
        return text[:certain]

    def rest(self) -> str:
        """What was held back, once no more text comes."""
        text = self._held
        self._held = ""
        return text


class Assembler:
    """Turns one reply's token events into pieces."""

    def __init__(
        self, tokenizer: Tokenizer, ask: Ask, steering: Steering | None = None
    ) -> None:
        thinking = starts_in_thinking(tokenizer, ask.prompt_ids)
        tools = [
            {"name": name, "parameters": tool.parameters}
            for name, tool in ask.tools.items()
        ]
        self._parser = ReplyParser(
            tokenizer, thinking, tools, pieces=True, check=self._fault
        )
        self._tokenizer = tokenizer
        self._ask = ask
        self._steering = steering or Steering()
        self._stop = StopSearch(ask.stop)
        self._logged: list[TokenEvent] = []
        self._in_call = False
        self._tokens = 0
        self._calls = 0  # that have begun
        self._whole_calls = 0
        self._call_is_open = False
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
        pieces: list[Piece] = []
        if not self.ended:
            pieces = self._pieces(self._parser.finish())
        if rest := self._stop.rest():
            pieces.append(Piece("content", rest, tokens=self._take_logged()))
        cut = reason in ("length", "loop") and not self.ended
        ending = "stop"
        if cut:
            ending = "length"
        elif self._whole_calls:
            ending = "tool_calls"
        finish = Finish(
            ending,
            self._detail(reason, cut),
            self._tokens,
            self._parser.reasoning_tokens,
            stop_text=self._stop.found,
        )
        return [*pieces, Piece("end", tokens=self._take_logged(), finish=finish)]

    def _detail(self, reason: FinishReason, cut: bool) -> tuple[str, str] | None:
        """Why the reason alone misleads."""
        if cut and reason == "loop":
            return ("loop", "the reply repeated itself and was ended")
        if self._malformed:
            return ("malformed_tool_call", self._malformed)
        if self._thinking_looped:
            return ("thinking_loop", "the thinking repeated itself and was ended")
        if reason == "stop" and self._parser.in_thinking:
            return ("no_answer", "the model ended its reply inside its thinking")
        return None

    def _is_answer(self, token_id: int) -> bool:
        """Whether a token, about to be parsed, is of the answer's text."""
        own = self._tokenizer
        if not self._parser.speaks(token_id):
            return False
        was_in_call = self._in_call
        if token_id in (own.tool_call_open_id, own.tool_call_close_id):
            self._in_call = token_id == own.tool_call_open_id
            return False
        return not was_in_call

    def _pieces(self, deltas: list[Delta]) -> list[Piece]:
        pieces: list[Piece] = []
        for delta in deltas:
            if self.ended:
                break
            pieces += self._of(delta)
        return pieces

    def _of(self, delta: Delta) -> list[Piece]:
        match delta.kind:
            case "reasoning":
                return [Piece("reasoning", delta.text)]
            case "content":
                return self._answer(delta.text)
            case "call_start":
                return self._begin_call(delta.text)
            case "call_arguments":
                return self._more_of_call(delta.text)
            case "tool_call":
                return self._end_call(delta)
            case "malformed_call":
                return self._no_call(delta)

    def _begin_call(self, name: str) -> list[Piece]:
        """A call that can be handed out while it is written."""
        if not self._ask.partial_calls or self._ask.tools[name].check is not None:
            return []
        before = self._content(self._stop.rest())
        self._call_is_open = True
        self._calls += 1
        return [*before, Piece("call_start", name, index=self._calls - 1)]

    def _more_of_call(self, arguments: str) -> list[Piece]:
        if not self._call_is_open:
            return []
        return [Piece("call_arguments", arguments, index=self._calls - 1)]

    def _end_call(self, delta: Delta) -> list[Piece]:
        call = delta.call
        assert call is not None
        if self._call_is_open:
            pieces = [Piece("call_end", call=call, index=self._calls - 1)]
        else:
            before = self._content(self._stop.rest())
            pieces = [*before, *call_pieces(call, delta.arguments, self._calls)]
            self._calls += 1
        self._call_is_open = False
        self._whole_calls += 1
        self.ended = self._ask.one_call
        return pieces

    def _fault(self, call: ToolCall) -> str:
        check = self._ask.tools[call["name"]].check
        if check is None or check.is_valid(call["arguments"]):
            return ""
        return f"the arguments of {call['name']!r} do not follow its schema"

    def _no_call(self, delta: Delta) -> list[Piece]:
        """What is not a call stays as the model wrote it."""
        self._call_is_open = False
        self._malformed = delta.fault
        return self._answer(delta.raw)

    def _answer(self, text: str) -> list[Piece]:
        pieces = self._content(self._stop.feed(text))
        self.ended = self._stop.found is not None
        return pieces

    def _content(self, text: str) -> list[Piece]:
        if not text:
            return []
        return [Piece("content", text, tokens=self._take_logged())]

    def _take_logged(self) -> tuple[TokenEvent, ...]:
        taken = tuple(self._logged)
        self._logged = []
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


def _joined(piece: Piece, more: Piece) -> Piece:
    """Two pieces of one kind as one."""
    text = piece.text + more.text
    return replace(piece, text=text, tokens=piece.tokens + more.tokens)


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
                same_reply = follower == number
                if same_reply and isinstance(more, Piece) and more.kind == item.kind:
                    item = _joined(item, more)
                else:
                    yield number, item
                    number = follower
                    item = more
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

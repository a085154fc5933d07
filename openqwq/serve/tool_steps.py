"""Tools that the server runs itself: an agent's run as one reply, its calls as `tool_steps`.

Every request opens tools of its own, so that no Python session is shared between users.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, cast

from openqwq.agent.call import CallResult
from openqwq.agent.loop import (
    Agent,
    Budgets,
    Called,
    Content,
    Ended,
    Event,
    Returned,
    Thinking,
)
from openqwq.agent.toolbox import toolbox
from openqwq.engine.open import OpenedModel
from openqwq.serve.history import messages
from openqwq.serve.protocol import ApiError
from openqwq.serve.reply import Ask, Finish, Piece
from openqwq.serve.thinking import forbids_thinking, template_options
from openqwq.text.stream import starts_in_thinking, think_tracker
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import (
    Completion,
    Generate,
    SamplingParams,
    Steering,
    TokenEvent,
    ToolCall,
)

_NEUTRAL = {
    "stop": [],
    "logprobs": False,
    "tool_choice": "auto",
    "parallel_tool_calls": True,
}
_NEUTRAL |= {"ignore_eos": False}
STEPS = 16  # replies of one run at most
_CUT = {
    "length": None,
    "tokens": None,
    "loop": ("loop", "the run repeated itself and was ended"),
    "context": ("tool_steps", "the results of the calls outgrew the model's context"),
}


@dataclass(frozen=True)
class ServerTools:
    """The tools named on the command line; `specifications` are what templates show of them."""

    names: tuple[str, ...] = ()
    mcp_servers: tuple[str, ...] = ()
    specifications: tuple[dict[str, Any], ...] = ()

    @classmethod
    def opened(cls, names: Sequence[str], mcp_servers: Sequence[str]) -> "ServerTools":
        """Open the tools once to see that they work; raises OpenQwQError naming what does not."""

        async def look() -> tuple[dict[str, Any], ...]:
            async with toolbox(names, mcp_servers) as tools:
                return tuple(tool.specification() for tool in tools.values())

        return cls(tuple(names), tuple(mcp_servers), asyncio.run(look()))

    def wanted(self, body: Mapping[str, Any]) -> bool:
        """Whether a chat request leaves the tools to the server: it brings none and forbids none.

        Raises ApiError for what a run of several replies cannot have.
        """
        form = body.get("response_format", {"type": "text"})["type"]
        if not self.specifications or body.get("tools") or form != "text":
            return False
        if body.get("tool_choice") == "none":
            return False
        for name, neutral in _NEUTRAL.items():
            if body.get(name, neutral) != neutral:
                text = f"{name} is not supported where the server runs tools: set tool_choice none"
                raise ApiError(400, text, name)
        return True

    async def reply(
        self,
        model: OpenedModel,
        body: Mapping[str, Any],
        ask: Ask,
        places: asyncio.Semaphore,
        number: int,
        steering: Steering,
    ) -> AsyncGenerator[Piece, None]:
        """Reply `number` to `ask`: the pieces of every step until the model answers.

        Tools are open only while the run holds one of `places`: one that waits costs nothing.
        """
        counting = _Counting(model.generate, model.tokenizer)
        pieces = _Pieces(f"{number}")
        params = replace(ask.params, seed=ask.params.seed + number * STEPS)
        async with places, toolbox(self.names, self.mcp_servers) as tools:
            # No time limit: waiting for the engine would count; each call has its own.
            budgets = Budgets(steps=STEPS, seconds=math.inf, tokens=params.max_tokens)
            agent = Agent(
                counting,
                model.tokenizer,
                tools,
                budgets,
                options=template_options(model.tokenizer, body),
                closes_thinking=forbids_thinking(body),
            )
            history = messages(body["messages"])
            async with aclosing(agent.run(history, params, steering)) as events:
                async for event in events:
                    for piece in pieces.of(event):
                        yield piece
                    if isinstance(event, Ended):
                        more = counting.prompt_tokens - len(ask.prompt_ids)
                        yield _end(event, counting.reasoning_tokens, more)


def _end(ended: Ended, reasoning_tokens: int, more_prompt_tokens: int) -> Piece:
    counts = ended.tokens, reasoning_tokens, more_prompt_tokens
    if ended.reason == "answer":
        return Piece("end", finish=Finish("stop", None, *counts))
    if ended.reason == "unfinished":
        detail = ("no_answer", "the model ended its reply inside its thinking")
        return Piece("end", finish=Finish("stop", detail, *counts))
    cut = _CUT.get(ended.reason, ("tool_steps", f"the run was ended: {ended.reason} spent"))
    return Piece("end", finish=Finish("length", cut, *counts))


@dataclass
class _Counting:
    """A `Generate` that counts what an agent's steps read and think."""

    generator: Generate
    tokenizer: Tokenizer
    prompt_tokens: int = 0
    reasoning_tokens: int = 0

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, n: int = 1
    ) -> list[Completion]:
        """See `Generate.generate`."""
        return await self.generator.generate(prompt_ids, params, n)

    async def stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        steering: Steering | None = None,
    ) -> AsyncIterator[TokenEvent]:
        """See `Generate.stream`."""
        self.prompt_tokens += len(prompt_ids)
        own = self.tokenizer
        thinking = starts_in_thinking(own, prompt_ids)
        tracker = think_tracker(own, thinking)
        before = self.reasoning_tokens
        stream = self.generator.stream(prompt_ids, params, steering)
        async with aclosing(cast(AsyncGenerator[TokenEvent, None], stream)) as events:
            async for event in events:
                tracker.feed(event.token_id)
                self.reasoning_tokens = before + tracker.reasoning_tokens
                yield event


@dataclass
class _Pieces:
    """Turns an agent's events into pieces: steps are parted by a blank line."""

    prefix: str
    calls: int = 0
    waiting: list[tuple[ToolCall | None, dict[str, Any]]] = field(default_factory=list)
    spoken: set[str] = field(default_factory=set)  # the kinds of text there have been
    parted: set[str] = field(default_factory=set)  # those that a new step must part

    def of(self, event: Event) -> list[Piece]:
        """The pieces of an event."""
        match event:
            case Thinking(text=text):
                return [self._text("reasoning", text)]
            case Content(text=text):
                return [self._text("content", text)]
            case Called(call=call):
                return [self._called(call)]
            case Returned(result=result):
                self.parted = set(self.spoken)
                return [self._returned(result)]
            case Ended():
                return [self._ended(step) for _, step in self.waiting]
        return []

    def _text(self, kind: Any, text: str) -> Piece:
        gap = "\n\n" if kind in self.parted else ""
        self.parted.discard(kind)
        self.spoken.add(kind)
        return Piece(kind, gap + text)

    def _called(self, call: ToolCall | None) -> Piece:
        self.calls += 1
        name, arguments = (
            (call["name"], call["arguments"]) if call else ("malformed call", {})
        )
        step: dict[str, Any]
        step = {
            "id": f"step_{self.prefix}_{self.calls}",
            "name": name,
            "arguments": arguments,
        }
        step.update({"result": None, "error": False, "seconds": None})
        self.waiting.append((call, step))
        return Piece("tool_step", step=step)

    def _returned(self, result: CallResult) -> Piece:
        """Results come in the order of the calls, those of malformed ones last."""
        malformed = result.status == "malformed"
        place = [call is None for call, _ in self.waiting].index(malformed)
        _, step = self.waiting.pop(place)
        seconds = round(result.seconds, 3)
        end = {"result": result.text, "error": result.status != "ok", "seconds": seconds}
        return Piece("tool_step", step={**step, **end})

    def _ended(self, step: dict[str, Any]) -> Piece:
        return Piece("tool_step", step={**step, "result": "it was not run", "error": True})

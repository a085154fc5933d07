"""The agent loop: the model replies, its calls run, their results follow, until it answers.

Nothing here shows anything: `Agent.run` yields events for a terminal or a server to show. Closing
the iterator stops the model and the tools at once.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from openqwq.agent.call import DEFAULT_LIMITS, Approve, CallLimits, CallResult, run_calls
from openqwq.text.reading import Delta
from openqwq.text.stream import (
    Reply,
    ReplyParser,
    closing_ids,
    parse_reply,
    starts_in_thinking,
)
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import (
    FinishReason,
    Generate,
    Message,
    OpenQwQError,
    PromptTooLongError,
    SamplingParams,
    Steering,
    TokenEvent,
    Tool,
    ToolCall,
)

EndReason = Literal[
    "answer",  # a reply without a call
    "steps", "time", "tokens",  # a budget is spent
    "context",  # the results of calls leave no room for a reply
    "length",  # a reply met its own limit
    "loop",  # the same calls gave the same results again and again, or the engine saw one
    "unfinished",  # a reply ended inside its thinking
    "cancelled",  # by the engine; who closes the iterator hears nothing more
]  # fmt: skip


@dataclass(frozen=True)
class Budgets:
    """When a run ends: replies, seconds (approval aside), sampled tokens of all replies, and how
    often in all each call of a step may have given the same result.
    """

    steps: int = 16
    seconds: float = 600.0
    tokens: int = 32768
    repeats: int = 3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise OpenQwQError(f"budget {name} is {value}: it must be above 0")


@dataclass(frozen=True)
class Thinking:
    """A piece of thinking."""

    text: str


@dataclass(frozen=True)
class Content:
    """A piece of the reply itself."""

    text: str


@dataclass(frozen=True)
class Called:
    """A call the model has just written; None for a malformed one, which `text` spells."""

    call: ToolCall | None
    text: str = ""


@dataclass(frozen=True)
class Returned:
    """What came of a call; a step's results come in the order of `run_calls`."""

    result: CallResult


@dataclass(frozen=True)
class Turns:
    """A whole step's turns, to be added to the history: a reply and the results of its calls."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Ended:
    """The last event: why, and what was used."""

    reason: EndReason
    steps: int
    tokens: int
    seconds: float
    calls: Mapping[str, int]  # by `CallStatus`


Event = Thinking | Content | Called | Returned | Turns | Ended


@dataclass
class _Use:
    """What a run has used so far."""

    budgets: Budgets
    closing: int = 0  # tokens that must be left to close a thinking
    started: float = field(default_factory=time.monotonic)
    waited: float = 0.0  # for a person
    steps: int = 0
    tokens: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def seconds_left(self) -> float:
        return self.budgets.seconds - (time.monotonic() - self.started - self.waited)

    def params(self, params: SamplingParams) -> SamplingParams:
        """`params` for the next step, within what is left."""
        limit = min(params.max_tokens, self.budgets.tokens - self.tokens)
        thinking = params.thinking_budget
        if thinking is not None:  # the answer keeps what was asked for it
            thinking = max(0, min(thinking, limit - (params.max_tokens - thinking)))
        return replace(
            params,
            max_tokens=limit,
            thinking_budget=thinking,
            seed=params.seed + self.steps,
        )

    def repeated(self, results: Sequence[CallResult]) -> bool:
        """Note the results of a step; whether every one of them is the same once too often."""
        keys: set[str] = set()
        for result in results:
            known = [result.name, result.arguments, result.text]
            keys.add(json.dumps(known, sort_keys=True))
        self.seen.update(keys)
        return bool(keys) and all(self.seen[key] >= self.budgets.repeats for key in keys)

    def ended(self, reason: EndReason) -> Ended:
        seconds = time.monotonic() - self.started - self.waited
        return Ended(reason, self.steps, self.tokens, seconds, dict(self.calls))


@dataclass
class _Step:
    """One reply as it arrives: its tokens, and how it ended."""

    thinking: bool
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | Literal["time"] = "time"


@dataclass(frozen=True)
class Agent:
    """A model with tools. `approve` may hold back calls, see `run_calls`.

    `options` are further variables for the chat template; `closes_thinking` closes a thinking that
    it opens.
    """

    generate: Generate
    tokenizer: Tokenizer
    tools: Mapping[str, Tool]
    budgets: Budgets = field(default_factory=Budgets)
    limits: CallLimits = DEFAULT_LIMITS
    approve: Approve | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    closes_thinking: bool = False

    async def run(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        steering: Steering | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answer the last of `messages`; `params` are those of each reply, its seed counting up.

        The last event is `Ended`. Raises OpenQwQError where `messages` do not fit the model.
        """
        use = _Use(self.budgets)
        if params.thinking_budget is not None:
            use.closing = len(closing_ids(self.tokenizer))
        history = list(messages)
        while True:
            prompt = self._prompt(history)
            step = _Step(starts_in_thinking(self.tokenizer, prompt))
            params = replace(params, may_call=bool(self.tools))
            stream = self.generate.stream(prompt, use.params(params), steering)
            try:
                async with aclosing(self._reply(stream, step, use)) as events:
                    async for event in events:
                        yield event
            except PromptTooLongError:
                if not use.steps:
                    raise
                yield use.ended("context")
                return
            use.steps += 1
            use.tokens += len(step.token_ids)

            reply = parse_reply(self.tokenizer, step.token_ids, step.thinking)
            reason = _end_of(step, reply, use)
            if reason is not None:
                message = reply.message()
                message.pop("tool_calls", None)  # they never ran
                yield Turns((message,))
                yield use.ended(reason)
                return

            results = await self._results(reply, use)
            for result in results:
                yield Returned(result)
            turns = (reply.message(), *(result.message() for result in results))
            yield Turns(turns)
            history += turns
            reason = _spent(use, results)
            if reason is not None:
                yield use.ended(reason)
                return

    def _prompt(self, history: Sequence[Message]) -> list[int]:
        own = self.tokenizer
        specifications = [tool.specification() for tool in self.tools.values()]
        prompt = encode_chat(own, history, specifications, options=self.options)
        if self.closes_thinking and starts_in_thinking(own, prompt):
            return [*prompt, *closing_ids(own)]
        return prompt

    async def _reply(
        self, stream: AsyncIterator[TokenEvent], step: _Step, use: _Use
    ) -> AsyncGenerator[Event, None]:
        parser = ReplyParser(self.tokenizer, step.thinking)
        # Engines' streams are generators: closing one frees its place.
        async with aclosing(cast(AsyncGenerator[TokenEvent, None], stream)) as tokens:
            try:
                while True:
                    # Not around a `yield`, where it would stop the consumer of the events.
                    async with asyncio.timeout(max(use.seconds_left, 0.0)):
                        token = await anext(tokens)
                    step.token_ids.append(token.token_id)
                    for event in map(_event, parser.feed(token.token_id)):
                        yield event
                    if token.finish_reason is not None:
                        step.finish_reason = token.finish_reason
                        break
            except (TimeoutError, StopAsyncIteration):
                pass
        for event in map(_event, parser.finish()):
            yield event

    async def _results(self, reply: Reply, use: _Use) -> list[CallResult]:
        async def approve(tool: Tool, arguments: Mapping[str, Any]) -> str:
            asked = time.monotonic()
            reason = await self.approve(tool, arguments) if self.approve else ""
            use.waited += time.monotonic() - asked
            return reason

        seconds = max(min(self.limits.seconds, use.seconds_left), 0.0)
        limits = replace(self.limits, seconds=seconds)
        results = await run_calls(
            self.tools, reply.tool_calls, reply.malformed_calls, limits, approve
        )
        use.calls.update(result.status for result in results)
        return results


def _event(delta: Delta) -> Event:
    if delta.kind == "reasoning":
        return Thinking(delta.text)
    if delta.kind == "content":
        return Content(delta.text)
    return Called(delta.call, delta.text)


def _end_of(step: _Step, reply: Reply, use: _Use) -> EndReason | None:
    """Why a reply ends the run; None where its calls are to be run."""
    if step.finish_reason == "length" and use.tokens >= use.budgets.tokens:
        return "tokens"
    if step.finish_reason != "stop":
        return step.finish_reason
    if reply.tool_calls or reply.malformed_calls:
        return None
    return "unfinished" if reply.in_thinking else "answer"


def _spent(use: _Use, results: Sequence[CallResult]) -> EndReason | None:
    """Why no further step may begin, if so."""
    if use.repeated(results):
        return "loop"
    if use.seconds_left <= 0:
        return "time"
    if use.budgets.tokens - use.tokens <= use.closing:
        return "tokens"
    if use.steps >= use.budgets.steps:
        return "steps"
    return None

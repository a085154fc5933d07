"""What answers in an evaluation: our engine, or an endpoint that may fail and is asked again."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from openqwq.text.stream import parse_reply, starts_in_thinking
from openqwq.text.template import Tools, encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import (
    Device,
    Generate,
    Message,
    OpenQwQError,
    Precision,
    SamplingParams,
    ToolCall,
)

if TYPE_CHECKING:
    from openqwq.engine.open import EngineName

FIRST_PAUSE = 1.0  # seconds


@dataclass(frozen=True)
class ChatReply:
    """One reply. `answer` is the text after the thinking, None where the thinking never ended.

    Tool calls stand in the answer as Hermes `<tool_call>` blocks, however the model spelt them.
    """

    reasoning: str
    answer: str | None
    finish_reason: str
    prompt_tokens: int = 0
    reasoning_tokens: int = 0
    completion_tokens: int = 0


class Responder(Protocol):
    """What answers a conversation; raises OpenQwQError where there is no answer."""

    async def reply(
        self, messages: Sequence[Message], tools: Tools, params: SamplingParams
    ) -> ChatReply:
        """The next assistant turn."""
        ...


@dataclass(frozen=True)
class LocalResponder:
    """Answers with a `Generate`; prompt and reply share `context_length` tokens."""

    generate: Generate
    tokenizer: Tokenizer
    context_length: int

    async def reply(
        self, messages: Sequence[Message], tools: Tools, params: SamplingParams
    ) -> ChatReply:
        """One sampled reply; the same seed gives the same text."""
        prompt = encode_chat(self.tokenizer, messages, tools)
        room = self.context_length - len(prompt)
        if room < 1:
            raise OpenQwQError(
                f"the prompt has {len(prompt)} tokens and the model's context {self.context_length}"
                ": leave such items out or use a model with more context"
            )
        limit = min(params.max_tokens, room)
        params = replace(params, max_tokens=limit, stop_token_ids=self.tokenizer.eos_ids)
        params = replace(params, may_call=bool(tools))
        if params.thinking_budget is not None and params.thinking_budget >= limit:
            params = replace(params, thinking_budget=None)
        (completion,) = await self.generate.generate(prompt, params)

        thinking = starts_in_thinking(self.tokenizer, prompt)
        parsed = parse_reply(self.tokenizer, completion.token_ids, thinking)
        answer: str | None = None
        if not parsed.in_thinking:
            answer = answer_text(parsed.content, parsed.tool_calls, parsed.malformed_calls)
        return ChatReply(
            parsed.reasoning,
            answer,
            completion.finish_reason,
            completion.prompt_tokens,
            completion.reasoning_tokens,
            len(completion.token_ids),
        )


class EndpointReply(Protocol):
    """What a chat endpoint answers, already parsed."""

    message: Message
    malformed_calls: tuple[str, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class EndpointClient(Protocol):
    """A client of a server that speaks text only."""

    async def reply(
        self, messages: Sequence[Message], params: SamplingParams, tools: Tools = ()
    ) -> Any:
        """One `EndpointReply`."""
        ...


@dataclass(frozen=True)
class EndpointResponder:
    """Answers with an endpoint. It does not count thinking tokens: they go by share of the text."""

    endpoint: EndpointClient

    async def reply(
        self, messages: Sequence[Message], tools: Tools, params: SamplingParams
    ) -> ChatReply:
        """One reply, as the server parsed it."""
        given: EndpointReply = await self.endpoint.reply(messages, params, tools)
        message = given.message
        reasoning = message.get("reasoning_content", "")
        calls = message.get("tool_calls", [])
        answer = answer_text(message["content"], calls, given.malformed_calls)
        length = max(1, len(reasoning) + len(answer))
        unfinished = given.finish_reason == "length" and reasoning and not answer.strip()
        return ChatReply(
            reasoning,
            None if unfinished else answer,
            given.finish_reason,
            given.prompt_tokens,
            round(given.completion_tokens * len(reasoning) / length),
            given.completion_tokens,
        )


@dataclass(frozen=True)
class PatientResponder:
    """Asks another one again after failures and empty replies, with pauses that double."""

    responder: Responder
    attempts: int = 4

    async def reply(
        self, messages: Sequence[Message], tools: Tools, params: SamplingParams
    ) -> ChatReply:
        """The first reply that is not empty; raises OpenQwQError with the last failure."""
        failure = ""
        for attempt in range(self.attempts):
            if attempt:
                await asyncio.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                reply = await self.responder.reply(messages, tools, params)
            except (OpenQwQError, OSError, TimeoutError) as error:
                failure = str(error) or repr(error)
                continue
            if reply.reasoning or (reply.answer or "").strip():
                return reply
            failure = f"an empty reply ({reply.finish_reason})"
        raise OpenQwQError(f"no answer in {self.attempts} attempts: {failure}")


@contextmanager
def open_responder(
    model: str,
    engine: "EngineName" = "auto",
    concurrency: int = 8,
    context_length: int | None = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    adapters: Sequence[str] = (),
) -> Iterator[Responder]:
    """Open what answers for a model, by its name or an endpoint's URL; it is closed at the end.

    `adapters` are NAME=DIR, of which the last answers. Raises OpenQwQError as `open_model` does.
    """
    from openqwq.engine.open import open_model, require_own_engine  # loads torch
    from openqwq.engine.verbs import chosen_adapter

    if model.startswith(("http://", "https://")):
        require_own_engine("remote", precision, device, adapters)
        from openqwq.engine.remote import RemoteChat  # needs httpx

        yield PatientResponder(EndpointResponder(RemoteChat(model)))
        return
    opened = open_model(
        model,
        engine,
        concurrency,
        context_length,
        precision=precision,
        device=device,
        **chosen_adapter(adapters),
    )
    try:
        yield LocalResponder(opened.generate, opened.tokenizer, opened.context_length)
    finally:
        opened.close()


def answer_text(
    content: str, calls: Sequence[ToolCall], malformed: Sequence[str] = ()
) -> str:
    """A reply's content with its calls, well-formed or not, as Hermes blocks."""
    parts = [content] if content else []
    for call in calls:
        parts.append(_block(json.dumps(call, ensure_ascii=False)))
    for text in malformed:
        parts.append(_block(text.strip()))
    return "\n".join(parts)


def _block(text: str) -> str:
    return f"<tool_call>\n{text}\n</tool_call>"

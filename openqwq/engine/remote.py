"""Servers elsewhere: token ids in and out of vLLM or llama-server, chat with any OpenAI API.

A server that only speaks text cannot implement `Generate`, whose records are token ids: for those
there is `RemoteChat`, messages in and a parsed reply out.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from collections.abc import Sequence as Ids
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from openqwq.engine.llamacpp_messages import TokenReader, request
from openqwq.engine.relay import DrawnToken, Relay, fitting_context
from openqwq.engine.sequence import Sequence
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, OpenQwQError, SamplingParams, ToolCall

Failure = Literal["unreachable", "timeout", "busy", "refused", "broken"]
TIMEOUT = httpx.Timeout(10.0, read=600.0)  # seconds; a long prompt is silent for minutes
ATTEMPTS = 5  # tries of a request
FIRST_WAIT = 0.5  # seconds before the second one
KEY = "OPENAI_API_KEY"  # the environment variable that every client of such servers reads


class RemoteError(OpenQwQError):
    """A server that could not be asked; `failure` says how, `status` is HTTP's, if any."""

    def __init__(self, message: str, failure: Failure, status: int | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.status = status

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.failure in ("unreachable", "timeout", "busy")


@dataclass(frozen=True)
class RemoteServer:
    """What a server says of itself; `kind` "openai" is one whose extensions are unknown."""

    url: str  # ends with /v1
    kind: Literal["vllm", "llamacpp", "openai"]
    model: str
    context_length: int | None


def probe(url: str) -> RemoteServer:
    """Ask the server at `url`, http://HOST:PORT with or without /v1 and #MODEL, what it is.

    Raises RemoteError if it cannot be reached, refuses to say, or serves no such model.
    """
    address, _, wanted = url.partition("#")
    root = address.rstrip("/").removesuffix("/v1")
    with httpx.Client(timeout=TIMEOUT, headers=_headers()) as client:

        def get(path: str) -> Any:
            try:
                answer = client.get(root + path)
            except httpx.HTTPError as error:
                raise _unreachable(root, error) from error
            if answer.status_code != 200:
                if path == "/v1/models":
                    raise _refusal(root + path, answer.status_code, answer.text[:500])
                return None
            try:
                return answer.json()
            except ValueError:
                return None

        models = {
            str(entry.get("id")): entry for entry in _entries(get("/v1/models"), "data")
        }
        name = wanted or next(iter(models), "")
        if name not in models:
            names = ", ".join(models) or "none"
            raise RemoteError(f"{root} serves {names}: name one as {root}#MODEL", "refused")
        length = models[name].get("max_model_len")
        props = get("/props")
        if isinstance(props, dict) and "default_generation_settings" in props:
            length = props["default_generation_settings"].get("n_ctx")
            return RemoteServer(f"{root}/v1", "llamacpp", name, length)
        if models[name].get("owned_by") == "vllm" or length is not None:
            return RemoteServer(f"{root}/v1", "vllm", name, length)
        return RemoteServer(f"{root}/v1", "openai", name, length)


def open_remote(
    url: str,
    slots: int,
    context_length: int | None,
    tokenizer_of: Callable[[str], Tokenizer],
) -> tuple[RemoteServer, Relay]:
    """A `Generate` over a server that takes and gives token ids; `tokenizer_of` a model's name.

    vLLM's log-probs are those of the model unless it runs with --logprobs-mode
    processed_logprobs. Raises OpenQwQError for a server of text only.
    """
    server = probe(url)
    if server.kind == "openai":
        raise OpenQwQError(
            f"{url} is neither vLLM nor llama-server: it answers with text, while this needs token"
            " ids; only evaluation can use it, through its chat endpoint"
        )
    asked = server.context_length if context_length is None else context_length
    length = fitting_context(asked, server.context_length or 2**31)
    tokenizer = tokenizer_of(server.model)
    draw = _Draw(server, tokenizer)
    return server, Relay("remote", draw, lambda: None, tokenizer, length, slots)


class _Draw:
    """A `relay.RelayDraw` over HTTP; closing it hangs up, on which the server stops."""

    def __init__(self, server: RemoteServer, tokenizer: Tokenizer) -> None:
        self._server = server
        self._tokenizer = tokenizer

    async def __call__(self, sequences: Ids[Sequence]) -> AsyncGenerator[DrawnToken]:
        if self._server.kind == "llamacpp":
            body = request(sequences)
            log_probs = sequences[0].params.log_probs
            read = TokenReader(self._tokenizer, len(sequences), log_probs).tokens
        else:
            body = _vllm_request(sequences)
            read = _vllm_tokens
        url = f"{self._server.url}/completions"
        async with aclosing(_events(url, body | {"model": self._server.model})) as events:
            async for event in events:
                for token in read(event):
                    yield token


def _vllm_request(sequences: Ids[Sequence]) -> dict[str, Any]:
    first = sequences[0]
    params = first.params
    drawn = len(first.token_ids)
    return {
        "prompt": first.prompt_ids + first.token_ids,
        "n": len(sequences),
        "stream": True,
        "max_tokens": first.max_tokens - drawn,
        "seed": first.seed + 1_000_003 * drawn,  # vLLM adds a member's index
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k or -1,
        "min_p": params.min_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "repetition_penalty": params.repetition_penalty,
        "logit_bias": {str(token_id): bias for token_id, bias in params.logit_bias},
        "stop_token_ids": list(params.stop_token_ids),
        "ignore_eos": True,  # our stop ids alone end a reply
        "logprobs": params.top_log_probs,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,  # in the tables of alternatives
    }


def _vllm_tokens(event: Mapping[str, Any]) -> list[DrawnToken]:
    tokens = []
    for choice in _entries(event, "choices"):
        ids = choice.get("token_ids")
        reported = choice.get("logprobs") or {}
        if ids is None:
            raise OpenQwQError(
                "the server gives no token ids (return_token_ids): vLLM does from 0.10.2 on"
            )
        log_probs = reported.get("token_logprobs") or [float("nan")] * len(ids)
        tables = reported.get("top_logprobs") or [None] * len(ids)
        for token_id, log_prob, table in zip(ids, log_probs, tables, strict=True):
            alternatives: list[tuple[int, float]] = []
            for key, each in sorted((table or {}).items(), key=lambda item: -item[1]):
                alternatives.append((int(key.removeprefix("token_id:")), each))
            tokens.append(
                DrawnToken(choice["index"], token_id, log_prob, tuple(alternatives))
            )
    return tokens


@dataclass(frozen=True)
class RemoteReply:
    """A chat endpoint's answer; a call whose arguments are not a JSON object is malformed."""

    message: Message
    malformed_calls: tuple[str, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class RemoteChat:
    """Messages in, a parsed reply out, over any server with OpenAI's chat endpoint.

    Requests that fail in passing (busy, unreachable, time-out) are sent up to five times. `top_k`
    and `min_p` reach only vLLM and llama-server: OpenAI's own API has no such fields.
    """

    def __init__(self, url: str) -> None:
        self.server = probe(url)

    async def reply(
        self,
        messages: Ids[Message],
        params: SamplingParams,
        tools: Ids[Mapping[str, Any]] = (),
    ) -> RemoteReply:
        """One reply; raises RemoteError, or OpenQwQError for what such a server cannot do."""
        if params.thinking_budget is not None or params.grammar:
            raise OpenQwQError(
                f"{self.server.url} answers with text: neither a thinking budget nor a grammar can"
                " be set; serve the model with vLLM or llama-server and open it by its URL"
            )
        body: dict[str, Any] = {
            "model": self.server.model,
            "messages": _openai_messages(messages),
            "temperature": params.temperature,
            "top_p": params.top_p,
            "max_tokens": params.max_tokens,
            "seed": params.seed,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "logit_bias": {str(token_id): bias for token_id, bias in params.logit_bias},
        }
        if self.server.kind != "openai":
            body |= {"top_k": params.top_k or -1, "min_p": params.min_p}
        if tools:
            body["tools"] = list(tools)
        url = f"{self.server.url}/chat/completions"
        return _chat_reply(url, await answered(url, body))


def _openai_messages(messages: Ids[Message]) -> list[dict[str, Any]]:
    """OpenAI's form: calls have ids, to which tool results refer in order."""
    written: list[dict[str, Any]] = []
    waiting: list[str] = []
    for place, message in enumerate(messages):
        entry: dict[str, Any] = {"role": message["role"], "content": message["content"]}
        calls = message.get("tool_calls")
        if calls:
            waiting = [f"call_{place}_{number}" for number in range(len(calls))]
            entry["tool_calls"] = list(map(_openai_call, waiting, calls))
        if message["role"] == "tool":
            if not waiting:
                raise OpenQwQError(f"message {place} is a tool's, but no call waits for it")
            entry["tool_call_id"] = waiting.pop(0)
        written.append(entry)
    return written


def _openai_call(name: str, call: ToolCall) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
    return {"id": name, "type": "function", "function": function}


def _chat_reply(url: str, data: bytes) -> RemoteReply:
    try:
        answer = json.loads(data)
        choice = answer["choices"][0]
        usage = answer.get("usage") or {}
        given = choice["message"]
        content = given.get("content") or ""
        reasoning = given.get("reasoning_content") or given.get("reasoning") or ""
    except (ValueError, LookupError, TypeError) as error:
        raise RemoteError(
            f"{url} answered {data[:200]!r}, which is not a chat completion", "broken"
        ) from error
    if not reasoning and "</think>" in content:
        before, _, content = content.partition("</think>")
        reasoning = before.strip().removeprefix("<think>").strip()
    elif not reasoning and content.lstrip().startswith("<think>"):
        # cut off in its thinking
        reasoning = content.lstrip().removeprefix("<think>").strip()
        content = ""
    message = Message(role="assistant", content=content.lstrip("\n"))
    if reasoning:
        message["reasoning_content"] = reasoning
    calls: list[ToolCall] = []
    malformed: list[str] = []
    for call in given.get("tool_calls") or []:
        function = call.get("function") or {}
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except ValueError:
            arguments = None
        if isinstance(arguments, dict) and isinstance(function.get("name"), str):
            calls.append(ToolCall(name=function["name"], arguments=arguments))
        else:
            malformed.append(json.dumps(call))
    if calls:
        message["tool_calls"] = calls
    return RemoteReply(
        message,
        tuple(malformed),
        str(choice.get("finish_reason")),
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
    )


async def _events(url: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events."""
    async with sent(url, body) as answer:
        try:
            async for line in answer.aiter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                event = json.loads(data)
                if isinstance(event, dict) and (error := event.get("error")):
                    raise RemoteError(f"{url} broke off: {error}", "refused")
                yield event
        except httpx.HTTPError as error:
            raise _unreachable(url, error) from error
        except ValueError as error:
            raise RemoteError(
                f"{url} sent an event that is not JSON: {error}", "broken"
            ) from error


@asynccontextmanager
async def sent(url: str, body: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
    """A response with status 200, after as many tries as it takes; its body is not yet read."""
    async with httpx.AsyncClient(timeout=TIMEOUT, headers=_headers()) as client:
        wait = FIRST_WAIT
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = await client.send(
                    client.build_request("POST", url, json=body), stream=True
                )
                if answer.status_code == 200:
                    break
                text = (await answer.aread()).decode(errors="replace")[:500]
                raise _refusal(url, answer.status_code, text)
            except httpx.HTTPError as error:
                failure = _unreachable(url, error)
            except RemoteError as error:
                failure = error
            if attempt == ATTEMPTS or not failure.passing:
                raise failure
            await asyncio.sleep(wait)
            wait *= 2
        try:
            yield answer
        finally:
            await answer.aclose()


async def answered(url: str, body: Mapping[str, Any]) -> bytes:
    """The whole body of such a response; raises RemoteError where it does not all come."""
    async with sent(url, body) as answer:
        try:
            return await answer.aread()
        except httpx.HTTPError as error:
            raise _unreachable(url, error) from error


def _refusal(url: str, status: int, text: str) -> RemoteError:
    failure: Failure = "busy" if status in (408, 429, 500, 502, 503, 504) else "refused"
    hint = f" (is {KEY} set?)" if status in (401, 403) else ""
    return RemoteError(f"{url} answered {status}{hint}: {text}", failure, status)


def _unreachable(url: str, error: httpx.HTTPError) -> RemoteError:
    if isinstance(error, httpx.TimeoutException):
        return RemoteError(
            f"{url} did not answer in time ({type(error).__name__})", "timeout"
        )
    return RemoteError(
        f"{url} cannot be reached ({error}): is the server running?", "unreachable"
    )


def _headers() -> dict[str, str]:
    key = os.environ.get(KEY)
    return {"Authorization": f"Bearer {key}"} if key else {}


def _entries(answer: Any, name: str) -> list[dict[str, Any]]:
    value = answer.get(name) if isinstance(answer, dict) else None
    return [entry for entry in value or [] if isinstance(entry, dict)]

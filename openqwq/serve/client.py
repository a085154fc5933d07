"""A chat with any server that has OpenAI's chat endpoint, streamed."""

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from openqwq.serve.reply import Finish, Piece
from openqwq.text.thinking import InlineThinking, Spans
from openqwq.types import OpenQwQError, Steering

TIMEOUT = httpx.Timeout(10.0, read=600.0)  # seconds; a long prompt is silent for minutes


@dataclass(frozen=True)
class RemoteTalker:
    """A `terminal.Talker` over HTTP; `body` holds the request's fields except its messages.

    `answer_now` works where the server is ours; elsewhere it stops nothing.
    """

    url: str  # with or without /v1
    key: str | None
    body: dict[str, Any]

    async def reply(
        self, messages: Sequence[dict[str, Any]], steering: Steering
    ) -> AsyncGenerator[Piece, None]:
        """See `terminal.Talker.reply`; raises OpenQwQError with the server's own words."""
        address = f"{self.url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        body = {**self.body, "messages": list(messages), "stream": True}
        body["stream_options"] = {"include_usage": True}
        finish: Finish | None = None
        told = False
        counts: dict[str, Any] = {}
        inline = InlineThinking()  # many servers leave the thinking in the content
        try:
            async with httpx.AsyncClient(headers=headers, timeout=TIMEOUT) as client:
                if not body.get("model"):
                    body["model"] = await _first_model(client, address)
                async with client.stream("POST", address, json=body) as answer:
                    if answer.status_code != 200:
                        await answer.aread()
                        raise OpenQwQError(f"{address}: {_refusal(answer)}")
                    async for line in answer.aiter_lines():
                        if not line.startswith(("data: {", "data:{")):
                            continue
                        chunk = json.loads(line.removeprefix("data:"))
                        if error := chunk.get("error"):
                            text = error.get("message") if isinstance(error, dict) else None
                            raise OpenQwQError(f"{address}: {text or error}")
                        counts = chunk.get("usage") or counts
                        for choice in chunk["choices"]:
                            for piece in _pieces(choice["delta"], inline):
                                yield piece
                            finish = _finish(choice) or finish
                        if steering.answer_now and not told:
                            told = True
                            await client.post(f"{address}/{chunk['id']}/answer_now")
        except (httpx.HTTPError, ValueError, LookupError) as error:
            raise OpenQwQError(f"{address} cannot be reached: {error!r}") from error
        for piece in _inline_pieces(inline.rest()):
            yield piece
        if finish is None:
            raise OpenQwQError(
                f"{address}: the stream ended before the reply did: ask again"
            )
        thinking = (counts.get("completion_tokens_details") or {}).get(
            "reasoning_tokens"
        ) or 0
        completion = counts.get("completion_tokens") or 0
        yield Piece(
            "end", finish=Finish(finish.reason, finish.detail, completion, thinking)
        )


async def _first_model(client: httpx.AsyncClient, address: str) -> str:
    answer = await client.get(address.removesuffix("/chat/completions") + "/models")
    if answer.status_code != 200:
        raise OpenQwQError(f"{answer.url}: {_refusal(answer)}")
    return str(answer.json()["data"][0]["id"])


def _refusal(answer: httpx.Response) -> str:
    try:
        return f"{answer.status_code}: {answer.json()['error']['message']}"
    except (ValueError, LookupError, TypeError):
        return f"{answer.status_code}: {answer.text[:300]}"


def _pieces(delta: dict[str, Any], inline: InlineThinking) -> list[Piece]:
    reasoning = delta.get("reasoning_content") or delta.get("reasoning")
    pieces = [Piece("reasoning", reasoning)] if reasoning else []
    if content := delta.get("content"):
        pieces += _inline_pieces(inline.read(content.encode(errors="replace")))
    return pieces


def _inline_pieces(spans: Spans) -> list[Piece]:
    """Content, and the thinking that stood between tags in it."""
    pieces: list[Piece] = []
    for thinks, text in spans:
        if thinks:
            pieces.append(Piece("reasoning", text.decode()))
        else:
            pieces.append(Piece("content", text.decode()))
    return pieces


def _finish(choice: dict[str, Any]) -> Finish | None:
    if not (reason := choice.get("finish_reason")):
        return None
    details = choice.get("finish_details")
    return Finish(reason, (details["type"], details["message"]) if details else None, 0, 0)

"""/v1/completions: raw text or token ids in, raw text out; markers are text here."""

import codecs
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from openqwq.engine.open import OpenedModel
from openqwq.engine.scoring import Scores
from openqwq.serve.asking import require_known, require_room, sampling, stops, token_limit
from openqwq.serve.protocol import ApiError
from openqwq.serve.reply import UNSCORED, Ask, Finish, Piece, StopSearch
from openqwq.types import TokenEvent

DEFAULT_TOKENS = 16  # OpenAI's


def ask_completion(model: OpenedModel, body: Mapping[str, Any]) -> list[Ask]:
    """One ask a prompt of a CompletionRequest."""
    ids = token_ids(model, body["prompt"], "prompt")
    tokens = token_limit(body, DEFAULT_TOKENS)
    echo = body.get("echo", False)
    if tokens == 0 and not echo:
        raise ApiError(400, "max_tokens is 0: give at least 1, or echo: true", "max_tokens")
    wanted = body.get("logprobs")
    if echo and wanted is not None and not isinstance(model.generate, Scores):
        text = (
            f"the engine {model.engine} cannot score a prompt: leave echo or logprobs out"
        )
        raise ApiError(400, text, "echo")
    n = body.get("n", 1)
    best_of = body.get("best_of", n)
    if best_of != n:
        text = f"best_of is {best_of} and n is {n}: replies are not ranked, so leave best_of out"
        raise ApiError(400, text, "best_of")
    stop = stops(body)
    asks: list[Ask] = []
    for prompt_ids in ids:
        require_known(model, prompt_ids, "prompt")
        wanted_tokens = 1 if tokens == 0 else tokens
        most = require_room(model, len(prompt_ids), wanted_tokens)
        params = sampling(
            model, body, most, log_probs=wanted is not None, top_log_probs=wanted or 0
        )
        asks.append(Ask(prompt_ids, params, n, stop, echo=echo, silent=tokens == 0))
    return asks


def token_ids(model: OpenedModel, given: Any, param: str) -> list[list[int]]:
    """The ids of one text or several, each a text or ids already; ApiError for an empty one."""
    several = isinstance(given, list) and not isinstance(given[0], int)
    inputs = given if several else [given]
    found: list[list[int]] = []
    for ids in inputs:
        if isinstance(ids, str):
            ids = model.tokenizer.encode(ids, allow_special=True)
        if not ids:
            raise ApiError(400, f"the {param} is empty: give at least one token", param)
        found.append(ids)
    return found


async def continuation(
    model: OpenedModel, ask: Ask, number: int
) -> AsyncGenerator[Piece, None]:
    """Like `reply`, but everything is content; special tokens that readers never see have none."""
    if ask.echo:
        yield await _echo(model, ask)
    if ask.silent:
        yield Piece("end", finish=Finish("length", None, 0, 0))
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    search = StopSearch(ask.stop)
    count = 0
    params = replace(ask.params, seed=ask.params.seed + number)
    events = model.generate.stream(ask.prompt_ids, params)
    reason = "stop"
    async with aclosing(events):  # type: ignore[type-var]  # every back end's is a generator
        async for event in events:
            count += 1
            if event.token_id not in model.tokenizer.silent_ids:
                data = model.tokenizer.token_bytes(event.token_id)
                text = search.feed(decoder.decode(data))
                yield Piece("content", text, tokens=(event,))
            if search.found:
                break
            reason = event.finish_reason or reason
    rest = search.feed(decoder.decode(b"", final=True)) + search.rest()
    if rest:
        yield Piece("content", rest)
    finish = Finish("stop", None, count, 0)
    if reason == "length" and not search.found:
        finish = Finish("length", None, count, 0)
    elif reason == "loop" and not search.found:
        finish = Finish(
            "length", ("loop", "the text repeated itself and was ended"), count, 0
        )
    yield Piece("end", finish=finish)


async def _echo(model: OpenedModel, ask: Ask) -> Piece:
    """The prompt as the first piece, with the log-probs of its tokens where they are wanted."""
    text = model.tokenizer.decode(ask.prompt_ids)
    if not ask.params.log_probs:
        return Piece("content", text)
    assert isinstance(model.generate, Scores)
    first = TokenEvent(ask.prompt_ids[0], UNSCORED, False, None)
    adapter = ask.params.adapter
    scored = await model.generate.score(ask.prompt_ids, ask.params.top_log_probs, adapter)
    return Piece("content", text, tokens=(first, *scored))

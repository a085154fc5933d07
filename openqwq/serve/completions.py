"""/v1/completions: raw text or token ids in, raw text out; markers are text here."""

import codecs
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from openqwq import __version__
from openqwq.engine.open import OpenedModel
from openqwq.serve.asking import require_known, require_room, sampling, stops
from openqwq.serve.chat import Json, ending, finite, usage
from openqwq.serve.protocol import ApiError
from openqwq.serve.reply import Ask, Finish, Piece, StopSearch
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import TokenEvent

DEFAULT_TOKENS = 16  # OpenAI's


def ask_completion(model: OpenedModel, body: Mapping[str, Any]) -> list[Ask]:
    """One ask a prompt of a CompletionRequest."""
    prompt = body["prompt"]
    prompts = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    encode = model.tokenizer.encode
    ids = [encode(p, allow_special=True) if isinstance(p, str) else p for p in prompts]
    if not all(ids):
        raise ApiError(400, "the prompt is empty: give at least one token", "prompt")
    tokens = body.get("max_tokens", DEFAULT_TOKENS)
    for prompt_ids in ids:
        require_known(model, prompt_ids, "prompt")
        require_room(model, len(prompt_ids), tokens)
    wanted = body.get("logprobs")
    params = sampling(model, body, tokens, log_probs=wanted is not None, top_log_probs=wanted or 0)
    n, stop = body.get("n", 1), stops(body)
    return [Ask(prompt_ids, params, n, stop) for prompt_ids in ids]


async def continuation(model: OpenedModel, ask: Ask, number: int) -> AsyncGenerator[Piece, None]:
    """Like `reply`, but everything is content; special tokens that readers never see have none."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    search, tokenizer, count = StopSearch(ask.stop), model.tokenizer, 0
    params = replace(ask.params, seed=ask.params.seed + number)
    events = model.generate.stream(ask.prompt_ids, params)
    reason = "stop"
    async with aclosing(events):  # type: ignore[type-var]  # every back end's is a generator
        async for event in events:
            count += 1
            silent = event.token_id in tokenizer.special_ids or event.token_id in tokenizer.eos_ids
            data = b"" if silent else tokenizer.token_bytes(event.token_id)
            text = search.feed(decoder.decode(data))
            if not silent:
                yield Piece("content", text, tokens=(event,))
            if search.found:
                break
            reason = event.finish_reason or reason
    rest = search.feed(decoder.decode(b"", final=True)) + search.rest()
    if rest:
        yield Piece("content", rest)
    cut = reason in ("length", "loop") and not search.found
    loop = ("loop", "the text repeated itself and was ended") if cut and reason == "loop" else None
    yield Piece("end", finish=Finish("length" if cut else "stop", loop, count, 0))


@dataclass
class _Choice:
    text: str = ""
    length: int = 0  # of all tokens' own texts, for `text_offset`
    tokens: list[TokenEvent] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    finish: Finish | None = None


class CompletionForm:
    """See `serve.chat.Form`; choice i answers prompt i // n."""

    def __init__(
        self, reply_id: str, model: str, tokenizer: Tokenizer, asks: list[Ask], body: Json
    ) -> None:
        self._tokenizer, self._asks = tokenizer, asks
        head = {"id": reply_id, "object": "text_completion", "created": int(time.time())}
        self._head = {**head, "model": model, "system_fingerprint": f"openqwq-{__version__}"}
        self._usage = bool(body.get("stream_options", {}).get("include_usage"))
        self._choices = [_Choice() for ask in asks for _ in range(ask.n)]
        self.finishes: list[Finish] = []

    def start(self) -> list[Json]:
        """Nothing."""
        return []

    def feed(self, number: int, piece: Piece) -> list[Json]:
        """The chunk of a piece."""
        choice, first = self._choices[number], len(self._choices[number].tokens)
        choice.text += piece.text
        for token in piece.tokens:
            choice.tokens.append(token)
            choice.offsets.append(choice.length)
            choice.length += len(self._text(token.token_id))
        if piece.finish:
            choice.finish = piece.finish
            self.finishes.append(piece.finish)
        elif not piece.text and not self._asks[0].params.log_probs:
            return []
        fields = {"index": number, "text": piece.text, "logprobs": self._log_probs(choice, first)}
        chunk = {**self._head, "choices": [{**fields, **ending(piece.finish)}]}
        return [{**chunk, "usage": None} if self._usage else chunk]

    def end(self) -> list[Json]:
        """The chunk with the usage, where it was asked for."""
        if not self._usage:
            return []
        return [{**self._head, "choices": [], "usage": self._counts()}]

    def whole(self) -> Json:
        """The completion."""
        choices = [
            {
                "index": i,
                "text": choice.text,
                "logprobs": self._log_probs(choice, 0),
                **ending(choice.finish),
            }
            for i, choice in enumerate(self._choices)
        ]
        return {**self._head, "choices": choices, "usage": self._counts()}

    def _counts(self) -> Json:
        prompts = [token_id for ask in self._asks for token_id in ask.prompt_ids]
        return usage(replace(self._asks[0], prompt_ids=prompts), self.finishes)

    def _text(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id])

    def _log_probs(self, choice: _Choice, first: int) -> Json | None:
        if not self._asks[0].params.log_probs:
            return None
        tokens = choice.tokens[first:]
        return {
            "tokens": [self._text(token.token_id) for token in tokens],
            "token_logprobs": [finite(token.log_prob) for token in tokens],
            "top_logprobs": [
                {self._text(i): finite(value) for i, value in token.alternatives}
                for token in tokens
            ],
            "text_offset": choice.offsets[first:],
        }

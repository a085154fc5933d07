"""A continuation in the form of /v1/completions."""

import time
from dataclasses import dataclass, field, replace

from openqwq import __version__
from openqwq.serve.format import ending, finite, usage
from openqwq.serve.protocol import ApiError, Json
from openqwq.serve.reply import UNSCORED, Ask, Finish, Piece
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import TokenEvent


@dataclass
class _Choice:
    text: str = ""
    length: int = 0  # of all tokens' own texts, for `text_offset`
    tokens: list[TokenEvent] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    finish: Finish | None = None


class CompletionFormat:
    """See `Format`; choice i answers prompt i // n."""

    done: str | None = "[DONE]"

    def __init__(
        self, reply_id: str, model: str, tokenizer: Tokenizer, asks: list[Ask], body: Json
    ) -> None:
        self._tokenizer = tokenizer
        self._asks = asks
        self._log_probs_wanted = asks[0].params.log_probs
        self._head = {
            "id": reply_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"openqwq-{__version__}",
        }
        self._usage = bool(body.get("stream_options", {}).get("include_usage"))
        replies = sum(ask.n for ask in asks)
        self._choices = [_Choice() for _ in range(replies)]
        self.finishes: list[Finish] = []

    def start(self) -> list[Json]:
        """Nothing."""
        return []

    def feed(self, number: int, piece: Piece) -> list[Json]:
        """The chunk of a piece."""
        choice = self._choices[number]
        first = len(choice.tokens)
        choice.text += piece.text
        for token in piece.tokens:
            choice.tokens.append(token)
            choice.offsets.append(choice.length)
            choice.length += len(self._text(token.token_id))
        if piece.finish:
            choice.finish = piece.finish
            self.finishes.append(piece.finish)
        elif not piece.text and not self._log_probs_wanted:
            return []

        fields: Json = {"index": number, "text": piece.text}
        fields["logprobs"] = self._log_probs(choice, first)
        chunk: Json = {**self._head, "choices": [{**fields, **ending(piece.finish)}]}
        if self._usage:
            chunk["usage"] = None
        return [chunk]

    def end(self) -> list[Json]:
        """The chunk with the usage, where it was asked for."""
        if not self._usage:
            return []
        return [{**self._head, "choices": [], "usage": self._counts()}]

    def fail(self, error: ApiError) -> list[Json]:
        """The error as clients of this API look for it: under its own key."""
        return [error.body()]

    def whole(self) -> Json:
        """The completion."""
        choices: list[Json] = []
        for number, choice in enumerate(self._choices):
            fields: Json = {"index": number, "text": choice.text}
            fields["logprobs"] = self._log_probs(choice, 0)
            choices.append({**fields, **ending(choice.finish)})
        return {**self._head, "choices": choices, "usage": self._counts()}

    def _counts(self) -> Json:
        prompts: list[int] = []
        for ask in self._asks:
            prompts += ask.prompt_ids
        return usage(replace(self._asks[0], prompt_ids=prompts), self.finishes)

    def _text(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id])

    def _log_probs(self, choice: _Choice, first: int) -> Json | None:
        if not self._log_probs_wanted:
            return None
        tokens = choice.tokens[first:]
        return {
            "tokens": [self._text(token.token_id) for token in tokens],
            "token_logprobs": [self._log_prob(token) for token in tokens],
            "top_logprobs": [self._alternatives(token) for token in tokens],
            "text_offset": choice.offsets[first:],
        }

    def _log_prob(self, token: TokenEvent) -> float | None:
        if token.log_prob == UNSCORED:
            return None
        return finite(token.log_prob)

    def _alternatives(self, token: TokenEvent) -> Json | None:
        """The likeliest tokens, and the drawn one even where it is not among them."""
        if token.log_prob == UNSCORED:
            return None
        found = {
            self._text(token_id): finite(value) for token_id, value in token.alternatives
        }
        found.setdefault(self._text(token.token_id), finite(token.log_prob))
        return found

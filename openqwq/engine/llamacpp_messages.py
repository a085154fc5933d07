"""What llama.cpp's server is asked, in this process or elsewhere, and the tokens in its events."""

import math
from collections.abc import Mapping
from collections.abc import Sequence as Ids
from typing import Any

from openqwq.engine.relay import DrawnToken
from openqwq.engine.sequence import Sequence
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError

FILTERS = ["penalties", "temperature", "top_k", "top_p", "min_p"]  # transformers' order
SEEDS = 2**31  # its seeds have 32 bits, of which all ones mean "random"


def request(sequences: Ids[Sequence]) -> dict[str, Any]:
    """The body of a completion request, to this server or one elsewhere."""
    first = sequences[0]
    params = first.params
    drawn = len(first.token_ids)
    penalised = len(first.prompt_ids) + first.max_tokens if params.penalises else 0
    alone = not params.temperature and not params.log_probs  # the drawn token and no other
    body: dict[str, Any] = {
        "prompt": first.prompt_ids + first.token_ids,
        "n": len(sequences),
        "stream": True,
        "return_progress": True,  # events while the prompt is read, so that it can be cancelled
        "timings_per_token": True,  # counts the tokens that are held back
        "max_tokens": first.max_tokens - drawn,
        "seed": (first.seed + 1_000_003 * drawn) % SEEDS,
        "samplers": FILTERS,
        "temperature": params.temperature,
        "top_k": 1 if alone else params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        # llama.cpp counts the prompt's tokens too, for each of the three.
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "repeat_penalty": params.repetition_penalty,
        "repeat_last_n": penalised,
        "logit_bias": [list(pair) for pair in params.logit_bias],
        "n_probs": max(1, params.top_log_probs),
        # Greedy: log-probs at temperature 1, for which it sorts the vocabulary.
        "post_sampling_probs": alone or params.temperature > 0,
    }
    if first.grammar is not None and not first.think.in_thinking:
        body["grammar"] = _grammar(first)
    return body


def _grammar(sequence: Sequence) -> str:
    """The grammar of what is drawn now; its own first line tells llama.cpp that it is llguidance's.

    A model that opens its thinking itself may do so first, which ends the request.
    """
    grammar = sequence.ruling()
    if grammar.startswith("%llguidance"):
        return grammar
    return f"%llguidance {{}}\n{grammar}"


class TokenReader:
    """Tokens from the events of one request with `n` members, NaN where no log-probs are wanted."""

    def __init__(self, tokenizer: Tokenizer, n: int, log_probs: bool) -> None:
        self._tokenizer = tokenizer
        self._counts = [0] * n
        self._log_probs = log_probs

    def tokens(self, event: Mapping[str, Any]) -> list[DrawnToken]:
        """What an event brings; raises OpenQwQError for a request that cannot be served."""
        error = event.get("error")
        if error:
            message = f"llama.cpp refuses the request: {error['message']}"
            if error.get("code") == 400 or "ontext size" in message:
                raise OpenQwQError(f"{message} (shorten it, or run fewer at once)")
            raise RuntimeError(message)
        count = event.get("timings", {}).get("predicted_n", 0)
        tokens: list[DrawnToken] = []
        for choice in event.get("choices", ()):
            tokens += self._of_choice(choice, count)
        return tokens

    def _of_choice(self, choice: Mapping[str, Any], count: int) -> list[DrawnToken]:
        """`count` tokens were drawn by now: those that no event showed are held back."""
        index = choice["index"]
        hidden = max(count - self._counts[index], 0)
        self._counts[index] += hidden
        reported = (choice.get("logprobs") or {}).get("content") or []
        if not reported:
            if not choice["finish_reason"]:
                return []
            return self._held_back(index, "", hidden)

        (token,) = reported
        held = self._ids_before(token["id"], choice["text"], hidden - 1)
        others = token.get("top_probs", token.get("top_logprobs", ()))
        alternatives = tuple((other["id"], _log_prob(other)) for other in others)
        log_prob = _log_prob(token) if self._log_probs else math.nan
        shown = DrawnToken(index, token["id"], log_prob, alternatives)
        return [*(DrawnToken(index, token_id, math.nan) for token_id in held), shown]

    def _ids_before(self, token_id: int, text: str, count: int) -> list[int]:
        """The ids of a text before its last token, which may be the end of a character."""
        if count <= 0:
            return []
        own = self._tokenizer.token_bytes(token_id)
        before = text.encode().removesuffix(own)
        try:
            return self._ids_of(before.decode(), count)
        except UnicodeDecodeError:  # the last token holds the end of a character alone
            ids = self._ids_of(text, count)
            return ids[:-1] if ids[-1] == token_id else ids[:count]

    def _held_back(self, index: int, text: str, count: int) -> list[DrawnToken]:
        if count <= 0:
            return []
        return [
            DrawnToken(index, token_id, math.nan) for token_id in self._ids_of(text, count)
        ]

    def _ids_of(self, text: str, count: int) -> list[int]:
        return self._tokenizer.encode(text or "\ufffd" * count, goes_on=True)


def _log_prob(token: dict[str, Any]) -> float:
    if "logprob" in token:
        return float(token["logprob"])
    if token["prob"] > 0:
        return math.log(token["prob"])
    return -math.inf

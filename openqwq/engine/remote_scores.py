"""How likely a server finds a text: token ids in, the log-prob of each out.

/v1/completions repeats a prompt with its log-probs where `echo` asks for it, as lm-eval's
loglikelihood tasks do. vLLM and `qwq serve` have it; llama-server and OpenAI's own API do not.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from openqwq.engine.remote import RemoteError, answered, probe


class RemoteScores:
    """Scores token ids by the model that the server at `url` serves; see `remote.probe`."""

    def __init__(self, url: str) -> None:
        self.server = probe(url)
        self._url = f"{self.server.url}/completions"

    async def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        """The log-prob of each token after the first, in nats, at temperature 1.

        Raises RemoteError where the server cannot be asked, or does not score prompts.
        """
        found = await self._echoed(token_ids, "token_logprobs")
        wrong = [value for value in found[1:] if not _is_log_prob(value)]
        if wrong:
            raise RemoteError(
                f"{self._url} gave {wrong[0]!r} as the log-prob of a token", "broken"
            )
        return [float(value) for value in found[1:]]

    async def texts(self, token_ids: Sequence[int]) -> list[str]:
        """What the server reads each token as; raises RemoteError like `log_probs`."""
        return [str(text) for text in await self._echoed(token_ids, "tokens")]

    async def _echoed(self, token_ids: Sequence[int], name: str) -> list[Any]:
        body = {
            "model": self.server.model,
            "prompt": list(token_ids),
            "echo": True,
            "logprobs": 1,
            "max_tokens": 1,  # vLLM draws at least one
            "temperature": 1.0,
        }
        data = await answered(self._url, body)
        try:
            log_probs = json.loads(data)["choices"][0]["logprobs"]
            found = (log_probs or {}).get(name) or []
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RemoteError(
                f"{self._url} answered {data[:200]!r}, which is not a completion", "broken"
            ) from error
        if len(found) < len(token_ids):
            raise RemoteError(
                f"{self._url} gave {len(found)} log-probs for a prompt of {len(token_ids)} tokens:"
                " it does not score prompts; vLLM and qwq serve do",
                "refused",
            )
        return list(found[: len(token_ids)])


def _is_log_prob(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)

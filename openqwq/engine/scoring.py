"""What is read of a prompt while it is prefilled: its log-probs, or one vector for all of it."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from openqwq.types import TokenEvent

ROWS = 128  # of logits at once: a vocabulary of 150,000 makes 75 MB of them


@runtime_checkable
class Scores(Protocol):
    """What a `Generate` can also be: a judge of how likely a given text is."""

    async def score(
        self, token_ids: Sequence[int], top_log_probs: int = 0, adapter: str = ""
    ) -> list[TokenEvent]:
        """The log-prob of each token after the first, by the model alone: no filters, T = 1."""
        ...


@runtime_checkable
class Embeds(Protocol):
    """What a `Generate` can also be: a map from texts to vectors."""

    async def embed(self, token_ids: Sequence[int], adapter: str = "") -> list[float]:
        """The mean of the last layer's states over all tokens, of length 1."""
        ...


class PromptReader(Protocol):
    """Takes in a prompt's last states chunk by chunk."""

    def add(
        self, hidden: Tensor, following: Sequence[int], logits: Callable[[Tensor], Tensor]
    ) -> None:
        """Read states (rows, width), each of which `following` has the next token of, if any."""
        ...


class MeanState:
    """The mean of all states; see `PromptReader`."""

    def __init__(self) -> None:
        self._total: Tensor | None = None

    def add(self, hidden: Tensor, _: Sequence[int], __: Callable[[Tensor], Tensor]) -> None:
        """See `PromptReader.add`."""
        total = hidden.float().sum(0)
        if self._total is not None:
            total = self._total + total
        self._total = total

    def unit(self) -> list[float]:
        """The mean, of length 1."""
        assert self._total is not None
        vector: list[float] = (self._total / self._total.norm()).tolist()
        return vector


class PromptScores:
    """Fills `events`, one for each token after the first, chunk by chunk.

    Log-probs are the model's own at temperature 1, without filters; `top` alternatives come with
    each.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self.events: list[TokenEvent] = []

    def add(
        self, hidden: Tensor, following: Sequence[int], logits: Callable[[Tensor], Tensor]
    ) -> None:
        """Score `following` from the states (rows, width) before them; the last may have none."""
        for first in range(0, len(following), ROWS):
            wanted = following[first : first + ROWS]
            states = hidden[first : first + len(wanted)]
            log_probs = logits(states).log_softmax(-1)
            own = log_probs[range(len(wanted)), wanted].tolist()
            best = log_probs.topk(self._top)  # none where `top` is 0
            ids = best.indices.tolist()
            values = best.values.tolist()
            for row, token_id in enumerate(wanted):
                alternatives = tuple(zip(ids[row], values[row], strict=True))
                event = TokenEvent(token_id, own[row], False, None, alternatives)
                self.events.append(event)

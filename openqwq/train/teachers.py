"""Who scores a student's tokens in a distill stage: a policy held here, or a server elsewhere."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from openqwq.config import DistillStage
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.objective import Frozen
from openqwq.train.packing import MicroBatch, sequences_of
from openqwq.types import OpenQwQError

if TYPE_CHECKING:
    from openqwq.engine.remote_scores import RemoteScores

AT_ONCE = 32  # requests to an endpoint
PROBED = 200  # tokens whose texts an endpoint is asked for


class Teacher(Protocol):
    """Says how likely it finds what the student said."""

    async def log_probs(self, batches: Sequence[MicroBatch]) -> list[Tensor]:
        """The log-probs of each micro-batch's targets, (loss_tokens,) fp32, in nats."""
        ...


class HeldTeacher:
    """A policy in this process or on a learner's ranks; see `Teacher`."""

    def __init__(self, policy: Frozen) -> None:
        self._policy = policy

    async def log_probs(self, batches: Sequence[MicroBatch]) -> list[Tensor]:
        """See `Teacher.log_probs`."""
        found: list[Tensor] = []
        with torch.no_grad():
            for batch in batches:
                log_probs, _ = self._policy.log_probs(batch)
                found.append(log_probs)
        return found


class EndpointTeacher:
    """The model behind an endpoint that scores prompts (see `RemoteScores`); see `Teacher`."""

    def __init__(self, scores: "RemoteScores") -> None:
        self._scores = scores

    async def log_probs(self, batches: Sequence[MicroBatch]) -> list[Tensor]:
        """See `Teacher.log_probs`."""
        free = asyncio.Semaphore(AT_ONCE)

        async def scored(token_ids: list[int]) -> list[float]:
            async with free:
                return await self._scores.log_probs(token_ids)

        found: list[Tensor] = []
        for batch in batches:
            sequences = sequences_of(batch)
            asked = [scored(sequence.token_ids) for sequence in sequences]
            taught = torch.empty(len(batch.targets))
            for sequence, values in zip(
                sequences, await asyncio.gather(*asked), strict=True
            ):
                # the first token has no log-prob
                places = [place - 1 for place in sequence.places]
                taught[sequence.targets] = torch.tensor(values)[places]
            found.append(taught)
        return found

    async def require_fit(self, name: str, tokenizer: Tokenizer, length: int) -> None:
        """Raise OpenQwQError where it cannot read the student's sequences of up to `length` tokens.

        It must give ordinary tokens the same texts. Those spread over the vocabulary are compared.
        """
        context = self._scores.server.context_length
        if context is not None and context <= length:
            raise OpenQwQError(
                f"the teacher {name} reads {context} tokens, but the run's engine.max_length is"
                f" {length}: serve it with a longer context, or lower engine.max_length"
            )
        ids = _probed_ids(tokenizer)
        for token_id, text in zip(ids, await self._scores.texts(ids), strict=True):
            own = tokenizer.decode([token_id])
            if text != own:
                raise OpenQwQError(
                    f"the teacher {name} has another vocabulary than the student: token {token_id}"
                    f" is {text!r} there and {own!r} here; name a teacher of the same family, or"
                    " use qwq collect and an sft stage"
                )


def _probed_ids(tokenizer: Tokenizer) -> list[int]:
    """Ids over the whole vocabulary whose texts all servers write alike."""
    added = set(tokenizer.added_tokens.values())
    ids: list[int] = []
    step = max(1, tokenizer.vocab_size // PROBED)
    for token_id in range(tokenizer.vocab_size - 1, -1, -step):
        is_whole = "\ufffd" not in tokenizer.decode([token_id])
        if token_id not in added and is_whole:
            ids.append(token_id)
    return ids


def is_endpoint(teacher: str) -> bool:
    """Whether a stage's teacher is a server, not a policy."""
    return "://" in teacher


def open_endpoint(stage: DistillStage) -> EndpointTeacher:
    """The endpoint that is a stage's teacher; raises RemoteError if it cannot be reached."""
    from openqwq.engine.remote_scores import RemoteScores  # needs httpx

    return EndpointTeacher(RemoteScores(stage.teacher))

"""A `Generate` that says prepared texts, for tests of what stands above the engines."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Completion, FinishReason, SamplingParams, Steering, TokenEvent

UNLIKELY = -1e30  # the log-prob of the second alternative
ENDLESS = "..."  # a text behind which the stream waits until it is closed


@dataclass
class Scripted:
    """Says `texts` one after another, then again from the first; markers in them count.

    A token comes every `delay` seconds.
    """

    tokenizer: Tokenizer
    texts: Sequence[str]
    delay: float = 0.0
    asked: list[tuple[list[int], SamplingParams]] = field(default_factory=list)
    open: int = 0  # streams that run
    closed: int = 0  # streams that have ended

    @property
    def prompts(self) -> list[list[int]]:
        """The prompts so far."""
        return [prompt_ids for prompt_ids, _ in self.asked]

    def text(self, prompt_ids: Sequence[int], params: SamplingParams) -> str:
        """What is said to the prompt that was asked last."""
        return self.texts[(len(self.asked) - 1) % len(self.texts)]

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, n: int = 1
    ) -> list[Completion]:
        """See `Generate.generate`: nothing under test asks for it."""
        raise NotImplementedError

    async def stream(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        steering: Steering | None = None,
    ) -> AsyncIterator[TokenEvent]:
        """See `Generate.stream`."""
        self.asked.append((list(prompt_ids), params))
        text = self.text(prompt_ids, params)
        whole = [
            *self.tokenizer.encode(text, allow_special=True),
            self.tokenizer.eos_ids[0],
        ]
        said = whole[: params.max_tokens]
        self.open += 1
        try:
            for number, token_id in enumerate(said, 1):
                await asyncio.sleep(self.delay)
                reason: FinishReason | None = None
                if number == len(said):
                    reason = "stop" if said == whole else "length"
                if text == ENDLESS and reason == "stop":
                    await asyncio.Event().wait()
                alternatives = ((token_id, -0.5), (0, UNLIKELY))
                yield TokenEvent(token_id, -0.5, True, reason, alternatives)
        finally:
            self.open -= 1
            self.closed += 1

    async def score(
        self, token_ids: Sequence[int], top_log_probs: int = 0, adapter: str = ""
    ) -> list[TokenEvent]:
        """See `Scores.score`."""
        return [
            TokenEvent(each, -1.0, False, None, ((each, -1.0),)) for each in token_ids[1:]
        ]

    def close(self) -> None:
        """Nothing is held."""

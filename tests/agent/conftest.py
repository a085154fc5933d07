"""A tokenizer and a scripted model for the whole room."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Completion, SamplingParams, Steering, TokenEvent


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the user said: call a tool, then answer the user\n\n"] * 4, 300)


@dataclass
class ScriptedModel:
    """A `Generate` that says prepared replies, one a request, and keeps the prompts it was given.

    With `pause` it stops after the first token until the stream is closed.
    """

    tokenizer: Tokenizer
    replies: Sequence[str]
    pause: bool = False
    prompts: list[list[int]] = field(default_factory=list)
    params: list[SamplingParams] = field(default_factory=list)
    closed: int = 0

    async def generate(
        self, prompt_ids: Sequence[int], params: SamplingParams, n: int = 1
    ) -> list[Completion]:
        raise NotImplementedError

    async def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams, steering: Steering | None = None
    ) -> AsyncIterator[TokenEvent]:
        text = self.replies[len(self.prompts)]
        self.prompts.append(list(prompt_ids))
        self.params.append(params)
        ids = [*self.tokenizer.encode(text, allow_special=True), self.tokenizer.eos_ids[0]]
        cut = ids[: params.max_tokens]
        try:
            for index, token_id in enumerate(cut):
                last = index == len(cut) - 1
                reason = ("stop" if cut == ids else "length") if last else None
                yield TokenEvent(token_id, -0.5, True, reason)  # type: ignore[arg-type]
                if self.pause:
                    await asyncio.Event().wait()
                await asyncio.sleep(0)
        finally:
            self.closed += 1


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> Callable[..., ScriptedModel]:
    """`scripted("reply", "another")`, each what follows the prompt's `<think>`."""
    return lambda *replies, pause=False: ScriptedModel(tokenizer, replies, pause)

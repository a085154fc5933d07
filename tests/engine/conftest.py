"""A tokenizer, tiny random models and engines for the whole room."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import torch

from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import SamplingParams

Prompt = Callable[[int, int], list[int]]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the quick brown fox jumps over the lazy dog\n\n"] * 4, 300)


@pytest.fixture(scope="session")
def build() -> Callable[..., Qwen2]:
    """A random model with ids 0 to 299 whose logits differ enough for outputs to tell it apart."""

    def build(seed: int = 0, heads: int = 4, kv_heads: int = 2) -> Qwen2:
        config = ModelConfig(300, 8 * heads, 48, 2, heads, kv_heads, 8)
        model = Qwen2(config)
        generator = torch.Generator().manual_seed(seed)
        model.initialise(generator, std=0.2)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(0.0, 0.2, generator=generator)
        return model

    return build


@pytest.fixture
def start(
    build: Callable[..., Qwen2], tokenizer: Tokenizer
) -> Iterator[Callable[..., Engine]]:
    """Starts an engine: `seed` picks its weights, the rest are its limits."""
    engines: list[Engine] = []

    def start(
        slots: int = 4,
        max_length: int = 64,
        prefill_tokens: int = 64,
        lanes: int = 2,
        seed: int = 0,
    ) -> Engine:
        limits = EngineLimits(slots, max_length, prefill_tokens, lanes)
        engines.append(Engine(build(seed), tokenizer, limits))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def prompt() -> Prompt:
    """Random text tokens, none of them a marker: `prompt(length, seed)`."""
    return lambda length, seed: random.Random(seed).choices(range(256), k=length)


@pytest.fixture(scope="session")
def plain() -> Callable[..., SamplingParams]:
    """Unfiltered sampling at temperature 1: `plain(max_tokens, seed, **more)`."""

    def plain(max_tokens: int, seed: int = 0, **more: object) -> SamplingParams:
        options = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, **more}
        return SamplingParams(max_tokens=max_tokens, seed=seed, **options)  # type: ignore[arg-type]

    return plain


@pytest.fixture
async def no_test_hangs() -> AsyncIterator[None]:
    """A lost wake-up fails its test instead of stopping the run."""
    loop = asyncio.get_running_loop()

    def give_up() -> None:
        for task in asyncio.all_tasks():
            task.cancel("it hangs")

    timer = loop.call_later(120, give_up)
    yield
    timer.cancel()

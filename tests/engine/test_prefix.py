"""Reused keys and values change what is computed, not what is said."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from openqwq.engine.cache import SlotCache
from openqwq.engine.engine import Engine
from openqwq.model.qwen2 import Qwen2
from openqwq.types import Completion, SamplingParams

Start = Callable[..., Engine]
Plain = Callable[..., SamplingParams]
Prompt = Callable[..., list[int]]
pytestmark = pytest.mark.usefixtures("no_test_hangs")


async def converse(engine: Engine, prompt: Prompt, plain: Plain) -> list[Completion]:
    """Three conversations of four turns each, side by side; a turn goes on from the one before."""
    histories: list[list[int]] = [prompt(40, chat) for chat in range(3)]
    completions: list[Completion] = []
    for turn in range(4):
        asked = [engine.generate(ids, plain(12, turn), 2) for ids in histories]
        for chat, group in enumerate(await asyncio.gather(*asked)):
            completions += group
            histories[chat] = (
                histories[chat] + group[1].token_ids + prompt(9, 10 * turn + chat)
            )
    return completions


async def test_conversations_are_the_same_with_and_without_reuse(
    start: Start, plain: Plain, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_reuse = start(slots=6, max_length=256)
    found = await converse(with_reuse, prompt, plain)
    monkeypatch.setattr(SlotCache, "REUSE_FROM", 10_000)
    without_reuse = start(slots=6, max_length=256)
    expected = await converse(without_reuse, prompt, plain)
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids == other.token_ids
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)
    assert without_reuse.scheduler.reused_tokens == 0
    statistics = with_reuse.statistics()
    assert statistics.prompt_tokens == without_reuse.statistics().prompt_tokens == 858
    # Every later turn finds all of its history but the last token of the turn before.
    assert statistics.reused_prompt_tokens == 3 * sum(
        40 + 21 * turn + 11 for turn in range(3)
    )


async def test_streams_of_one_prompt_share_its_prefill(
    start: Start, plain: Plain, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, ids, tokens = start(slots=8, max_length=128, lanes=4), prompt(60, 0), 0
    record = SlotCache.record

    def counting(
        cache: SlotCache, slots: Any, starts: Any, counts: list[int], new: Any
    ) -> None:
        nonlocal tokens
        tokens += sum(counts)
        record(cache, slots, starts, counts, new)

    monkeypatch.setattr(SlotCache, "record", counting)

    async def read(seed: int) -> list[int]:
        return [event.token_id async for event in engine.stream(ids, plain(5, seed))]

    streams = await asyncio.gather(*(read(seed) for seed in range(8)))
    assert tokens == 60 + 7 + 8 * 4
    group = await engine.generate(ids, plain(5), 8)
    assert streams == [completion.token_ids for completion in group]


async def test_new_weights_see_nothing_that_old_ones_computed(
    start: Start, build: Callable[..., Qwen2], plain: Plain, prompt: Prompt
) -> None:
    engine, other, ids = start(), start(seed=1), prompt(50, 0)
    await engine.generate(ids, plain(8))
    engine.push(build(1).named_parameters(), 1)
    (pushed,), (expected,) = (
        await engine.generate(ids, plain(8)),
        await other.generate(ids, plain(8)),
    )
    assert pushed.token_ids == expected.token_ids
    assert pushed.log_probs == pytest.approx(expected.log_probs, abs=1e-5)
    assert engine.scheduler.reused_tokens == 0


async def test_a_prompt_after_weights_in_flight_is_computed_anew(
    start: Start, build: Callable[..., Qwen2], plain: Plain, prompt: Prompt
) -> None:
    engine, other, ids = start(max_length=3000), start(seed=1), prompt(50, 0)
    stream = engine.stream(ids, plain(2900))
    await anext(stream)
    engine.push(build(1).named_parameters(), 1, in_flight=True)
    await anext(stream)
    (pushed,) = await engine.generate(ids, plain(8))
    await stream.aclose()  # type: ignore[attr-defined]
    (expected,) = await other.generate(ids, plain(8))
    assert pushed.token_ids == expected.token_ids
    assert engine.scheduler.reused_tokens == 0


async def test_keeping_finished_prompts_takes_no_memory_of_its_own(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    engine = start(slots=4, max_length=100)
    sizes = set()
    for seed in range(30):
        await engine.generate(prompt(60, seed), plain(20, seed))
        cache = engine.scheduler.cache
        sizes.add((cache.keys.shape, cache.values.shape, cache.token_ids.shape))
    assert len(sizes) == 1
    assert cache.token_ids.shape == (6, 100)

"""Many callers, one thread: streams, cancelling, failures, event loops."""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from openqwq.engine.cache import SlotCache
from openqwq.engine.engine import Engine
from openqwq.text.thinking import ThinkTracker
from openqwq.types import Completion, OpenQwQError, SamplingParams, TokenEvent

Start = Callable[..., Engine]
Plain = Callable[..., SamplingParams]
Prompt = Callable[..., list[int]]
pytestmark = pytest.mark.usefixtures("no_test_hangs")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def idle(engine: Engine) -> None:
    """Wait for the pump to stop, and see that every slot and lane is free."""
    await until(lambda: engine._pump is None or engine._pump.done())
    engine.scheduler.admit()
    scheduler = engine.scheduler
    assert not (scheduler.running or scheduler.prefilling or scheduler.waiting)
    assert len(scheduler.free_lanes) == engine.limits.lanes


def hook_forward(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, before: Callable[[], None]
) -> None:
    forward = engine.model.forward

    def hooked(*arguments: Any) -> Tensor:
        before()
        return forward(*arguments)

    monkeypatch.setattr(engine.model, "forward", hooked)


class Gate:
    """Holds the engine's thread inside a step while it is shut."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.open.set()
        hook_forward(engine, monkeypatch, self.wait)

    def wait(self) -> None:
        if not self.open.is_set():
            self.reached.set()
            assert self.open.wait(60), "the event loop never opened the gate"


async def test_a_stream_yields_what_generate_returns(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    engine, ids = start(), prompt(7, 0)
    for params in (plain(15, 3), plain(40, 4, stop_token_ids=tuple(range(20)))):
        (whole,) = await engine.generate(ids, params)
        events = [event async for event in engine.stream(ids, params)]
        assert [e.token_id for e in events] == whole.token_ids
        assert [e.log_prob for e in events] == pytest.approx(whole.log_probs, abs=1e-5)
        assert [e.sampled for e in events] == whole.sampled_mask
        ends = [e.finish_reason for e in events]
        assert ends == [None] * (len(events) - 1) + [whole.finish_reason]
    await idle(engine)


async def test_a_stream_yields_tokens_while_they_are_drawn(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    engine, seen = start(max_length=5000), 0
    stream = engine.stream(prompt(7, 0), plain(4900))
    async for _ in stream:
        seen += 1
        if seen == 3:
            break
    assert engine.scheduler.unfinished()
    await stream.aclose()  # type: ignore[attr-defined]
    await idle(engine)


async def test_a_slow_reader_misses_nothing_even_in_the_middle_of_a_write(
    start: Start, plain: Plain, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, ids, feed = start(), prompt(7, 0), ThinkTracker.feed
    (whole,) = await engine.generate(ids, plain(8))

    def slow_feed(tracker: ThinkTracker, token_id: int) -> bool:
        time.sleep(0.02)
        return feed(tracker, token_id)

    monkeypatch.setattr(ThinkTracker, "feed", slow_feed)
    for pause in (0.003, 0.01, 0.3):
        events: list[TokenEvent] = []
        async for event in engine.stream(ids, plain(8)):
            events.append(event)
            await asyncio.sleep(pause if len(events) < 8 else 0)
        assert [e.token_id for e in events] == whole.token_ids
        assert [e.finish_reason for e in events] == [None] * 7 + ["length"]


async def test_closing_a_stream_early_frees_its_slot(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    engine = start(slots=1, max_length=5000)
    stream = engine.stream(prompt(7, 0), plain(4900))
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    (completion,) = await engine.generate(prompt(3, 0), plain(4))
    assert len(completion.token_ids) == 4
    await idle(engine)


async def test_cancelling_in_every_state_frees_what_was_held_and_leaves_the_others_alone(
    start: Start, plain: Plain, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SlotCache, "FIRST_LENGTH", 8)  # so that the cache grows
    engine = start(slots=3, max_length=5000, prefill_tokens=2)
    cancelled = (0, 2, 3, 6, 8)  # running, prefilling or waiting
    limits = [4900 if i in cancelled else 40 for i in range(9)]
    requests = [(prompt(3 + 4 * i, i), plain(limits[i], i)) for i in range(9)]
    alone = [await engine.generate(*requests[i]) for i in range(9) if i not in cancelled]
    tasks = [asyncio.create_task(engine.generate(*request)) for request in requests]
    await until(lambda: any(len(s.token_ids) > 12 for s in engine.scheduler.running))
    for i in cancelled:
        tasks[i].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(results[i], asyncio.CancelledError) for i in cancelled)
    others = [result for result in results if isinstance(result, list)]
    assert [c.token_ids for (c,) in others] == [c.token_ids for (c,) in alone]
    await idle(engine)


async def test_the_event_loop_stays_free_while_a_step_runs_even_to_cancel(
    start: Start, plain: Plain, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(slots=2, max_length=5000)
    gate = Gate(engine, monkeypatch)
    limits = (4900, 9, 9, 4900)
    tasks = [
        asyncio.create_task(engine.generate(prompt(5, i), plain(limits[i])))
        for i in range(4)
    ]
    stream = engine.stream(prompt(5, 9), plain(9))
    gate.open.clear()
    await until(gate.reached.is_set)
    held = engine.scheduler.unfinished()
    tasks[0].cancel()
    tasks[3].cancel()
    done, _ = await asyncio.wait(tasks, timeout=50, return_when=asyncio.FIRST_COMPLETED)
    assert done <= {tasks[0], tasks[3]} and done
    late = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.01)
    assert not gate.open.is_set()
    gate.open.set()
    results = await asyncio.gather(*tasks[1:3])
    assert [len(c.token_ids) for (c,) in results] == [9, 9]
    assert (await late).finish_reason is None
    await stream.aclose()  # type: ignore[attr-defined]
    await idle(engine)
    assert max(len(sequence.token_ids) for sequence in held) == 9


async def test_hundreds_of_requests_at_random_moments_all_complete(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    chooser, engine = random.Random(0), start(slots=16, prefill_tokens=40, lanes=4)

    async def ask(seed: int) -> None:
        await asyncio.sleep(chooser.random() * 0.4)
        length, limit, n = (
            chooser.randint(1, 50),
            chooser.randint(1, 14),
            chooser.randint(1, 3),
        )
        task = asyncio.create_task(
            engine.generate(prompt(length, seed), plain(limit, seed), n)
        )
        if chooser.random() < 0.2:
            await asyncio.sleep(chooser.random() * 0.05)
            task.cancel()
        try:
            completions = await task
        except asyncio.CancelledError:
            return
        assert [len(c.token_ids) for c in completions] == [limit] * n

    await asyncio.gather(*(ask(seed) for seed in range(200)))
    await idle(engine)


async def test_a_step_that_fails_tells_every_caller_and_the_engine_works_again(
    start: Start, plain: Plain, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, ids = start(slots=2, max_length=5000), prompt(5, 0)
    (expected,) = await engine.generate(ids, plain(9))
    reading = engine.stream(ids, plain(4900))
    await anext(reading)  # its reader is elsewhere when the step fails
    logits, failed = engine.model.logits, threading.Event()

    def failing(hidden: Tensor) -> Tensor:
        everyone_waits = len(engine.scheduler.unfinished()) == 1 + (1 + 3 + 1 + 2)
        if everyone_waits and not failed.is_set():
            failed.set()
            raise ValueError("no memory left")
        return logits(hidden)

    monkeypatch.setattr(engine.model, "logits", failing)

    async def ask_twice(n: int) -> tuple[BaseException, Completion]:
        with pytest.raises(ValueError, match="no memory left") as caught:
            await engine.generate(ids, plain(9), n)
        return caught.value, (await engine.generate(ids, plain(9)))[0]

    for _, again in await asyncio.gather(*(ask_twice(n) for n in (1, 3, 1, 2))):
        assert again.token_ids == expected.token_ids
    events: list[TokenEvent] = []
    with pytest.raises(ValueError, match="no memory left"):
        async for event in reading:
            events.append(event)
    assert all(e.finish_reason is None for e in events)
    await idle(engine)


def test_an_engine_outlives_an_event_loop_that_ended_in_the_middle(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    engine, ids = start(slots=2, max_length=5000), prompt(5, 0)

    async def whole() -> list[int]:
        return (await asyncio.wait_for(engine.generate(ids, plain(9)), 100))[0].token_ids

    async def leaves(turns: int) -> None:
        tasks = [
            asyncio.create_task(engine.generate(ids, plain(4000, i))) for i in range(3)
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)

    first = asyncio.run(whole())
    for turns in (0, 1, 2, 3, 200):
        asyncio.run(leaves(turns))
        assert asyncio.run(whole()) == first


async def test_a_closed_engine_answers_with_an_error(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    engine = start(max_length=5000)
    task = asyncio.create_task(engine.generate(prompt(5, 0), plain(4000)))
    await until(lambda: bool(engine.scheduler.running))
    engine.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await task
    with pytest.raises(RuntimeError, match="after shutdown"):
        await engine.generate(prompt(5, 0), plain(4))
    engine.close()


async def test_a_full_gpu_is_named_and_the_next_request_is_served(
    start: Start, plain: Plain, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start()

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. GPU 0 has 79 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "forward", full)
        with pytest.raises(
            OpenQwQError, match=r"too small \(CUDA out of memory\): choose bf16"
        ):
            await engine.generate(prompt(5, 0), plain(4))
    (completion,) = await engine.generate(prompt(5, 0), plain(4))
    assert len(completion.token_ids) == 4

"""A step reads as much of a prompt as its seconds allow; a cancelled prompt frees the next one."""

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from openqwq.engine import pace as pace_module
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.engine.pace import FIRST_TOKENS, LEAST_TOKENS, Pace
from openqwq.model.qwen2 import Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import SamplingParams

pytestmark = pytest.mark.usefixtures("no_test_hangs")


def test_the_tokens_of_a_step_follow_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(pace_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    pace = Pace(2048, 2.0)
    assert pace.begin() == FIRST_TOKENS
    for speed, allowed in ((100, 200), (1, LEAST_TOKENS), (9000, 2048)):
        now[0] += 640 / speed
        pace.end(640)
        assert pace.begin() == allowed
    now[0] += 1000
    pace.end(3)  # a few tokens say nothing
    assert pace.begin() == 2048


def test_without_seconds_the_tokens_are_fixed() -> None:
    pace = Pace(77)
    assert pace.begin() == 77
    pace.end(77)
    assert pace.begin() == 77


async def test_a_cancelled_prompt_of_4000_tokens_frees_the_next_within_two_steps(
    build: Callable[..., Qwen2], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(build(), tokenizer, EngineLimits(2, 4200, 2048, 2, prefill_seconds=1.0))
    forward = engine.model.forward

    def slow(ids: object, *rest: object) -> object:
        time.sleep(len(ids) / 2000)  # type: ignore[arg-type]  # 2,000 tokens a second
        return forward(ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.model, "forward", slow)
    params = SamplingParams(max_tokens=1)
    leaving = asyncio.create_task(engine.generate([5] * 4000, params))
    await asyncio.sleep(0.4)
    leaving.cancel()
    started = time.perf_counter()
    await engine.generate([6] * 8, params)
    assert time.perf_counter() - started < 2.0 and not engine.scheduler.unfinished()
    engine.close()

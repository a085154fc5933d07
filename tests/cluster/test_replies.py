"""Replies over the streams of a scripted engine."""

from collections.abc import AsyncGenerator

from openqwq.cluster.replies import DrawnTokens, draw
from openqwq.engine.sequence import THINKING_LOOP_TOKENS, Sequence
from openqwq.text.stream import CLOSING_TEXT
from openqwq.text.thinking import ThinkTracker
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import SamplingParams

TOKENIZER = Tokenizer.train([], 280)
CLOSING = TOKENIZER.encode(CLOSING_TEXT, allow_special=True)
END = 7


class Scripted:
    """Draws 40, 41, ... for ever, `step` tokens at a time; notes where it was asked to go on."""

    def __init__(self, step: int = 1, period: int = 100) -> None:
        self.step, self.period = step, period
        self.asked: list[int] = []
        self.closed = 0
        self.version = 3

    async def stream(self, reply: Sequence) -> AsyncGenerator[DrawnTokens, None]:
        start = len(reply.token_ids)
        self.asked.append(start)
        try:
            while True:
                ids = [40 + (start + i) % self.period for i in range(self.step)]
                start += self.step
                yield DrawnTokens(ids, [-1.0] * self.step, self.version)
        finally:
            self.closed += 1


def reply(params: SamplingParams, thinking: bool) -> Sequence:
    tracker = ThinkTracker(TOKENIZER, thinking)
    return Sequence([1, 2], params, 0, params.max_tokens, tracker, list(CLOSING))


async def drawn(
    params: SamplingParams, engine: Scripted, thinking: bool = False
) -> Sequence:
    made = reply(params, thinking)
    await draw(made, engine.stream, lambda: engine.version)
    assert engine.closed == len(engine.asked)  # no request is left behind
    return made


async def test_a_spent_thinking_budget_forces_its_end_and_goes_on_after_it() -> None:
    for step in (1, 3):  # what came with the last token of the budget is thrown away
        engine = Scripted(step)
        params = SamplingParams(max_tokens=40 + len(CLOSING), thinking_budget=8)
        found = await drawn(params, engine, thinking=True)
        assert found.token_ids[8 : 8 + len(CLOSING)] == CLOSING
        assert found.sampled_mask.count(False) == len(CLOSING)
        assert (found.finish_reason, len(found.token_ids)) == ("length", params.max_tokens)
        assert engine.asked == [0, 8 + len(CLOSING)]
        assert set(found.weight_version) == {3}


async def test_tokens_past_a_stop_or_the_limit_are_thrown_away() -> None:
    engine = Scripted(step=8)
    stops = await drawn(SamplingParams(max_tokens=50, stop_token_ids=(42,)), engine)
    assert (stops.token_ids, stops.finish_reason) == ([40, 41, 42], "stop")
    limited = await drawn(SamplingParams(max_tokens=5), Scripted(step=8))
    assert (len(limited.token_ids), limited.finish_reason) == (5, "length")


async def test_thinking_that_repeats_itself_is_closed() -> None:
    engine = Scripted(step=64, period=10)
    params = SamplingParams(max_tokens=THINKING_LOOP_TOKENS + 200, stop_loops=True)
    found = await drawn(params, engine, thinking=True)
    forced = [index for index, sampled in enumerate(found.sampled_mask) if not sampled]
    assert [found.token_ids[index] for index in forced] == CLOSING
    assert forced[0] >= THINKING_LOOP_TOKENS

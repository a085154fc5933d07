"""A step of fixed shapes says what one of the true shapes says; CUDA itself: test_cuda.py."""

from collections.abc import Callable

import pytest
import torch

from openqwq.engine.cache import DecodeAttention, SlotCache
from openqwq.engine.graphs import DecodeGraphs, DecodeStep, rounded
from openqwq.engine.packed import PackedModel
from openqwq.engine.sampler import draw_plainly
from openqwq.model.qwen2 import Qwen2

ROWS = 8  # the scratch row comes after them


def test_counts_are_rounded_up_by_a_third_at_most_to_few_values() -> None:
    values = [rounded(count) for count in range(1, 4097)]
    assert sorted(set(values))[:12] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert all(n <= value < 1.5 * n for n, value in enumerate(values, 1))


class Recorder:
    """Replays a step by running it; knows what was captured."""

    def __init__(self) -> None:
        self.captured, self.replayed = 0, 0

    def __call__(self) -> Callable[[DecodeStep], DecodeStep]:
        return self.record

    def record(self, step: DecodeStep) -> DecodeStep:
        self.captured += 1
        step()  # as CudaRecorder does first

        def replay() -> None:
            self.replayed += 1
            step()

        return replay


def cache_with_past(model: Qwen2, max_length: int = 512) -> SlotCache:
    cache = SlotCache(model.config, ROWS + 1, max_length)
    cache.keys.normal_(generator=torch.Generator().manual_seed(1))
    cache.values.normal_(generator=torch.Generator().manual_seed(2))
    return cache


@pytest.mark.parametrize("rows", [1, 5, 7, 8])
def test_a_padded_step_gives_the_states_of_an_exact_one_and_writes_only_its_own_rows(
    build: Callable[..., Qwen2], rows: int
) -> None:
    model = PackedModel(build())
    cache, other = cache_with_past(build()), cache_with_past(build())
    ids, starts = list(range(20, 20 + rows)), [3 * row for row in range(rows)]
    graphs = DecodeGraphs(model, cache, ROWS, Recorder())
    before = cache.keys.clone()
    with torch.inference_mode():
        logits = graphs.logits(ids, starts)
        draws = torch.linspace(0, 0.99, rows, dtype=torch.float64)
        token_ids, log_probs = graphs.draw(draws)
        inputs, slots, positions = torch.tensor([ids, range(rows), starts])
        attend = DecodeAttention(other, slots, positions, max(starts) + 1)
        expected = model.logits(model.forward(inputs, positions, attend))
    # A padded product has another shape, whose sums round in another order: fp32's last bits.
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    drawn_ids, drawn_log_probs = draw_plainly(expected, draws)
    assert torch.equal(token_ids, drawn_ids)
    torch.testing.assert_close(log_probs, drawn_log_probs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        cache.keys[:, :ROWS], other.keys[:, :ROWS], atol=1e-5, rtol=1e-5
    )
    assert torch.equal(cache.keys[:, rows:ROWS], before[:, rows:ROWS])


def test_a_shape_is_captured_once_and_again_when_the_cache_has_moved(
    build: Callable[..., Qwen2],
) -> None:
    recorder = Recorder()
    model, cache = PackedModel(build()), cache_with_past(build())
    graphs = DecodeGraphs(model, cache, ROWS, recorder)
    with torch.inference_mode():
        for rows, start in ((5, 4), (6, 5), (5, 100)):  # all of 6 rows and 128 tokens
            graphs.logits([9] * rows, [start] * rows)
        assert (recorder.captured, recorder.replayed) == (1, 3)
        graphs.logits([9] * 3, [7] * 3)
        assert recorder.captured == 2
        graphs.logits([9] * 5, [128] * 5)  # the cache grows, so old addresses are void
        assert cache.keys.shape[3] == 256
        graphs.logits([9] * 5, [4] * 5)
    assert recorder.captured == 4


def test_the_length_of_a_step_ends_with_the_cache(build: Callable[..., Qwen2]) -> None:
    model, cache = PackedModel(build()), cache_with_past(build(), max_length=150)
    graphs = DecodeGraphs(model, cache, ROWS, Recorder())
    with torch.inference_mode():
        graphs.logits([9], [149])
    assert list(graphs.steps) == [(1, 150)]

"""Every token's values are the same, bit by bit, whatever else is computed with them."""

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.model import invariant
from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.qwen2 import Qwen2
from openqwq.types import OpenQwQError

WIDTHS = [(13, 52), (61, 32), (100, 77), (352, 128), (96, 1000), (1536, 576), (20_000, 64)]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("inputs", "outputs"), WIDTHS)
def test_a_row_of_a_product_is_the_same_alone_and_anywhere_among_others(
    inputs: int, outputs: int
) -> None:
    generator = torch.Generator().manual_seed(inputs)
    weight = torch.randn(outputs, inputs, generator=generator)
    x = torch.randn(70, inputs, generator=generator)
    whole = invariant.product(x, weight)
    # sums of this many terms of about 1, each rounded to 24 bits
    assert torch.allclose(whole, F.linear(x, weight), atol=inputs * 2**-22)
    for row in (0, 1, 31, 32, 69):
        assert torch.equal(invariant.product(x[row : row + 1], weight)[0], whole[row])
    order = torch.randperm(70, generator=generator)[:41]
    assert torch.equal(invariant.product(x[order], weight), whole[order])


@pytest.mark.parametrize("function", [F.silu, torch.cos, torch.exp])
def test_an_element_is_the_same_at_every_place_of_every_shape(
    function: Callable[[Tensor], Tensor],
) -> None:
    x = torch.randn(331, 103, generator=torch.Generator().manual_seed(0))
    whole = invariant.elementwise(function, x)
    assert torch.allclose(whole, function(x))
    for count in (1, 5, 100, 330):
        assert torch.equal(
            invariant.elementwise(function, x[:count, 3:]), whole[:count, 3:]
        )


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(4, 2, 8), (3, 1, 12), (2, 2, 32)]
)
def test_a_query_sees_the_same_whatever_lies_beyond_or_beside_it(
    heads: int, kv_heads: int, head_dim: int
) -> None:
    generator = torch.Generator().manual_seed(heads)
    queries = torch.randn(5, heads, 150, head_dim, generator=generator)
    keys, values = torch.randn(2, 5, kv_heads, 150, head_dim, generator=generator)
    whole = invariant.attention(queries, keys, values)
    plain = F.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, enable_gqa=True
    )
    assert torch.allclose(whole, plain, atol=1e-5)
    for row, last in [(0, 0), (1, 15), (2, 16), (3, 63), (4, 64), (2, 149)]:
        past = (slice(row, row + 1), slice(None), slice(last + 1))
        query = queries[past][:, :, last:]
        one = invariant.attention(
            query, keys[past], values[past], torch.zeros(1, 1, 1, last + 1)
        )
        assert torch.equal(one[0, :, 0], whole[row, :, last])


def shared_logits(
    model: Qwen2, prefixes: list[Tensor], rest: list[tuple[int, Tensor]]
) -> Tensor:
    """Logits of the flat batch: prefixes, then what goes on from them."""
    lengths = [[len(p) for p in prefixes], [len(ids) for _, ids in rest]]
    owners = [owner for owner, _ in rest]
    starts = [0 if owner < 0 else len(prefixes[owner]) for owner in owners]
    attend = RaggedAttention(lengths[1], lengths[0], owners, invariant=model.invariant)
    ids = torch.cat([*prefixes, *(ids for _, ids in rest)])
    places = positions([*lengths[0], *lengths[1]], [0] * len(prefixes) + starts)
    return model.logits(model(ids, places, attend))


def test_logits_of_a_sequence_are_the_same_in_every_packing(model: Qwen2) -> None:
    model.make_invariant()
    generator, rng = torch.Generator().manual_seed(0), random.Random(0)

    def ids(most: int) -> Tensor:
        return torch.randint(61, (rng.randint(1, most),), generator=generator)

    for _ in range(2):
        prefixes = [ids(90) for _ in range(3)]
        rest = [(rng.randint(-1, 2), ids(60)) for _ in range(7)]
        together = shared_logits(model, prefixes, rest)
        ends = torch.tensor([len(p) for p in prefixes] + [len(i) for _, i in rest]).cumsum(
            0
        )
        for index, (owner, own) in enumerate(rest):
            alone = own if owner < 0 else torch.cat([prefixes[owner], own])
            with torch.no_grad():  # gradients change nothing either
                attend = RaggedAttention([len(alone)], invariant=True)
                expected = model.logits(model(alone, positions([len(alone)]), attend))
            end = int(ends[len(prefixes) + index])
            assert torch.equal(together[end - len(own) : end], expected[-len(own) :])


@pytest.mark.parametrize(("inputs", "outputs"), WIDTHS)
def test_threads_change_no_product(inputs: int, outputs: int) -> None:
    """Not even a sum that oneDNN would divide among them (20,000 inputs, 64 outputs)."""
    generator = torch.Generator().manual_seed(inputs)
    weight = torch.randn(outputs, inputs, generator=generator)
    x = torch.randn(33, inputs, generator=generator)
    alone = invariant.product(x, weight)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        assert torch.equal(invariant.product(x, weight), alone)


def test_threads_change_nothing(make_model: Callable[..., Qwen2]) -> None:
    model = make_model(hidden_size=256, intermediate_size=1100)
    model.make_invariant()
    sequences = [(0, torch.arange(n) % 61) for n in (90, 33)]
    alone = shared_logits(model, [torch.arange(3)], sequences)
    for threads in (2, 5):
        torch.set_num_threads(threads)
        assert torch.equal(shared_logits(model, [torch.arange(3)], sequences), alone)


def rounds_by_place(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight) * (1 + torch.arange(len(x))[:, None] * 2**-23)


def rounds_by_threads(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight) * (1 + torch.get_num_threads() * 2**-23)


@pytest.mark.parametrize("kernel", [rounds_by_place, rounds_by_threads])
def test_kernels_that_are_not_exact_are_refused(
    model: Qwen2,
    monkeypatch: pytest.MonkeyPatch,
    kernel: Callable[[Tensor, Tensor], Tensor],
) -> None:
    monkeypatch.setattr(invariant, "exact_product", kernel)
    torch.set_num_threads(2)
    with pytest.raises(
        OpenQwQError, match=r"on this CPU .* a product of 32 by .* is not the same"
    ):
        model.make_invariant()
    assert torch.get_num_threads() == 2
    assert not model.invariant


def test_results_and_gradients_are_those_of_the_ordinary_mode_but_for_rounding(
    make_model: Callable[..., Qwen2],
) -> None:
    prefixes = [torch.arange(40) % 61, torch.arange(9)]
    rest = [
        (0, torch.arange(5)),
        (0, torch.arange(30)),
        (1, torch.arange(3)),
        (-1, torch.arange(7)),
    ]
    found = []
    for exact in (False, True):
        model = make_model()
        if exact:
            model.make_invariant()
        logits = shared_logits(model, prefixes, rest)
        logits.log_softmax(-1)[:, 3].sum().backward()
        found.append((logits.detach(), [p.grad for p in model.parameters()]))
    (plain, plain_gradients), (exact_logits, gradients) = found
    assert torch.allclose(plain, exact_logits, atol=1e-4)
    for ours, theirs in zip(gradients, plain_gradients, strict=True):
        assert ours is not None and theirs is not None
        assert torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3)


def test_the_ordinary_mode_is_another_and_the_default(qwen2: Qwen2) -> None:
    """It rounds by the shape of the batch: what the deterministic mode is for."""
    generator = torch.Generator().manual_seed(0)
    assert not qwen2.invariant
    sequences = [
        (-1, torch.randint(61, (n,), generator=generator)) for n in (90, 33, 120, 7)
    ]
    together = shared_logits(qwen2, [torch.arange(3)], sequences)
    alone = [shared_logits(qwen2, [torch.arange(3)], [one])[3:] for one in sequences]
    assert not torch.equal(together[3:], torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_are_refused(qwen2: Qwen2, dtype: torch.dtype) -> None:
    with pytest.raises(OpenQwQError, match=f"deterministic mode with {dtype} on cpu"):
        qwen2.to(dtype).make_invariant()

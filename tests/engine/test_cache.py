"""The cache is right if what it lets a model say is what a full forward would have said."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from openqwq.engine.cache import CacheAttention, SlotCache
from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.qwen2 import Qwen2

Build = Callable[..., Qwen2]
Row = tuple[int, int, list[int]]  # slot, tokens it has already, new tokens


def feed(model: Qwen2, cache: SlotCache, rows: Sequence[Row]) -> list[Tensor]:
    """The logits of each row's new tokens."""
    slots, starts, new = zip(*rows, strict=True)
    counts = [len(ids) for ids in new]
    attend = CacheAttention(cache, slots, starts, counts)
    flat = torch.tensor([i for ids in new for i in ids])
    with torch.inference_mode():
        return list(
            torch.split(model.logits(model(flat, attend.position_ids, attend)), counts)
        )


def full(model: Qwen2, sequences: Sequence[list[int]]) -> list[Tensor]:
    lengths = [len(ids) for ids in sequences]
    flat = torch.tensor([i for ids in sequences for i in ids])
    with torch.inference_mode():
        hidden = model(flat, positions(lengths), RaggedAttention(lengths))
        return list(torch.split(model.logits(hidden), lengths))


def random_ids(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (length,), generator=generator).tolist()


def dirty_cache(model: Qwen2, slots: int, max_length: int = 512) -> SlotCache:
    """A cache in which earlier sequences have left something in every place."""
    cache = SlotCache(model.config, slots, max_length)
    cache.keys.normal_(0, 10)
    cache.values.normal_(0, 10)
    return cache


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@settings(max_examples=15)
@given(st.data())
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1), (6, 2)])
def test_any_split_of_any_ragged_batch_gives_the_logits_of_a_full_forward(
    build: Build, heads: int, kv_heads: int, data: st.DataObject
) -> None:
    model = build(0, heads, kv_heads)
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    slots = data.draw(st.permutations(range(6)))[: len(lengths)]
    sequences = [random_ids(length, seed) for seed, length in enumerate(lengths)]
    cache = dirty_cache(model, 6)
    fed = [0] * len(lengths)
    got: list[list[Tensor]] = [[] for _ in lengths]
    while open_rows := [i for i, length in enumerate(lengths) if fed[i] < length]:
        chosen = data.draw(st.lists(st.sampled_from(open_rows), min_size=1, unique=True))
        counts = [data.draw(st.integers(1, lengths[i] - fed[i])) for i in chosen]
        rows = [(slots[i], fed[i], sequences[i][fed[i] :][:n])
                for i, n in zip(chosen, counts, strict=True)]  # fmt: skip
        for i, count, logits in zip(chosen, counts, feed(model, cache, rows), strict=True):
            got[i].append(logits)
            fed[i] += count
    for pieces, expected in zip(got, full(model, sequences), strict=True):
        close(torch.cat(pieces), expected)


@pytest.mark.parametrize("chunk", [1, 7, 64, 300])
def test_a_long_sequence_survives_the_growth_of_the_time_axis(
    build: Build, chunk: int
) -> None:
    model, ids = build(), random_ids(300, 0)
    cache = dirty_cache(model, 3)
    pieces = [
        feed(model, cache, [(1, at, ids[at : at + chunk])])[0]
        for at in range(0, 300, chunk)
    ]
    close(torch.cat(pieces), full(model, [ids])[0])


def test_time_grows_by_doubling_to_the_maximum_and_keeps_what_it_holds(
    build: Build,
) -> None:
    cache = dirty_cache(build(), 2, max_length=700)
    held = cache.keys.clone(), cache.values.clone()
    lengths = []
    for length in (1, 128, 129, 130, 600, 700):
        cache.reserve(length)
        lengths.append(cache.keys.shape[3])
    assert lengths == [128, 128, 256, 256, 600, 700]
    assert cache.values.shape == cache.keys.shape
    assert torch.equal(cache.keys[..., :128, :], held[0])
    assert torch.equal(cache.values[..., :128, :], held[1])
    assert SlotCache(build().config, 2, max_length=40).keys.shape[3] == 40


def test_a_forked_group_continues_as_if_each_member_had_its_own_prompt(
    build: Build,
) -> None:
    model, prompt = build(), random_ids(9, 0)
    members = [prompt + random_ids(5, seed) for seed in (1, 2, 3)]
    cache, slots = dirty_cache(model, 6), [4, 0, 2]
    feed(model, cache, [(5, 0, prompt)])
    cache.copy(5, slots, 9)
    feed(model, cache, [(5, 0, random_ids(20, 9))])  # the lane's next tenant
    got: list[list[Tensor]] = [[], [], []]
    for at in range(9, 14):
        rows = [(slot, at, [ids[at]]) for slot, ids in zip(slots, members, strict=True)]
        for pieces, logits in zip(got, feed(model, cache, rows), strict=True):
            pieces.append(logits)
    for pieces, expected in zip(got, full(model, members), strict=True):
        close(torch.cat(pieces), expected[9:])


def test_copy_moves_the_first_tokens_of_one_slot_and_touches_nothing_else(
    build: Build,
) -> None:
    cache = dirty_cache(build(), 5)
    before = cache.keys.clone(), cache.values.clone()
    cache.copy(3, [0, 4], 6)
    for now, then in zip((cache.keys, cache.values), before, strict=True):
        for slot in (0, 4):
            assert torch.equal(now[:, slot, :, :6], then[:, 3, :, :6])
            assert torch.equal(now[:, slot, :, 6:], then[:, slot, :, 6:])
        assert torch.equal(now[:, 1:4], then[:, 1:4])


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
def test_every_step_equals_transformers_with_its_own_cache(
    build: Build, heads: int, kv_heads: int
) -> None:
    model = build(1, heads, kv_heads)
    config = model.config
    theirs = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=False,
        )
    )
    theirs.load_state_dict(model.state_dict())
    ids, other = random_ids(40, 0), random_ids(33, 1)
    cache, past, at = dirty_cache(model, 3), None, 0
    for count in [17, 3, *[1] * 20]:
        rows = [(2, at, ids[at : at + count]), (0, at, other[at : at + count])]
        ours = feed(model, cache, rows[: 1 + (at + count <= len(other))])[0]
        with torch.inference_mode():
            output = theirs(torch.tensor([ids[at : at + count]]), past_key_values=past)
        past, at = output.past_key_values, at + count
        close(ours, output.logits[0], 1e-4)

"""The engine's own form of a model says what the model says."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from openqwq.engine.cache import CacheAttention, SlotCache
from openqwq.engine.packed import Matrix, PackedModel, has_bf16
from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.model.rope import Llama3Scaling, YarnScaling
from openqwq.types import OpenQwQError

Build = Callable[..., Qwen2]
QWEN = ModelConfig(97, 24, 40, 2, 6, 2, 4)
LENGTHS = [7, 1, 12]


def logits(model: Qwen2 | PackedModel) -> Tensor:
    ids = torch.randint(0, 97, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        hidden = model.forward(ids, positions(LENGTHS), RaggedAttention(LENGTHS))
        return model.logits(hidden)


def random_model(
    config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Qwen2:
    model, generator = Qwen2(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model.to(dtype)


@pytest.mark.parametrize(
    "config",
    [
        QWEN,
        replace(QWEN, attention_bias=False, tie_word_embeddings=True),
        replace(QWEN, num_key_value_heads=6, head_dim=6, rms_norm_eps=1e-5),
        replace(QWEN, rope_scaling=YarnScaling(4.0, 8), rope_theta=100.0),
        replace(QWEN, attention_bias=False, qk_norm=True),
        replace(
            QWEN, attention_bias=False, rope_scaling=Llama3Scaling(8.0, 8), rope_theta=100.0
        ),
    ],
    ids=["qwen2", "llama, tied", "as many keys as queries", "yarn", "qwen3", "llama3"],
)
def test_packed_and_plain_agree_but_for_rounding(config: ModelConfig) -> None:
    model = random_model(config)
    ours, theirs = logits(PackedModel(model)), logits(model)
    assert theirs.abs().max() > 1
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_other_precisions_are_served_unpacked() -> None:
    model = random_model(QWEN, dtype=torch.float64)
    packed = PackedModel(model)
    assert not packed.head.packed
    torch.testing.assert_close(logits(packed), logits(model).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not has_bf16(), reason="needs a CPU that multiplies in bf16")
@pytest.mark.parametrize("config", [QWEN, replace(QWEN, tie_word_embeddings=True)])
def test_in_bf16_only_products_round(config: ModelConfig) -> None:
    model = random_model(config, dtype=torch.bfloat16)
    packed = PackedModel(model)
    assert packed.head.packed and packed.head.weight.dtype == torch.bfloat16
    plain, exact = logits(model).float(), logits(model.float())
    error, plain_error = (
        (x - exact).norm() / exact.norm() for x in (logits(packed), plain)
    )
    assert 1e-4 < error < 0.8 * plain_error < 0.02


@pytest.mark.skipif(not has_bf16(), reason="needs a CPU that multiplies in bf16")
def test_in_bf16_a_token_is_the_same_with_and_without_a_cache() -> None:
    model = PackedModel(random_model(QWEN, dtype=torch.bfloat16))
    cache = SlotCache(QWEN, 1, 16, model.dtype)
    ids = torch.arange(9)
    with torch.inference_mode():
        whole = model.logits(model.forward(ids, positions([9]), RaggedAttention([9])))
        for start, count in ((0, 5), (5, 1), (6, 3)):
            attend = CacheAttention(cache, [0], [start], [count])
            hidden = model.forward(ids[start : start + count], attend.position_ids, attend)
            part = whole[start : start + count]
            torch.testing.assert_close(model.logits(hidden), part, atol=0.1, rtol=0.02)


@pytest.mark.parametrize("rows", [1, 2, 31, 32, 33, 200])
def test_packed_products_are_the_plain_ones_for_any_number_of_rows(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x, other = (torch.randn(rows, n, generator=generator) for n in (70, 45))
    weight, bias = (
        torch.randn(45, 70, generator=generator),
        torch.randn(45, generator=generator),
    )
    plain = x @ weight.T + bias
    matrix = Matrix(weight, bias)
    assert matrix.packed
    for ours, expected in (
        (matrix.product(x), plain),
        (matrix.product(x, "swish"), plain * plain.sigmoid()),
        (matrix.combined(x, other, "add"), plain + other),
        (matrix.combined(x, other, "mul"), plain * other),
    ):
        torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-5)


def test_loaded_weights_are_copies_and_replace_the_old_ones() -> None:
    first, second = random_model(QWEN, 0), random_model(QWEN, 1)
    packed, expected = PackedModel(first), logits(second)
    packed.load(second.named_parameters())
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.zero_()
    torch.testing.assert_close(logits(packed), expected, atol=2e-5, rtol=1e-5)


def test_missing_and_unknown_parameters_are_refused_and_change_nothing() -> None:
    packed = PackedModel(random_model(QWEN))
    before, given = logits(packed), dict(random_model(QWEN, 1).named_parameters())
    norm = given.pop("model.norm.weight")
    for wrong in (given, {**given, "model.norm.weight": norm, "model.extra": norm}):
        with pytest.raises(OpenQwQError, match=r"model\.(norm\.weight|extra): push every"):
            packed.load(wrong.items())
    assert torch.equal(logits(packed), before)


def test_a_tied_model_takes_its_head_from_the_embedding_whether_or_not_it_is_named() -> (
    None
):
    config = replace(QWEN, tie_word_embeddings=True)
    model, other = random_model(config), random_model(config, 1)
    packed = PackedModel(model)
    packed.load(other.state_dict().items())
    assert "lm_head.weight" in other.state_dict()
    torch.testing.assert_close(logits(packed), logits(other), atol=2e-5, rtol=1e-5)

"""Our model is transformers' Qwen2ForCausalLM, Qwen3ForCausalLM and LlamaForCausalLM."""

from collections.abc import Callable

import pytest
import torch
import transformers

from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.checkpoint import config_json, empty_model, parse_config
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.model.rope import (
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
    attention_scale,
    inverse_frequencies,
)

QWQ_32B = ModelConfig(152064, 5120, 27648, 64, 40, 8, 128, rms_norm_eps=1e-5)


def reference(model: Qwen2) -> torch.nn.Module:
    """transformers' model of the same config and weights."""
    settings = config_json(model.config, torch.float32, None)
    settings = transformers.AutoConfig.for_model(**settings)
    theirs = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    theirs.load_state_dict(model.state_dict())
    return theirs


def test_logits_equal_transformers_over_a_ragged_batch(
    model: Qwen2, logit_gap: Callable[..., float]
) -> None:
    assert logit_gap(model, reference(model)) <= 1e-4


def test_gradients_equal_transformers(model: Qwen2) -> None:
    ids = torch.arange(20) % 7
    theirs = reference(model)
    theirs(ids[None]).logits.square().mean().backward()
    hidden = model(ids, positions([20]), RaggedAttention([20]))
    model.logits(hidden).square().mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        YarnScaling(4.0, 32768),
        YarnScaling(1.0, 4096),
        YarnScaling(40.0, 64, 4.0, 2.0),
        Llama3Scaling(8.0, 8192),
        Llama3Scaling(32.0, 8192),
        Llama3Scaling(4.0, 512, 2.0, 3.0),
    ],
)
def test_rotation_frequencies_equal_transformers(scaling: RopeScaling | None) -> None:
    shape = ModelConfig(8, 64, 8, 1, 1, 1, 64, rope_scaling=scaling)
    settings = transformers.Qwen2Config(**config_json(shape, torch.float32, None))
    expected = transformers.models.qwen2.modeling_qwen2.Qwen2RotaryEmbedding(settings)
    frequencies = inverse_frequencies(64, 1_000_000.0, scaling)
    torch.testing.assert_close(frequencies, expected.inv_freq, rtol=2e-7, atol=0)
    assert attention_scale(scaling) == expected.attention_scaling


def test_a_token_sees_only_earlier_tokens_of_its_own_sequence(qwen2: Qwen2) -> None:
    ids = torch.arange(12)
    changed = ids.clone()
    changed[8] = 50  # the fourth token of the second sequence
    with torch.no_grad():
        before, after = (
            qwen2(i, positions([5, 7]), RaggedAttention([5, 7])) for i in (ids, changed)
        )
    same = (before == after).all(1)
    assert same.tolist() == [True] * 8 + [False] * 4


def test_the_32b_shape_has_exactly_qwqs_parameters() -> None:
    assert sum(p.numel() for p in empty_model(QWQ_32B).parameters()) == 32_763_876_352


def test_transformers_config_of_a_model_parses_to_the_same_shape(
    config: ModelConfig,
) -> None:
    written = config_json(config, torch.float32, None)
    assert parse_config(written) == config
    theirs = transformers.AutoConfig.for_model(**written)
    assert parse_config(theirs.to_dict()) == config

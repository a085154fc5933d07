"""Small models with random weights, and the distance from transformers' logits."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.model.rope import Llama3Scaling, YarnScaling

QWEN2 = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
)
SHAPES = {
    "qwen2": QWEN2,
    "one key-value head": replace(QWEN2, num_key_value_heads=1),
    "as many key-value heads": replace(QWEN2, num_key_value_heads=4, rms_norm_eps=1e-5),
    "tied": replace(QWEN2, tie_word_embeddings=True, rope_theta=10_000.0),
    "wide heads": replace(QWEN2, head_dim=16),
    "yarn": replace(QWEN2, rope_scaling=YarnScaling(4.0, 32, beta_fast=16.0)),
    "qwen3": replace(QWEN2, attention_bias=False, qk_norm=True, head_dim=16),
    "llama3": replace(
        QWEN2, attention_bias=False, rope_theta=100.0, rope_scaling=Llama3Scaling(8.0, 64)
    ),
    "llama": replace(QWEN2, attention_bias=False, rope_theta=10_000.0),
}
LENGTHS = [1, 7, 100, 3]


def random_model(config: ModelConfig) -> Qwen2:
    """Every weight random, norms and biases too, large enough for logits of about 1."""
    model = Qwen2(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2, generator=generator)
    return model


def ragged_logits(model: Qwen2, sequences: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    lengths = [len(s) for s in sequences]
    with torch.no_grad():
        hidden = model(
            torch.cat(list(sequences)), positions(lengths), RaggedAttention(lengths)
        )
        return list(model.logits(hidden).split(lengths))


@pytest.fixture(params=SHAPES)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return SHAPES[request.param]


@pytest.fixture
def model(config: ModelConfig) -> Qwen2:
    return random_model(config)


@pytest.fixture
def qwen2() -> Qwen2:
    return random_model(QWEN2)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Qwen2]:
    """A random model: `make_model(hidden_size=64)` changes one field of the small Qwen2."""
    return lambda **changes: random_model(replace(QWEN2, **changes))


@pytest.fixture(scope="session")
def logit_gap() -> Callable[..., float]:
    """How far our logits of a flat ragged batch are from transformers' of a padded one."""

    def gap(ours: Qwen2, theirs: torch.nn.Module) -> float:
        generator = torch.Generator().manual_seed(1)
        vocabulary = ours.config.vocab_size
        sequences = [torch.randint(vocabulary, (n,), generator=generator) for n in LENGTHS]
        padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
        with torch.no_grad():
            expected = theirs.eval()(padded, attention_mask=mask.long()).logits
        return max(
            (ours_one - theirs_one[: len(ours_one)]).abs().max().item()
            for ours_one, theirs_one in zip(
                ragged_logits(ours, sequences), expected, strict=True
            )
        )

    return gap

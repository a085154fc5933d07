"""Attention over natural lengths, and the gate of the feed-forward part: values and gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.model.attention import RaggedAttention, SequenceAttention
from openqwq.model.qwen2 import Attend, gated

PREFIXES = [7, 12]
LENGTHS = [5, 31, 1, 18, 9]
OWNERS = [0, 1, 1, -1, 0]


def mixed(attend: Attend, tokens: int) -> list[Tensor]:
    """What `attend` makes of random numbers, and the gradients of its inputs."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(tokens, 4, 8), (tokens, 2, 8), (tokens, 2, 8)]
    inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    output = attend(0, *inputs)
    gradients = torch.autograd.grad(output.square().sum(), inputs)
    return [output.detach(), *gradients]


def test_sequences_one_by_one_attend_as_they_do_padded_together() -> None:
    tokens = sum(PREFIXES) + sum(LENGTHS)
    padded = mixed(RaggedAttention(LENGTHS, PREFIXES, OWNERS), tokens)
    alone = mixed(SequenceAttention(LENGTHS, PREFIXES, OWNERS), tokens)
    for expected, found in zip(padded, alone, strict=True):
        assert torch.allclose(expected, found, atol=1e-5)


def test_sequences_one_by_one_need_no_shared_prefix() -> None:
    padded = mixed(RaggedAttention(LENGTHS), sum(LENGTHS))
    alone = mixed(SequenceAttention(LENGTHS), sum(LENGTHS))
    for expected, found in zip(padded, alone, strict=True):
        assert torch.allclose(expected, found, atol=1e-5)


def test_the_gate_has_autograds_values_and_gradients_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    gate, up = (torch.randn(9, 70, generator=generator).requires_grad_() for _ in range(2))
    weights = torch.randn(9, 70, generator=generator)
    found, expected = gated(gate, up), F.silu(gate) * up
    assert torch.equal(found, expected)
    ours = torch.autograd.grad((found * weights).sum(), (gate, up))
    theirs = torch.autograd.grad((expected * weights).sum(), (gate, up))
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])

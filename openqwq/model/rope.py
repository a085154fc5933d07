"""Rotary position embedding (RoFormer, arXiv 2104.09864), stretched by YaRN or as Llama 3 does."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from openqwq.model.invariant import elementwise


@dataclass(frozen=True)
class YarnScaling:
    """YaRN's parameters as they stand in a checkpoint's `rope_scaling`."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class Llama3Scaling:
    """The scaling that Llama 3.1 calls `llama3`, with its parameters as in `rope_scaling`."""

    factor: float
    original_max_position_embeddings: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0


RopeScaling = YarnScaling | Llama3Scaling


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """Rotation per position of each coordinate pair, in radians, (head_dim / 2,)."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    frequencies = 1.0 / theta**exponents
    if isinstance(scaling, YarnScaling):
        return _yarn(frequencies, head_dim, theta, scaling)
    if isinstance(scaling, Llama3Scaling):
        return _llama3(frequencies, scaling)
    return frequencies


def _yarn(frequencies: Tensor, head_dim: int, theta: float, yarn: YarnScaling) -> Tensor:
    """Slow frequencies divided by `factor`, fast ones kept (YaRN, arXiv 2309.00071, section 3.2).

    Between the pairs that turn `beta_fast` and `beta_slow` times over the original length, a ramp.
    """

    def pair_turning(turns: float) -> float:
        wavelength = yarn.original_max_position_embeddings / (turns * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(theta))

    fastest = math.floor(pair_turning(yarn.beta_fast))
    slowest = math.ceil(pair_turning(yarn.beta_slow))
    low = max(fastest, 0)
    high = min(slowest, head_dim - 1)
    width = max(high - low, 0.001)

    pairs = torch.arange(head_dim // 2, dtype=torch.float32, device="cpu")
    slow_share = ((pairs - low) / width).clamp(0, 1)
    fast_share = 1 - slow_share
    slowed = frequencies / yarn.factor
    return slowed * slow_share + frequencies * fast_share


def _llama3(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Pairs that turn rarely over the original length slowed by `factor`, frequent ones kept.

    Rarely means fewer than `low_freq_factor` turns, frequently more than `high_freq_factor`; in
    between the two are mixed in proportion to the turns.
    """
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    low = scaling.low_freq_factor
    span = scaling.high_freq_factor - low
    fast_share = ((turns - low) / span).clamp(0, 1)
    slow_share = 1 - fast_share
    slowed = frequencies / scaling.factor
    return slowed * slow_share + frequencies * fast_share


def attention_scale(scaling: RopeScaling | None) -> float:
    """YaRN's temperature, as a factor on cos and sin (so its square is on the scores)."""
    if not isinstance(scaling, YarnScaling) or scaling.factor <= 1:
        return 1.0
    return 0.1 * math.log(scaling.factor) + 1.0


def rotation(
    position_ids: Tensor, frequencies: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """(cos, sin) of every position, each (tokens, 1, head_dim), always computed in fp32.

    The first half of the sines is negative, as `rotate` wants them.
    """
    angles = position_ids[:, None].float() * frequencies  # (tokens, head_dim / 2)
    cos = elementwise(torch.cos, angles) * scale
    sin = elementwise(torch.sin, angles) * scale
    both_cos = torch.cat((cos, cos), dim=-1)
    both_sin = torch.cat((-sin, sin), dim=-1)
    return both_cos[:, None], both_sin[:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `x` (tokens, heads, head_dim), pairing coordinate i with i + head_dim / 2."""
    half = x.shape[-1] // 2
    turned = x.roll(half, -1)
    cos = cos.to(x.dtype)
    sin = sin.to(x.dtype)
    return x * cos + turned * sin

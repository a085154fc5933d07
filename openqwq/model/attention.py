"""Causal attention inside each sequence of a flat batch, for training and scoring (no cache)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class RaggedAttention:
    """An `Attend` over sequences that lie one after another in the flat batch.

    Only here are sequences padded, on the right: causality keeps real queries from padded keys,
    so no mask is needed.
    """

    def __init__(self, sequence_lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        lengths = torch.tensor(sequence_lengths, device=device)
        starts = lengths.cumsum(0) - lengths
        columns = torch.arange(int(lengths.max()), device=device)
        real = columns < lengths[:, None]  # (sequences, longest)
        self.padded_index = torch.where(real, starts[:, None] + columns, 0)
        self.flat_index = real.flatten().nonzero().squeeze(1)  # (tokens,)

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attend`: (tokens, heads or kv_heads, head_dim) to (tokens, heads, head_dim)."""
        q, k, v = (x[self.padded_index].transpose(1, 2) for x in (queries, keys, values))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return mixed.transpose(1, 2).flatten(0, 1)[self.flat_index]


def positions(sequence_lengths: Sequence[int]) -> Tensor:
    """Position of every token in its own sequence, (tokens,)."""
    return torch.cat([torch.arange(length) for length in sequence_lengths])

"""Causal attention inside each sequence of a flat batch, for training and scoring (no cache)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.model import invariant as batch_invariant


class RaggedAttention:
    """An `Attend` over sequences that lie one after another in the flat batch.

    Samples of one prompt may share its tokens: the flat batch then begins with the shared prefixes,
    and `prefix_of[i]` names the one that sequence `i` goes on from (-1: it stands alone). Every
    token is computed once, and its gradient is the sum over all who look at it.

    Only here are sequences padded, on the right: causality keeps real queries from padded keys.
    With `invariant` the result for a token depends on its own sequence alone, bit by bit.
    """

    def __init__(
        self,
        sequence_lengths: Sequence[int],
        prefix_lengths: Sequence[int] = (),
        prefix_of: Sequence[int] = (),
        device: torch.device | str = "cpu",
        invariant: bool = False,
    ) -> None:
        self.attention = batch_invariant.attention if invariant else _attention
        self.own = _Padding(sequence_lengths, sum(prefix_lengths), device)
        self.prefixes: _Padding | None = None
        self.order: Tensor | None = None
        if prefix_lengths:
            self.prefixes = _Padding(prefix_lengths, 0, device)
            owner = torch.tensor(prefix_of, device=device)
            self._share(self.prefixes, owner, invariant)

    def _share(self, prefixes: "_Padding", owner: Tensor, invariant: bool) -> None:
        """Let sequence i see prefix `owner[i]`, (sequences,), before its own tokens.

        Keys are laid out as all of a prefix's columns, then all of a sequence's.
        """
        self.prefix_rows = owner.clamp(min=0)  # (sequences,)
        has_prefix = owner >= 0
        shared = prefixes.lengths[self.prefix_rows] * has_prefix  # tokens each one shares
        beyond = prefixes.columns >= shared[:, None]  # (sequences, prefix): not its prefix

        # A query sees all of its prefix, and of its own sequence what is not after it.
        own = self.own.columns
        longest = len(own)
        in_prefix = (~beyond)[:, None].expand(-1, longest, -1)
        causal = (own <= own[:, None]).expand(len(owner), -1, -1)
        visible = torch.cat([in_prefix, causal], dim=2)  # (sequences, longest, all columns)

        if invariant:
            # every key must stand at its position: what pads a prefix goes to the end
            is_padding = F.pad(beyond.long(), (0, longest))
            order = is_padding.argsort(dim=1, stable=True)  # (sequences, all columns)
            visible = visible.take_along_dim(order[:, None], dim=2)
            self.order = order[:, None, :, None]

        bias = torch.zeros(visible.shape, device=owner.device)
        bias.masked_fill_(~visible, float("-inf"))
        self.bias = bias[:, None]

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attend`: (tokens, heads or kv_heads, head_dim) to (tokens, heads, head_dim)."""
        own_queries = self.own.pad(queries)
        own_keys = self.own.pad(keys)
        own_values = self.own.pad(values)
        if self.prefixes is None:
            own_mixed = self.attention(own_queries, own_keys, own_values)
            return self.own.flatten(own_mixed)

        prefix_queries = self.prefixes.pad(queries)
        prefix_keys = self.prefixes.pad(keys)
        prefix_values = self.prefixes.pad(values)
        prefix_mixed = self.attention(prefix_queries, prefix_keys, prefix_values)

        all_keys = self._after_prefix(prefix_keys, own_keys)
        all_values = self._after_prefix(prefix_values, own_values)
        bias = self.bias.to(queries.dtype)
        own_mixed = self.attention(own_queries, all_keys, all_values, bias)
        return torch.cat([self.prefixes.flatten(prefix_mixed), self.own.flatten(own_mixed)])

    def _after_prefix(self, prefixes: Tensor, own: Tensor) -> Tensor:
        """What each sequence sees, (sequences, kv_heads, prefix + longest, head_dim)."""
        before = prefixes.index_select(0, self.prefix_rows)
        together = torch.cat([before, own], dim=2)
        if self.order is None:
            return together
        return together.take_along_dim(self.order, dim=2)


class SequenceAttention:
    """`RaggedAttention` one sequence after another, without padding, for models of some width.

    Completions of natural lengths would be padded to twice their tokens, and what their queries see
    to more. A call for each sequence costs a tenth of a millisecond, which pays where its products
    take longer. On the CPU.
    """

    def __init__(
        self,
        sequence_lengths: Sequence[int],
        prefix_lengths: Sequence[int] = (),
        prefix_of: Sequence[int] = (),
    ) -> None:
        self.lengths = [*prefix_lengths, *sequence_lengths]
        self.owners = [-1] * len(prefix_lengths)
        self.owners += prefix_of or [-1] * len(sequence_lengths)
        self.biases: list[Tensor | None] = []
        for length, owner in zip(self.lengths, self.owners, strict=True):
            bias = None
            if owner >= 0:
                bias = _seen_after(self.lengths[owner], length)
            self.biases.append(bias)

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attend`: (tokens, heads or kv_heads, head_dim) to (tokens, heads, head_dim)."""
        all_queries = torch.split(queries, self.lengths)
        all_keys = torch.split(keys, self.lengths)
        all_values = torch.split(values, self.lengths)
        mixed: list[Tensor] = []
        for number, owner in enumerate(self.owners):
            own_keys = all_keys[number]
            own_values = all_values[number]
            bias = self.biases[number]
            if bias is not None:
                bias = bias.to(queries.dtype)
                own_keys = torch.cat([all_keys[owner], own_keys])
                own_values = torch.cat([all_values[owner], own_values])

            own_queries = _as_batch(all_queries[number])
            batch = _attention(
                own_queries, _as_batch(own_keys), _as_batch(own_values), bias
            )
            mixed.append(batch[0].transpose(0, 1))
        return torch.cat(mixed)


def _seen_after(prefix: int, length: int) -> Tensor:
    """What `length` queries see of a prefix and themselves: (1, 1, length, prefix + length)."""
    bias = torch.full((length, prefix + length), float("-inf"))
    return bias.triu_(prefix + 1)[None, None]


def _as_batch(x: Tensor) -> Tensor:
    """(tokens, heads, head_dim) to (1, heads, tokens, head_dim)."""
    return x.transpose(0, 1)[None]


class _Padding:
    """Between a run of the flat batch, from `offset` on, and rows padded on the right."""

    def __init__(
        self, lengths: Sequence[int], offset: int, device: torch.device | str
    ) -> None:
        self.lengths = torch.tensor(lengths, device=device)
        starts = self.lengths.cumsum(0) - self.lengths + offset
        self.columns = torch.arange(int(self.lengths.max()), device=device)
        real = self.columns < self.lengths[:, None]  # (rows, longest)
        places = starts[:, None] + self.columns
        self.index = torch.where(real, places, offset)
        self.back = real.flatten().nonzero().squeeze(1)  # (tokens of the run,)

    def pad(self, x: Tensor) -> Tensor:
        """(tokens, heads, head_dim) to (rows, heads, longest, head_dim)."""
        padded = x.index_select(0, self.index.flatten())
        rows = padded.view(*self.index.shape, *x.shape[1:])
        return rows.transpose(1, 2)

    def flatten(self, x: Tensor) -> Tensor:
        """(rows, heads, longest, head_dim) to (tokens of the run, heads, head_dim)."""
        tokens = x.transpose(1, 2).flatten(0, 1)
        return tokens.index_select(0, self.back)


def _attention(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None
) -> Tensor:
    if queries.is_cuda and (bias is not None or queries.dtype == torch.float32):
        # Of CUDA's kernels only the one for bf16 without a bias shares heads in little memory.
        share = queries.shape[1] // keys.shape[1]
        keys = keys.repeat_interleave(share, dim=1)
        values = values.repeat_interleave(share, dim=1)
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=bias, is_causal=bias is None, enable_gqa=True
    )


def positions(sequence_lengths: Sequence[int], starts: Sequence[int] = ()) -> Tensor:
    """Position of every token in its own sequence, (tokens,), counted from `starts` (or 0)."""
    runs: list[Tensor] = []
    first_positions = starts or [0] * len(sequence_lengths)
    for first, length in zip(first_positions, sequence_lengths, strict=True):
        runs.append(torch.arange(first, first + length))
    return torch.cat(runs)

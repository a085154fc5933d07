"""Keys and values of sequences, running and finished, in fixed slots, and attention over them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.engine.adapters import NO_ADAPTER
from openqwq.model import invariant as batch_invariant
from openqwq.model.qwen2 import ModelConfig

# Queries, keys, values and bias, each (rows, heads, tokens, head_dim or time) -> as the queries.
Mix = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class SlotCache:
    """`keys` and `values`: [layer, slot, kv_heads, time, head_dim].

    Time grows in doubling steps up to `max_length`, so short sequences do not pay for long ones.
    A new prompt may start from the slot that shares most with it. What that takes is kept on the
    CPU, by slot: the tokens (`token_ids`, by time as well), how many there are (`held`), whether
    the present weights computed them (`fresh`), and with which adapter (`adapters`).
    """

    FIRST_LENGTH = 128
    REUSE_FROM = 32  # tokens; fewer are not worth a copy

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.max_length = max_length
        length = min(self.FIRST_LENGTH, max_length)
        shape = (config.num_hidden_layers, slots, config.num_key_value_heads, length)
        self.keys = torch.zeros(*shape, config.head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.token_ids = np.full((slots, length), -1, dtype=np.int32)
        self.held = np.zeros(slots, dtype=np.int64)
        self.fresh = np.zeros(slots, dtype=bool)
        self.adapters = np.full(slots, NO_ADAPTER, dtype=np.int64)
        self.last_use = np.zeros(slots, dtype=np.int64)
        self._uses = 0
        # called before keys and values move to other memory
        self.before_moving: Callable[[], None] = lambda: None

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in every slot."""
        capacity = self.keys.shape[3]
        if length <= capacity:
            return
        grown = min(max(length, 2 * capacity), self.max_length)
        more = grown - capacity
        self.before_moving()
        self.keys = F.pad(self.keys, (0, 0, 0, more))
        self.values = F.pad(self.values, (0, 0, 0, more))
        self.token_ids = np.pad(self.token_ids, [(0, 0), (0, more)], constant_values=-1)

    def write(
        self, layer: int, slots: Tensor, position_ids: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        """Put keys and values (tokens, kv_heads, head_dim) at each token's place."""
        self.keys[layer, slots, :, position_ids] = keys
        self.values[layer, slots, :, position_ids] = values

    def bias(self, limits: Tensor, length: int) -> Tensor:
        """(rows, 1, queries, length): 0 up to each place in `limits` (rows, queries), then -inf."""
        places = torch.arange(length, device=limits.device)
        beyond = places > limits[:, :, None]
        bias = torch.zeros(beyond.shape, dtype=self.keys.dtype, device=limits.device)
        bias.masked_fill_(beyond, float("-inf"))
        return bias[:, None]

    def copy(self, source: int, destinations: Sequence[int], length: int) -> None:
        """Copy the first `length` tokens of one slot into others."""
        rows = list(destinations)
        self._transfer([source], rows, length)
        self.held[rows] = length

    def move(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """Copy each source slot to its destination, all at once: a slot may be both."""
        if not sources:
            return
        old_rows = list(sources)
        new_rows = list(destinations)
        longest = int(self.held[old_rows].max())
        self._transfer(old_rows, new_rows, longest)
        self.held[new_rows] = self.held[old_rows]

    def _transfer(self, sources: list[int], destinations: list[int], length: int) -> None:
        for store in (self.keys, self.values):
            store[:, destinations, :, :length] = store[:, sources, :, :length]
        self.token_ids[destinations, :length] = self.token_ids[sources, :length]
        self.fresh[destinations] = self.fresh[sources]
        self.adapters[destinations] = self.adapters[sources]
        self.last_use[destinations] = self.last_use[sources]

    def start(self, slot: int, source: int, length: int, adapter: int = NO_ADAPTER) -> None:
        """Begin a prompt in `slot` with the first `length` tokens of `source`."""
        if length:
            self._use([source])
            self.copy(source, [slot], length)
        else:
            self.held[slot] = 0
            self.fresh[slot] = True
            self.adapters[slot] = adapter

    def shorten(self, slot: int, length: int) -> None:
        """Keep the first `length` tokens of a slot, for a prompt that goes on from them."""
        self.held[slot] = length
        self._use([slot])

    def record(
        self,
        slots: Sequence[int],
        starts: Sequence[int],
        counts: Sequence[int],
        ids: Sequence[int],
    ) -> None:
        """Note that slots hold `counts` more tokens after `starts`; `ids` are those of all."""
        rows = np.asarray(slots)
        first = np.asarray(starts)
        number = np.asarray(counts)
        self.held[rows] = first + number

        before = number.cumsum() - number  # tokens of earlier rows
        within_row = np.arange(number.sum()) - np.repeat(before, number)
        token_rows = np.repeat(rows, number)
        places = np.repeat(first, number) + within_row
        self.token_ids[token_rows, places] = ids
        self._use(rows)

    def longest_prefix(
        self, prompt_ids: Sequence[int], adapter: int = NO_ADAPTER
    ) -> tuple[int, int]:
        """The slot that shares most with a prompt, and how many tokens.

        At least one token of the prompt is left over, for its logits; 0 if too few are shared.
        """
        count = min(len(prompt_ids) - 1, self.token_ids.shape[1])
        if count < self.REUSE_FROM:
            return 0, 0
        differs = self.token_ids[:, :count] != np.asarray(prompt_ids[:count])
        first_difference = np.where(differs.any(1), differs.argmax(1), count)

        usable = self.fresh & (self.adapters == adapter)
        shared = np.minimum(first_difference, self.held) * usable
        slot = int(shared.argmax())
        most = int(shared[slot])
        if most < self.REUSE_FROM:
            return slot, 0
        return slot, most

    def worth_keeping(self, slot: int) -> bool:
        """Whether a slot holds what a later prompt could start from."""
        return bool(self.fresh[slot] and self.held[slot] >= self.REUSE_FROM)

    def outdate(self, adapter: int | None = None) -> None:
        """No new prompt may start from what is held now: the weights have changed.

        With an `adapter`, only what it computed is out of date.
        """
        if adapter is None:
            self.fresh[:] = False
        else:
            self.fresh[self.adapters == adapter] = False

    def _use(self, slots: Sequence[int] | np.ndarray) -> None:
        self._uses += 1
        self.last_use[slots] = self._uses


class CacheAttention:
    """An `Attend` that appends each row's new tokens to its slot and looks at all of its past.

    The flat batch holds `counts[i]` new tokens for slot `slots[i]`, which has `starts[i]` already.
    Queries of one key-value head are folded into the query axis, so keys are never repeated.
    With `invariant` the result for a token depends on its own sequence alone, bit by bit.
    """

    def __init__(
        self,
        cache: SlotCache,
        slots: Sequence[int],
        starts: Sequence[int],
        counts: Sequence[int],
        invariant: bool = False,
    ) -> None:
        self.cache = cache
        self.attention: Mix = F.scaled_dot_product_attention
        if invariant:
            self.attention = batch_invariant.attention
        ends = [start + count for start, count in zip(starts, counts, strict=True)]
        self.length = max(ends)
        cache.reserve(self.length)

        device = cache.keys.device
        slot_ids = torch.tensor(slots, device=device)
        self.rows: slice | Tensor = slot_ids
        after_last = slots[0] + len(slots)
        if list(slots) == list(range(slots[0], after_last)):
            self.rows = slice(slots[0], after_last)  # a view, where an index would copy

        count = torch.tensor(counts, device=device)[:, None]  # (rows, 1)
        start = torch.tensor(starts, device=device)[:, None]
        columns = torch.arange(max(counts), device=device)
        real = columns < count  # (rows, longest)
        first = count.cumsum(0) - count  # of each row, in the flat batch
        self.padded_index = torch.where(real, first + columns, 0)
        self.flat_index = real.flatten().nonzero().squeeze(1)  # (tokens,)
        self.position_ids = (start + columns)[real]  # (tokens,)
        self.token_slots = slot_ids.repeat_interleave(count.squeeze(1))

        # A padded query sees what the row's last token sees: its output is dropped, never NaN.
        last_real = columns.minimum(count - 1)
        self.bias = cache.bias(start + last_real, self.length)

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attend`."""
        cache = self.cache
        cache.write(layer, self.token_slots, self.position_ids, keys, values)
        # Both (rows, kv_heads, time, head_dim).
        past_keys = cache.keys[layer, self.rows, :, : self.length]
        past_values = cache.values[layer, self.rows, :, : self.length]

        # Fold: heads that share keys, and the row's tokens, become one axis of queries.
        heads, head_dim = queries.shape[1:]
        kv_heads = keys.shape[1]
        share = heads // kv_heads
        grouped = queries.view(-1, kv_heads, share, head_dim)
        padded = grouped[self.padded_index]  # (rows, longest, kv_heads, share, head_dim)
        by_head = padded.transpose(1, 2)
        folded = by_head.flatten(2, 3)  # (rows, kv_heads, longest * share, head_dim)
        bias = self.bias.repeat_interleave(share, dim=2)  # (rows, 1, longest * share, time)

        mixed = self.attention(folded, past_keys, past_values, bias)

        # Unfold, and drop the padding.
        by_head = mixed.reshape(len(mixed), kv_heads, -1, share, head_dim)
        padded = by_head.transpose(1, 2).flatten(0, 1)  # (rows * longest, kv_heads, ...)
        return padded[self.flat_index].flatten(1, 2)


class DecodeAttention:
    """`CacheAttention` for one new token in each of the first rows.

    Row i's token goes to position `position_ids[i]` of slot `slots[i]`, which is i, or elsewhere
    for a row whose result nobody wants. No shape depends on how long a sequence is: all look at
    the first `length` positions, and see their own past there.
    """

    def __init__(
        self,
        cache: SlotCache,
        slots: Tensor,
        position_ids: Tensor,
        length: int,
        invariant: bool = False,
    ) -> None:
        self.attention: Mix = _on_a_gpu
        if invariant:
            self.attention = batch_invariant.attention
        elif cache.keys.device.type == "cpu":
            self.attention = _on_a_cpu
        self.cache = cache
        self.slots = slots
        self.position_ids = position_ids
        self.length = length
        self.bias = cache.bias(position_ids[:, None], length)

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attend`."""
        cache = self.cache
        cache.write(layer, self.slots, self.position_ids, keys, values)
        rows, kv_heads, head_dim = keys.shape
        # Both (rows, kv_heads, time, head_dim).
        past_keys = cache.keys[layer, :rows, :, : self.length]
        past_values = cache.values[layer, :rows, :, : self.length]

        grouped = queries.view(rows, kv_heads, -1, head_dim)
        mixed = self.attention(grouped, past_keys, past_values, self.bias)
        return mixed.flatten(1, 2)


def _on_a_cpu(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attention of few queries, for which the fused kernel takes a third longer."""
    scaled = queries * queries.shape[3] ** -0.5
    scores = torch.matmul(scaled, keys.transpose(2, 3))
    weights = scores.add_(bias).softmax(-1)
    return torch.matmul(weights, values)


def _on_a_gpu(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """The same with scores in fp32; at 16,000 tokens of context the fused kernel takes six times
    as long, because it does not divide a sequence among multiprocessors.
    """
    flat_queries = queries.flatten(0, 1)
    turned_keys = keys.flatten(0, 1).transpose(1, 2)
    if queries.dtype == torch.float32:
        scores = torch.bmm(flat_queries, turned_keys)
    else:
        scores = torch.bmm(flat_queries, turned_keys, out_dtype=torch.float32)
    scores = scores.view(*queries.shape[:3], -1)
    scale = queries.shape[3] ** -0.5
    weights = torch.add(bias, scores, alpha=scale).softmax(-1)
    return torch.matmul(weights.to(values.dtype), values)

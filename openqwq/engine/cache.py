"""Keys and values of sequences, running and finished, in fixed slots, and attention over them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.engine.adapters import NO_ADAPTER
from openqwq.model import invariant as batch_invariant
from openqwq.model.qwen2 import ModelConfig


class SlotCache:
    """`keys` and `values`: [layer, slot, kv_heads, time, head_dim].

    Time grows in doubling steps up to `max_length`, so short sequences do not pay for long ones.
    `token_ids` (slots, time) says whose they are, `held` (slots,) how many tokens there are, and
    `fresh` (slots,) whether today's weights computed them, with the adapter `adapters` (slots,): a
    new prompt for that adapter may then start from the slot that shares most with it. All are
    indexed by slot and kept on the CPU.
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
        self.before_moving: Callable[[], None] = lambda: None  # called before they lie elsewhere
        self._uses = 0

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in every slot."""
        capacity = self.keys.shape[3]
        if length <= capacity:
            return
        grown = min(max(length, 2 * capacity), self.max_length)
        pad = (0, 0, 0, grown - capacity)
        self.before_moving()
        self.keys, self.values = F.pad(self.keys, pad), F.pad(self.values, pad)
        more = [(0, 0), (0, grown - capacity)]
        self.token_ids = np.pad(self.token_ids, more, constant_values=-1)

    def write(
        self, layer: int, slots: Tensor, position_ids: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        """Put keys and values (tokens, kv_heads, head_dim) at each token's place."""
        self.keys[layer, slots, :, position_ids] = keys
        self.values[layer, slots, :, position_ids] = values

    def bias(self, limits: Tensor, length: int) -> Tensor:
        """(rows, 1, queries, length): 0 up to each place in `limits` (rows, queries), then -inf."""
        visible = torch.arange(length, device=limits.device) <= limits[:, :, None]
        bias = torch.zeros(visible.shape, dtype=self.keys.dtype, device=limits.device)
        return bias.masked_fill_(~visible, float("-inf"))[:, None]

    def copy(self, source: int, destinations: Sequence[int], length: int) -> None:
        """Copy the first `length` tokens of one slot into others."""
        self._transfer([source], list(destinations), length)
        self.held[list(destinations)] = length

    def move(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """Copy each source slot to its destination, all at once: a slot may be both."""
        if len(sources):
            sources, destinations = list(sources), list(destinations)
            self._transfer(sources, destinations, int(self.held[sources].max()))
            self.held[destinations] = self.held[sources]

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

    def record(
        self, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int], ids: Sequence[int]
    ) -> None:
        """Note that slots hold `counts` more tokens after `starts`; `ids` are those of all."""
        rows, first, number = (np.asarray(values) for values in (slots, starts, counts))
        self.held[rows] = first + number
        columns = np.arange(number.sum()) - np.repeat(number.cumsum() - number, number)
        self.token_ids[np.repeat(rows, number), np.repeat(first, number) + columns] = ids
        self._use(rows)

    def longest_prefix(
        self, prompt_ids: Sequence[int], adapter: int = NO_ADAPTER
    ) -> tuple[int, int]:
        """The slot that shares most with a prompt, and how many tokens.

        At least one token of the prompt is left over, for its logits; 0 if too few are shared.
        """
        wanted = np.asarray(prompt_ids[: min(len(prompt_ids) - 1, self.token_ids.shape[1])])
        same = self.token_ids[:, : len(wanted)] == wanted
        shared = np.where(same.all(1), len(wanted), (~same).argmax(1) if len(wanted) else 0)
        shared = np.minimum(shared, self.held) * (self.fresh & (self.adapters == adapter))
        slot = int(shared.argmax())
        return slot, int(shared[slot]) if shared[slot] >= self.REUSE_FROM else 0

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
        self.attention = batch_invariant.attention if invariant else F.scaled_dot_product_attention
        device = cache.keys.device
        self.cache = cache
        longest = max(counts)
        self.length = max(start + count for start, count in zip(starts, counts, strict=True))
        cache.reserve(self.length)
        together = list(slots) == list(range(slots[0], slots[0] + len(slots)))
        slot_ids = torch.tensor(slots, device=device)
        self.rows = slice(slots[0], slots[0] + len(slots)) if together else slot_ids
        count, start = torch.tensor(counts, device=device), torch.tensor(starts, device=device)
        columns = torch.arange(longest, device=device)
        real = columns < count[:, None]  # (rows, longest)
        first = count.cumsum(0) - count
        self.padded_index = torch.where(real, first[:, None] + columns, 0)
        self.flat_index = real.flatten().nonzero().squeeze(1)  # (tokens,)
        self.position_ids = (start[:, None] + columns)[real]  # (tokens,)
        self.token_slots = slot_ids.repeat_interleave(count)
        # A padded query sees what the row's last token sees: its output is dropped, never NaN.
        limits = start[:, None] + columns.minimum(count[:, None] - 1)  # (rows, longest)
        self.bias = cache.bias(limits, self.length)

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attend`."""
        cache = self.cache
        cache.write(layer, self.token_slots, self.position_ids, keys, values)
        past_keys = cache.keys[layer, self.rows, :, : self.length]  # (rows, kv_heads, time, dim)
        past_values = cache.values[layer, self.rows, :, : self.length]

        _, heads, head_dim = queries.shape
        kv_heads = keys.shape[1]
        share = heads // kv_heads
        grouped = queries.view(-1, kv_heads, share, head_dim)
        rows = grouped[self.padded_index]  # (rows, longest, kv_heads, share, head_dim)
        folded = rows.transpose(1, 2).flatten(2, 3)  # (rows, kv_heads, longest * share, head_dim)
        bias = self.bias.repeat_interleave(share, dim=2)  # (rows, 1, longest * share, time)

        mixed = self.attention(folded, past_keys, past_values, bias)

        unfolded = mixed.reshape(len(mixed), kv_heads, -1, share, head_dim)
        padded = unfolded.transpose(1, 2).flatten(0, 1)  # (rows * longest, kv_heads, share, dim)
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
        usual = _on_a_cpu if cache.keys.device.type == "cpu" else _on_a_gpu
        self.attention = batch_invariant.attention if invariant else usual
        self.cache, self.slots, self.position_ids = cache, slots, position_ids
        self.length = length
        self.bias = cache.bias(position_ids[:, None], length)

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attend`."""
        cache = self.cache
        cache.write(layer, self.slots, self.position_ids, keys, values)
        past_keys = cache.keys[layer, : len(keys), :, : self.length]  # (rows, kv_heads, time, dim)
        past_values = cache.values[layer, : len(keys), :, : self.length]
        grouped = queries.view(len(keys), keys.shape[1], -1, queries.shape[2])
        return self.attention(grouped, past_keys, past_values, self.bias).flatten(1, 2)


def _on_a_cpu(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attention of few queries, for which the fused kernel takes a third longer."""
    scores = torch.matmul(queries * queries.shape[3] ** -0.5, keys.transpose(2, 3))
    return torch.matmul(scores.add_(bias).softmax(-1), values)


def _on_a_gpu(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """The same with scores in fp32; at 16,000 tokens of context the fused kernel takes six times
    as long, because it does not divide a sequence among multiprocessors.
    """
    q, k = queries.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2)
    fp32 = q.dtype == torch.float32
    scores = torch.bmm(q, k) if fp32 else torch.bmm(q, k, out_dtype=torch.float32)
    scores = scores.view(*queries.shape[:3], -1)
    weights = torch.add(bias, scores, alpha=queries.shape[3] ** -0.5).softmax(-1)
    return torch.matmul(weights.to(values.dtype), values)

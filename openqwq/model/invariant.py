"""Arithmetic in which a token's values do not depend, by a bit, on what else is in the batch.

Ordinary kernels choose their blocks, and so the order of their sums, by the shape of the batch.
Here every product is a call of one fixed shape, a tile of rows filled up with zeros; attention
reads keys in tiles counted from position 0 and adds the tiles up in order, those out of sight as
exact zeros; and functions of single elements see whole vectors only, because a kernel rounds what
is left over otherwise.

What remains to the kernels is that one product gives the same bits for any number of threads and
for a row wherever it stands in the tile. MKL keeps neither on Intel processors, so on x86 products
are oneDNN's, whose threads share out the outputs and, of a long product only, the inputs: longer
ones are cut. On Arm oneDNN keeps neither and PyTorch's own BLAS, OpenBLAS, does.
`require_exact_kernels` tries it on the machine at hand.

The idea is that of "Defeating Nondeterminism in LLM Inference" (Thinking Machines, 2025). fp32 on
the CPU.
"""

import platform
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.types import OpenQwQError

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
ROWS = 32  # of a product
INPUTS = 1024  # of a product: oneDNN may divide the sum over more among its threads
PAIRS, QUERIES, KEYS = 8, 16, 64  # (sequence, head) pairs, queries and keys in attention's tile
ELEMENTS = 2**14  # of an element-wise call: whole vectors, and too few to be split among threads
VECTOR = 64  # elements; a multiple of every vector's length


def elementwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function`, which treats every element alone, of `x`, whatever its shape."""
    flat = _fill(x.flatten(), 0, VECTOR)
    parts = [function(part) for part in torch.split(flat, ELEMENTS)]
    return torch.cat(parts)[: x.numel()].view_as(x)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ: (tokens, inputs) and (outputs, inputs) to (tokens, outputs)."""
    rows = _fill(x, 0, ROWS)
    output = x.new_empty(len(rows), len(weight))
    weights = [part.contiguous() for part in torch.split(weight, INPUTS, 1)]
    for tile, target in zip(torch.split(rows, ROWS), torch.split(output, ROWS), strict=True):
        tiles = [part.contiguous() for part in torch.split(tile, INPUTS, 1)]
        target.copy_(exact_product(tiles[0], weights[0]))
        for inputs, part in zip(tiles[1:], weights[1:], strict=True):
            target.add_(exact_product(inputs, part))
    return output[: len(x)]


def exact_product(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ by one call of the library that treats all rows of a tile alike."""
    return onednn_product(x, weight) if IS_X86 else torch.mm(x, weight.t())


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b by one call of oneDNN: (tokens, inputs) to (tokens, outputs)."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return output


def require_exact_kernels(weights: Iterable[Tensor], head_dim: int) -> None:
    """Try on this CPU what the module leaves to the kernels, once for each shape of weight.

    `weights` are (outputs, inputs). A tile of equal rows must give equal rows, and one thread the
    bits of as many as PyTorch uses now. Raises OpenQwQError where they do not.
    """
    generator = torch.Generator().manual_seed(0)
    for (outputs, inputs), weight in {weight.shape: weight.detach() for weight in weights}.items():
        rows = torch.randn(1, inputs, generator=generator).expand(ROWS, -1)
        _require_exact(f"a product of {inputs} by {outputs}", partial(product, rows, weight))
    query = torch.randn(head_dim, generator=generator)
    pair = torch.randn(1, KEYS, head_dim, generator=generator)
    queries, keys = query.expand(PAIRS, QUERIES, -1).contiguous(), pair.repeat(PAIRS, 1, 1)
    unseen = queries.new_zeros(PAIRS, QUERIES, KEYS)
    name = f"attention of heads of {head_dim}"
    _require_exact(name, lambda: _attend(queries, unseen, keys, keys).flatten(0, 1))


def _require_exact(name: str, rows: Callable[[], Tensor]) -> None:
    """Raise OpenQwQError unless all of `rows()` are equal, and the same with one thread."""
    threads, found = torch.get_num_threads(), rows()
    torch.set_num_threads(1)
    alone = rows()
    torch.set_num_threads(threads)
    if torch.equal(found, found[:1].expand_as(found)) and torch.equal(found, alone):
        return
    reason = f"is not the same at every place of a tile, or not with 1 and {threads} threads"
    raise OpenQwQError(
        f"deterministic mode: on this CPU ({torch.backends.cpu.get_cpu_capability()}) {name} "
        f"{reason}; run with deterministic = false, and please report the CPU"
    )


def attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention, (rows, heads, queries, head_dim) as are the queries.

    Keys and values are (rows, kv_heads, time, head_dim); a key must stand at the place in time that
    is its position in its sequence. `bias` (rows, 1, queries or 1, time) is 0 where a query sees a
    key and -inf elsewhere; None: query i sees keys 0 to i.
    """
    rows, heads, count, head_dim = queries.shape
    kv_heads, time = keys.shape[1:3]
    if bias is None:
        bias = queries.new_full((count, time), float("-inf")).triu(1).expand(rows, 1, -1, -1)
    share = heads // kv_heads
    bias = bias.expand(-1, kv_heads, count, -1).repeat(1, 1, share, 1)
    folded = (queries * head_dim**-0.5).reshape(rows, kv_heads, share * count, head_dim)
    folded, keys, values, bias = (
        _fill(x.flatten(0, 1), 0, PAIRS) for x in (folded, keys, values, bias)
    )
    folded, bias = (_fill(x, 1, QUERIES) for x in (folded, bias))
    keys, values = (_fill(x, 1, KEYS) for x in (keys, values))
    bias = _fill(bias, 2, KEYS, float("-inf"))
    mixed = []
    for q, b, k, v in zip(
        *(torch.split(x, PAIRS) for x in (folded, bias, keys, values)), strict=True
    ):
        tiles = zip(torch.split(q, QUERIES, 1), torch.split(b, QUERIES, 1), strict=True)
        mixed.append(torch.cat([_attend(*tile, k, v) for tile in tiles], dim=1))
    return torch.cat(mixed)[: rows * kv_heads, : share * count].reshape(queries.shape)


def _attend(queries: Tensor, bias: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Of one tile of queries, (PAIRS, QUERIES, head_dim), over all of time."""
    queries = queries.contiguous()
    scores = [
        torch.bmm(queries, tile.contiguous().transpose(1, 2)) + unseen
        for tile, unseen in zip(torch.split(keys, KEYS, 1), torch.split(bias, KEYS, 2), strict=True)
    ]
    # The greatest is exact in any order; as softmax is the same for any shift it has no gradient.
    most = torch.stack([tile.detach().amax(2, keepdim=True) for tile in scores]).amax(0)
    total = mixed = torch.zeros_like(queries[:, :, :1])
    for tile, value in zip(scores, torch.split(values, KEYS, 1), strict=True):
        weights = (tile - most).exp()
        total = total + weights.sum(2, keepdim=True)
        mixed = mixed + torch.bmm(weights, value.contiguous())
    return mixed / total


def _fill(x: Tensor, dimension: int, multiple: int, value: float = 0.0) -> Tensor:
    """`x` with `value` after its end, so that the dimension is a multiple of `multiple`."""
    missing = -x.shape[dimension] % multiple
    return F.pad(x, (0, 0) * (x.dim() - 1 - dimension) + (0, missing), value=value)

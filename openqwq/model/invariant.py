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

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.types import OpenQwQError

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
ROWS = 32  # of a product
INPUTS = 1024  # of a product: oneDNN may divide the sum over more among its threads
PAIRS = 8  # (sequence, key-value head) pairs in a tile of attention
QUERIES = 16  # in a tile of attention
KEYS = 64  # in a tile of attention
# of an element-wise call: whole vectors, and too few to be split among threads
ELEMENTS = 2**14
VECTOR = 64  # elements; a multiple of every vector's length


def elementwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function`, which treats every element alone, of `x`, whatever its shape."""
    flat = _fill(x.flatten(), 0, VECTOR)
    parts = []
    for part in torch.split(flat, ELEMENTS):
        parts.append(function(part))
    return torch.cat(parts)[: x.numel()].view_as(x)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ: (tokens, inputs) and (outputs, inputs) to (tokens, outputs)."""
    rows = _fill(x, 0, ROWS)
    output = x.new_empty(len(rows), len(weight))
    weights = _pieces(weight)
    row_tiles = torch.split(rows, ROWS)
    output_tiles = torch.split(output, ROWS)
    for row_tile, output_tile in zip(row_tiles, output_tiles, strict=True):
        pieces = _pieces(row_tile)
        output_tile.copy_(exact_product(pieces[0], weights[0]))
        for piece, own_weight in zip(pieces[1:], weights[1:], strict=True):
            output_tile.add_(exact_product(piece, own_weight))
    return output[: len(x)]


def _pieces(matrix: Tensor) -> list[Tensor]:
    """A matrix cut into runs of INPUTS columns."""
    pieces = torch.split(matrix, INPUTS, dim=1)
    return [piece.contiguous() for piece in pieces]


def exact_product(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ by one call of the library that treats all rows of a tile alike."""
    if IS_X86:
        return onednn_product(x, weight)
    return torch.mm(x, weight.t())


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b by one call of oneDNN: (tokens, inputs) to (tokens, outputs)."""
    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return output


def require_exact_kernels(weights: Iterable[Tensor], head_dim: int) -> None:
    """Try on this CPU what the module leaves to the kernels, once for each shape of weight.

    `weights` are (outputs, inputs). A tile of equal rows must give equal rows, and one thread the
    bits of as many as PyTorch uses now. Raises OpenQwQError where they do not.
    """
    by_shape: dict[torch.Size, Tensor] = {}
    for weight in weights:
        by_shape[weight.shape] = weight.detach()

    generator = torch.Generator().manual_seed(0)
    for weight in by_shape.values():
        outputs, inputs = weight.shape
        rows = torch.randn(1, inputs, generator=generator).expand(ROWS, -1)
        name = f"a product of {inputs} by {outputs}"
        _require_exact(name, product, rows, weight)

    query = torch.randn(head_dim, generator=generator)
    queries = query.expand(PAIRS, QUERIES, -1).contiguous()
    pair = torch.randn(1, KEYS, head_dim, generator=generator)
    keys = pair.repeat(PAIRS, 1, 1)
    _require_exact(f"attention of heads of {head_dim}", _attend_all, queries, keys)


def _attend_all(queries: Tensor, keys: Tensor) -> Tensor:
    """One tile of attention in which every query sees every key, which is its own value."""
    bias = queries.new_zeros(PAIRS, QUERIES, KEYS)
    return _attend_tile(queries, bias, keys, keys).flatten(0, 1)


def _require_exact(
    name: str, compute: Callable[[Tensor, Tensor], Tensor], x: Tensor, other: Tensor
) -> None:
    """Raise OpenQwQError unless all computed rows are equal, and the same with one thread."""
    threads = torch.get_num_threads()
    found = compute(x, other)
    torch.set_num_threads(1)
    alone = compute(x, other)
    torch.set_num_threads(threads)

    first = found[:1].expand_as(found)
    if torch.equal(found, first) and torch.equal(found, alone):
        return
    cpu = torch.backends.cpu.get_cpu_capability()
    raise OpenQwQError(
        f"deterministic mode: on this CPU ({cpu}) {name} is not the same at every place of a tile, "
        f"or not with 1 and {threads} threads; run with deterministic = false, and please report "
        "the CPU"
    )


def attention(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Softmax attention, (rows, heads, queries, head_dim) as are the queries.

    Keys and values are (rows, kv_heads, time, head_dim); a key must stand at the place in time that
    is its position in its sequence. `bias` (rows, 1, queries or 1, time) is 0 where a query sees a
    key and -inf elsewhere; None: query i sees keys 0 to i.
    """
    rows, heads, count, head_dim = queries.shape
    kv_heads = keys.shape[1]
    time = keys.shape[2]
    share = heads // kv_heads
    pairs = rows * kv_heads
    if bias is None:
        unseen = queries.new_full((count, time), float("-inf"))
        bias = unseen.triu(1).expand(rows, 1, -1, -1)

    # The heads that share keys become queries of one pair.
    scaled = queries * head_dim**-0.5
    folded = scaled.reshape(pairs, share * count, head_dim)
    of_key_heads = bias.expand(-1, kv_heads, count, -1)
    of_heads = of_key_heads.repeat(1, 1, share, 1)
    bias = of_heads.flatten(0, 1)  # (pairs, share * count, time)

    folded = _fill(folded, 0, PAIRS)
    folded = _fill(folded, 1, QUERIES)
    bias = _fill(bias, 0, PAIRS)
    bias = _fill(bias, 1, QUERIES)
    bias = _fill(bias, 2, KEYS, float("-inf"))
    keys = _fill(keys.flatten(0, 1), 0, PAIRS)
    keys = _fill(keys, 1, KEYS)
    values = _fill(values.flatten(0, 1), 0, PAIRS)
    values = _fill(values, 1, KEYS)

    mixed = []
    all_tiles = [torch.split(x, PAIRS) for x in (folded, bias, keys, values)]
    for own_queries, own_bias, own_keys, own_values in zip(*all_tiles, strict=True):
        mixed.append(_attend(own_queries, own_bias, own_keys, own_values))
    together = torch.cat(mixed)
    return together[:pairs, : share * count].reshape(queries.shape)


def _attend(queries: Tensor, bias: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Of PAIRS pairs: (PAIRS, queries, head_dim) as are the queries."""
    query_tiles = torch.split(queries, QUERIES, dim=1)
    bias_tiles = torch.split(bias, QUERIES, dim=1)
    mixed = []
    for query_tile, bias_tile in zip(query_tiles, bias_tiles, strict=True):
        mixed.append(_attend_tile(query_tile, bias_tile, keys, values))
    return torch.cat(mixed, dim=1)


def _attend_tile(queries: Tensor, bias: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Of one tile of queries, (PAIRS, QUERIES, head_dim), over all of time."""
    queries = queries.contiguous()
    key_tiles = torch.split(keys, KEYS, dim=1)
    value_tiles = torch.split(values, KEYS, dim=1)
    bias_tiles = torch.split(bias, KEYS, dim=2)

    scores = []
    greatest = []
    for key_tile, bias_tile in zip(key_tiles, bias_tiles, strict=True):
        score = torch.bmm(queries, key_tile.contiguous().transpose(1, 2)) + bias_tile
        scores.append(score)
        greatest.append(score.detach().amax(2, keepdim=True))
    # The greatest is exact in any order; as softmax is the same for any shift it has no gradient.
    most = torch.stack(greatest).amax(0)

    zero = torch.zeros_like(queries[:, :, :1])
    total = zero
    mixed = zero
    for score, value_tile in zip(scores, value_tiles, strict=True):
        weights = (score - most).exp()
        total = total + weights.sum(2, keepdim=True)
        mixed = mixed + torch.bmm(weights, value_tile.contiguous())
    return mixed / total


def _fill(x: Tensor, dimension: int, multiple: int, value: float = 0.0) -> Tensor:
    """`x` with `value` after its end, so that the dimension is a multiple of `multiple`."""
    missing = -x.shape[dimension] % multiple
    later_dimensions = x.dim() - 1 - dimension
    padding = (0, 0) * later_dimensions + (0, missing)
    return F.pad(x, padding, value=value)

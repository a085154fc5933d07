"""A linear layer whose products run in fp32 or bf16, and which may carry a low-rank adapter.

PyTorch gives fp32 products on a CPU to MKL, which on AMD processors loses up to 40% where a size is
not a multiple of 16; oneDNN does not, and is a few percent faster elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openqwq.model import invariant

Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(eq=False)
class LowRank:
    """One layer's adapter: it adds `scale` · B (A x) to the layer's output (arXiv 2106.09685)."""

    a: nn.Parameter  # (rank, in_features)
    b: nn.Parameter  # (out_features, rank)
    scale: float
    active: bool = True

    def added_to(self, output: Tensor, x: Tensor, invariant: bool = False) -> Tensor:
        """`output` (tokens, out_features) of the layer for `x` (tokens, in_features), adapted.

        `output` itself is changed where that is possible.
        """
        if invariant:
            narrow = invariant_linear(x, self.a)
            return output + self.scale * invariant_linear(narrow, self.b)
        narrow = product(x.to(self.a.dtype), self.a)
        if output.dtype == self.b.dtype:
            return output.addmm_(narrow, self.b.t(), alpha=self.scale)
        return output + (self.scale * product(narrow, self.b)).to(output.dtype)


class Linear(nn.Linear):
    """`nn.Linear` for inputs (tokens, in_features).

    `product_dtype` is what the layer multiplies in, forward and backward, where that is not the
    weight's own type; inputs, outputs and gradients keep theirs.
    """

    invariant = False  # see `Qwen2.make_invariant`
    product_dtype: torch.dtype | None = None
    # its parameters are not the model's: a checkpoint has none
    adapter: LowRank | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, in_features) to (tokens, out_features)."""
        output = self.base(x)
        if self.adapter is not None and self.adapter.active:
            output = self.adapter.added_to(output, x, self.invariant)
        return output

    def base(self, x: Tensor) -> Tensor:
        """`forward` without the adapter."""
        if self.invariant:
            return invariant_linear(x, self.weight, self.bias)
        return product(x, self.weight, self.bias, self.product_dtype)


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """x Wᵀ + b with its gradients, multiplied in `dtype` (None: the weight's); of `x`'s dtype.

    A weight that needs no gradient keeps no `x` for the backward pass.
    """
    dtype = dtype or weight.dtype
    mixed = dtype != weight.dtype or dtype != x.dtype
    if mixed or (_onednn_serves(x) and _onednn_serves(weight)):
        output: Tensor = _Product.apply(x, weight, bias, _multiply, dtype)  # type: ignore[no-untyped-call]
        return output
    return F.linear(x, weight, bias)


def invariant_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b whose every row is the same in any company (`invariant.py`), with its gradients."""
    output: Tensor = _Product.apply(x, weight, bias, _multiply_in_tiles, weight.dtype)  # type: ignore[no-untyped-call]
    return output


def _onednn_serves(x: Tensor) -> bool:
    return (
        type(x) in (Tensor, nn.Parameter)  # a sharded tensor has products of its own
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


class _Product(torch.autograd.Function):
    """x Wᵀ + b by `multiply`, in `dtype`, with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        multiply: Multiply,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.dtype = dtype
        ctx.input_dtype = x.dtype
        trains = ctx.needs_input_grad[1]
        ctx.save_for_backward(x if trains else None, weight)
        own_bias = None if bias is None else bias.to(dtype)
        return multiply(x.to(dtype), weight.to(dtype), own_bias).to(x.dtype)

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias, _, _ = ctx.needs_input_grad
        to_bias = gradients[0].sum(0) if needs_bias else None
        gradient = gradients[0].to(ctx.dtype)
        to_input = to_weight = None
        if needs_input:
            to_input = _multiply(gradient, weight.to(ctx.dtype).t()).to(ctx.input_dtype)
        if needs_weight:
            to_weight = (gradient.t() @ x.to(ctx.dtype)).to(weight.dtype)
        return to_input, to_weight, to_bias, None, None


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not _onednn_serves(x):
        return F.linear(x, weight, bias)
    return invariant.onednn_product(x, weight, bias)


def _multiply_in_tiles(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    output = invariant.product(x, weight)
    return output if bias is None else output + bias

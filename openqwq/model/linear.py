"""A linear layer that trains on oneDNN's kernels where they are faster: fp32 on a CPU.

PyTorch gives fp32 products to MKL, which on AMD processors loses up to 40% where a size is no
multiple of 16; oneDNN does not, and is a few percent faster elsewhere.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openqwq.model import invariant


class Linear(nn.Linear):
    """`nn.Linear` for inputs (tokens, in_features)."""

    invariant = False  # see `Qwen2.make_invariant`

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, in_features) to (tokens, out_features)."""
        if self.invariant:
            return invariant_linear(x, self.weight, self.bias)
        if torch.is_grad_enabled() and _onednn_serves(x) and _onednn_serves(self.weight):
            output: Tensor = _Product.apply(x, self.weight, self.bias, invariant.onednn_product)  # type: ignore[no-untyped-call]
            return output
        return F.linear(x, self.weight, self.bias)


def invariant_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b whose every row is the same in any company (`invariant.py`), with its gradients."""
    output: Tensor = _Product.apply(x, weight, bias, _multiply_in_tiles)  # type: ignore[no-untyped-call]
    return output


def _onednn_serves(x: Tensor) -> bool:
    return (
        type(x) in (Tensor, nn.Parameter)  # a sharded tensor has products of its own
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


class _Product(torch.autograd.Function):
    """x Wᵀ + b by `multiply`, with its gradients by oneDNN."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        multiply: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        to_input = (
            invariant.onednn_product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        )
        to_bias = gradient.sum(0) if ctx.has_bias else None
        return to_input, gradient.t() @ x, to_bias, None


def _multiply_in_tiles(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    output = invariant.product(x, weight)
    return output if bias is None else output + bias

"""A linear layer that trains on oneDNN's kernels where they are faster: fp32 on a CPU.

PyTorch gives fp32 products to MKL, which on AMD processors loses up to 40% where a size is no
multiple of 16; oneDNN does not, and is a few percent faster elsewhere.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` for inputs (tokens, in_features)."""

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, in_features) to (tokens, out_features)."""
        if torch.is_grad_enabled() and _onednn_serves(x) and _onednn_serves(self.weight):
            output: Tensor = _Product.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return output
        return F.linear(x, self.weight, self.bias)


def _onednn_serves(x: Tensor) -> bool:
    return (
        type(x) in (Tensor, nn.Parameter)  # a sharded tensor has products of its own
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


class _Product(torch.autograd.Function):
    """x Wᵀ + b by oneDNN, with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        to_input = _multiply(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        to_bias = gradient.sum(0) if ctx.has_bias else None
        return to_input, gradient.t() @ x, to_bias


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product

"""Muon for weight matrices and AdamW for everything else, with one learning-rate schedule."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from openqwq.config import OptimiserConfig

# Quintic Newton-Schulz coefficients that pull every singular value into about [0.7, 1.2].
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly, of a stack (count, rows, columns).

    Newton-Schulz iteration of Muon (Jordan et al. 2024); fp32, which is what CPUs multiply fast.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    result: Tensor = x.mT if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are orthogonalised (Jordan et al. 2024), Nesterov style.

    The update is scaled by 0.2 sqrt(max(rows, columns)) to have AdamW's usual size (Moonlight,
    arXiv 2502.16982), so one learning rate serves both. torch.optim.Muon is the reference in
    tests; it multiplies in bf16, which CPUs without that instruction do some 20 times slower.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; matrices of one shape go together."""
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                scale = 0.2 * max(shape) ** 0.5
                updates = orthogonalise(self._directions(parameters, group))
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * scale)

    def _directions(self, parameters: list[Tensor], group: dict[str, Any]) -> Tensor:
        """(count, rows, columns), one for each parameter."""
        return torch.stack([self._direction(parameter, group) for parameter in parameters])

    def _direction(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        momentum: Tensor = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        return parameter.grad.lerp(momentum, group["momentum"])


class HasParameters(Protocol):
    """A model or an adapter."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained, by name."""
        ...


def build_optimisers(
    model: HasParameters,
    name: str,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    """`adamw`, or `muon` for the layers' matrices with AdamW for embeddings, head and vectors."""
    layers: list[Tensor] = []
    others: list[Tensor] = []
    for parameter_name, parameter in model.named_parameters():
        is_layer_matrix = parameter.dim() == 2 and ".layers." in parameter_name
        if name == "muon" and is_layer_matrix:
            layers.append(parameter)
        else:
            others.append(parameter)

    adamw = torch.optim.AdamW(others, lr, betas=betas, weight_decay=weight_decay)
    optimisers: list[torch.optim.Optimizer] = [adamw]
    if layers:
        optimisers.append(Muon(layers, lr, momentum=0.95, weight_decay=weight_decay))
    return optimisers


def rate_at(config: OptimiserConfig, step: int, steps: int) -> float:
    """Linear warm-up, constant, then linear decay over the last `decay_share` of the steps."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay_steps = config.decay_share * steps
    left = min(1.0, (steps - step) / decay_steps) if decay_steps else 1.0
    return config.lr * warm * max(left, config.final_lr_share)

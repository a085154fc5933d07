"""Several low-rank adapters over one base, side by side: a product serves rows of all of them.

For each matrix the adapters' A are stacked and their B laid side by side. A mask, (tokens, ranks),
leaves each token the columns of its own adapter. No shape depends on who asks for which, so that a
CUDA graph serves any mixture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.model.linear import LowRank
from openqwq.types import OpenQwQError

NO_ADAPTER = -1


@dataclass(frozen=True)
class Stack:
    """The adapters of one matrix, which may be several projections end to end."""

    a: Tensor  # (projections · ranks, inputs) fp32
    b: list[Tensor]  # for each projection (outputs, ranks) fp32, scales folded in

    def add_to(self, output: Tensor, x: Tensor, mask: Tensor) -> None:
        """Add what the adapters do to `x` (tokens, inputs) to `output` (tokens, outputs)."""
        narrow = F.linear(x.to(self.a.dtype), self.a)
        by_projection = narrow.view(len(x), len(self.b), -1)  # (tokens, projections, ranks)
        own = by_projection * mask[:, None]

        first = 0
        for projection, b in enumerate(self.b):
            end = first + len(b)
            part = output[:, first:end]
            if output.dtype == b.dtype:
                part.addmm_(own[:, projection], b.t())
            else:
                part.add_(F.linear(own[:, projection], b))
            first = end


class AdapterBank:
    """The adapters that an engine serves, numbered in the order in which they came.

    `projections` names what each matrix of the model holds, with its outputs and inputs.
    """

    def __init__(
        self, projections: Sequence[Mapping[str, torch.Size]], device: torch.device
    ) -> None:
        self.projections = projections
        self.device = device
        self.numbers: dict[str, int] = {}
        self.default = NO_ADAPTER  # for requests that name none
        self.stacks: list[Stack | None] = [None] * len(projections)
        self._ranks: list[int] = []
        self._owners = torch.empty(0, dtype=torch.long, device=device)  # of each column

    def number_of(self, name: str) -> int:
        """The number of a request's adapter; raises OpenQwQError for a name that nobody has."""
        if not name:
            return self.default
        if name not in self.numbers:
            known = ", ".join(filter(None, self.numbers)) or "none"
            raise OpenQwQError(f"the adapter {name!r} is unknown: the engine has {known}")
        return self.numbers[name]

    def add(self, name: str, layers: Mapping[str, LowRank], default: bool = False) -> int:
        """Make room for one more adapter and take its weights; its number.

        The adapter "" is the model's own, and always the default. Raises OpenQwQError for a name
        that is taken.
        """
        if name in self.numbers:
            raise OpenQwQError(f"two adapters have the name {name!r}: give each its own")
        number = len(self.numbers)
        self.numbers[name] = number
        if default or not name:
            self.default = number

        self._ranks.append(max(layer.a.shape[0] for layer in layers.values()))
        ranks = torch.tensor(self._ranks)
        owners = torch.arange(len(ranks)).repeat_interleave(ranks)
        self._owners = owners.to(self.device)
        self.stacks = [self._grown(i, layers) for i in range(len(self.projections))]
        self.load(number, layers)
        return number

    def load(self, number: int, layers: Mapping[str, LowRank]) -> None:
        """Replace an adapter's weights in place, where CUDA graphs know them."""
        first = sum(self._ranks[:number])
        total = sum(self._ranks)
        for held, stack in zip(self.projections, self.stacks, strict=True):
            for projection, name in enumerate(held):
                if stack is None or name not in layers:
                    continue
                layer = layers[name]
                rank = layer.a.shape[0]
                row = projection * total + first
                own_a = stack.a[row : row + rank]
                own_b = stack.b[projection][:, first : first + rank]
                own_a.copy_(layer.a)
                own_b.copy_(layer.scale * layer.b)

    def mask(self, numbers: Tensor) -> Tensor | None:
        """1 where a column is of the adapter that a token wants, `numbers` (tokens,) long."""
        if not self.numbers:
            return None
        return (numbers[:, None] == self._owners).float()

    def _grown(self, index: int, layers: Mapping[str, LowRank]) -> Stack | None:
        """The stack of one matrix with zeros for the adapter that came last.

        None where neither it nor an older one touches the matrix.
        """
        held = self.projections[index]
        old = self.stacks[index]
        if old is None and not held.keys() & layers.keys():
            return None

        total = sum(self._ranks)
        shapes = list(held.values())  # (outputs, inputs), of equal inputs
        inputs = shapes[0][1]
        a = torch.zeros(len(shapes), total, inputs, device=self.device)
        b = [torch.zeros(shape[0], total, device=self.device) for shape in shapes]
        if old is not None:
            kept = total - self._ranks[-1]
            a[:, :kept] = old.a.view(len(shapes), kept, inputs)
            for new, before in zip(b, old.b, strict=True):
                new[:, :kept] = before
        return Stack(a.flatten(0, 1), b)

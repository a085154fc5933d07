"""The engine's form of a model in deterministic mode: the learner's own code and layout."""

from collections.abc import Iterable, Mapping
from copy import deepcopy

import torch
from torch import Tensor

from openqwq.engine.adapters import NO_ADAPTER, AdapterBank
from openqwq.engine.packed import all_of
from openqwq.model import lora
from openqwq.model.qwen2 import Attend, Qwen2


class PlainModel:
    """A `Qwen2` to sample from as it is: in deterministic mode the learner's code is the only one.

    `dtype`, `device`, `load`, `forward` and `logits` as in `PackedModel`. Of adapters it knows the
    one that hangs on the model, which every token then uses.
    """

    dtype = torch.float32

    def __init__(self, model: Qwen2) -> None:
        self.config = model.config
        self.copy = deepcopy(model)
        self.device = model.device
        self.shapes = {name: p.shape for name, p in self.copy.named_parameters()}
        self.own_layers = lora.attached(self.copy)
        self.adapters = AdapterBank([], model.device)
        self.logits = self.copy.logits

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        attend: Attend,
        adapters: Tensor | None = None,
    ) -> Tensor:
        """See `Qwen2.forward`."""
        hidden: Tensor = self.copy(token_ids, position_ids, attend)
        return hidden

    def load(self, named_params: Iterable[tuple[str, Tensor]]) -> None:
        """See `PackedModel.load`."""
        self.take(all_of(self.shapes.keys(), named_params, self.config).items())

    def take(self, named_params: Iterable[tuple[str, Tensor]]) -> None:
        """See `PackedModel.take`."""
        own = dict(self.copy.named_parameters())
        with torch.no_grad():
            for name, weight in named_params:
                if name in own:  # a tied head is the embedding
                    own[name].copy_(weight)

    def load_adapter(self, tensors: Mapping[str, Tensor]) -> int:
        """See `PackedModel.load_adapter`."""
        lora.copy_into(self.own_layers, tensors)
        return NO_ADAPTER

"""The learner over many ranks: FSDP2 shards its weights, every rank takes a share of the batches.

The micro-batches and their token count are the same on every rank, so the step's gradient is that
of one process: the sum over all micro-batches, on whichever rank they were computed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from openqwq.config import OptimiserConfig
from openqwq.model.qwen2 import Qwen2
from openqwq.train.learner import Learner, Objective
from openqwq.train.loss import Metrics
from openqwq.train.packing import MicroBatch
from openqwq.types import OpenQwQError


@dataclass(frozen=True)
class Sharding:
    """How a model is laid over its ranks.

    `precision` is that of the products; master weights, gradients and optimiser stay in fp32.
    `recompute` keeps only each layer's input for the backward pass; `offload` keeps shards in host
    memory and so needs an accelerator.
    """

    precision: torch.dtype = torch.float32
    recompute: bool = False
    offload: bool = False


class ShardedLearner(Learner):
    """A `Learner` on one rank of `mesh` (one dimension); every rank calls every method."""

    def __init__(
        self,
        model: Qwen2,
        config: OptimiserConfig,
        steps: int,
        mesh: DeviceMesh,
        sharding: Sharding | None = None,
    ) -> None:
        if config.name != "adamw":
            raise OpenQwQError(
                f"optimiser.name is {config.name!r}: shards of a matrix cannot be orthogonalised; "
                "choose adamw on a cluster"
            )
        shard(model, mesh, sharding or Sharding())
        super().__init__(model, config, steps)
        self.mesh, self.device = mesh, torch.device(mesh.device_type)  # offloaded weights too

    def train_step(self, batches: Sequence[MicroBatch], objective: Objective) -> dict[str, float]:
        """See `Learner.train_step`; `batches` are the whole step's, the same on every rank."""
        self.model.train()
        rank, world = self.mesh.get_local_rank(), self.mesh.size()
        tokens = float(sum(len(batch.targets) for batch in batches))
        own = batches[rank::world]
        # FSDP averages over the ranks; the loss is a sum, so each share counts `world` times.
        sums = [self.backward(batch, objective, tokens, float(world)) for batch in own]
        parts = [{name: value.cpu() for name, value in part.items()} for part in sums]
        for _ in range(-(-len(batches) // world) - len(own)):
            self.backward(batches[0], objective, tokens, 0.0)  # collectives need every rank
        gathered: list[list[Metrics]] = [[] for _ in range(world)]
        dist.all_gather_object(gathered, parts, group=self.mesh.get_group())
        return self.update([part for shared in gathered for part in shared])

    def clip_gradients(self) -> float:
        """See `Learner.clip_gradients`; the norm is that of the whole gradient."""
        parameters = self.model.parameters()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        assert isinstance(norm, DTensor)
        return float(norm.full_tensor())

    def named_params(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, whole, by its checkpoint name; one is gathered at a time."""
        for name, parameter in self.model.named_parameters():
            value = parameter.detach()
            assert isinstance(value, DTensor)
            yield name.replace("_checkpoint_wrapped_module.", ""), value.full_tensor()

    def save(self, directory: Path) -> None:
        """Write every rank's shards of weights and optimiser; readable at any world size."""
        model, optimisers = get_state_dict(self.model, self.optimisers)
        state = {"model": model, "optimisers": optimisers}
        save(state, checkpoint_id=directory, process_group=self.mesh.get_group())

    def restore(self, directory: Path, done: int) -> None:
        """Take over what `save` wrote, resharded to this world size."""
        model, optimisers = get_state_dict(self.model, self.optimisers)
        state: dict[str, Any] = {"model": model, "optimisers": optimisers}
        load(state, checkpoint_id=directory, process_group=self.mesh.get_group())
        set_state_dict(
            self.model,
            self.optimisers,
            model_state_dict=state["model"],
            optim_state_dict=state["optimisers"],
        )
        self.done = done


def shard(model: Qwen2, mesh: DeviceMesh, sharding: Sharding) -> None:
    """Shard every layer, then the rest (embedding, final norm, head), in place.

    The head stays whole after the forward pass, because the loss multiplies by it chunk by chunk.
    """
    if sharding.offload and mesh.device_type == "cpu":
        raise OpenQwQError("cluster.offload moves shards from an accelerator: there is none here")
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(sharding.precision, torch.float32),
        "offload_policy": CPUOffloadPolicy() if sharding.offload else OffloadPolicy(),
    }
    layers = model.model.layers
    for index, block in enumerate(layers):
        if sharding.recompute:
            block = checkpoint_wrapper(block)
            layers[index] = block
        fully_shard(block, **options)
    fully_shard(model, reshard_after_forward=False, **options)

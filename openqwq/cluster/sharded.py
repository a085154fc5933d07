"""The learner over many ranks: FSDP2 shards its weights, every rank takes a share of the batches.

The loss is divided by the token count of the whole step, so the step's gradient is that of one
process: the sum over all micro-batches, on whichever rank they were computed. An adapter is small:
every rank holds all of it, and only its frozen base is sharded.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
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

from openqwq.cluster.transfer import Manifest, manifest_of, rows_of
from openqwq.config import OptimiserConfig
from openqwq.model import lora
from openqwq.model.checkpoint import save_weights
from openqwq.model.lora import Adapter
from openqwq.model.precision import DTYPES, prepare
from openqwq.model.qwen2 import Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.learner import Learner, Objective
from openqwq.train.loss import Metrics
from openqwq.train.packing import MicroBatch
from openqwq.types import OpenQwQError, Products

ADAPTER_STATE = "adapter.pt"


@dataclass(frozen=True)
class Sharding:
    """How a model is laid over its ranks.

    Products are in `products`; master weights, gradients and optimiser stay in fp32, while a frozen
    base is stored in what it multiplies in.
    `recompute` keeps only each layer's input for the backward pass; `offload` keeps shards in host
    memory and so needs an accelerator.
    """

    products: Products = "fp32"
    recompute: bool = False
    offload: bool = False


@dataclass(frozen=True)
class Share:
    """One rank's part of a step.

    Every rank runs as many micro-batches, because each asks all for their shards. Where a rank has
    fewer, its last ones count nothing.
    """

    batches: list[MicroBatch]
    counted: int  # of them, from the first
    tokens: float  # of the loss, in the whole step


def deal(batches: Sequence[MicroBatch], ranks: int) -> list[Share]:
    """A step's micro-batches, dealt back and forth by length.

    So the ranks have about as many tokens each, and in every round micro-batches of like length,
    for which nobody waits long.
    """
    longest_first = sorted(batches, key=lambda batch: -len(batch.token_ids))
    dealt: list[list[MicroBatch]] = [[] for _ in range(ranks)]
    for index, batch in enumerate(longest_first):
        turn, place = divmod(index, ranks)
        rank = place if turn % 2 == 0 else ranks - 1 - place
        dealt[rank].append(batch)

    rounds = math.ceil(len(batches) / ranks)
    tokens = float(sum(len(batch.targets) for batch in batches))
    shares: list[Share] = []
    for own in dealt:
        company = [longest_first[-1]] * (rounds - len(own))
        shares.append(Share([*own, *company], len(own), tokens))
    return shares


class ShardedLearner(Learner):
    """A `Learner` on one rank of `mesh` (one dimension); every rank calls every method."""

    def __init__(
        self,
        model: Qwen2,
        config: OptimiserConfig,
        steps: int,
        mesh: DeviceMesh,
        sharding: Sharding | None = None,
        adapter: Adapter | None = None,
        temperature: float = 1.0,
    ) -> None:
        if config.name != "adamw":
            raise OpenQwQError(
                f"optimiser.name is {config.name!r}: shards of a matrix cannot be orthogonalised; "
                "choose adamw on a cluster"
            )
        shard(model, mesh, sharding or Sharding(), trained=adapter is None)
        if adapter is not None:
            for parameter in adapter.parameters():
                parameter.data = parameter.data.to(mesh.device_type)
        super().__init__(model, config, steps, adapter, temperature)
        self.mesh = mesh
        # where products are computed: weights may be offloaded
        self.device = torch.device(mesh.device_type)

    def train_step(
        self, batches: Sequence[MicroBatch], objective: Objective
    ) -> dict[str, float]:
        """See `Learner.train_step`; `batches` are the whole step's, the same on every rank."""
        shares = deal(batches, self.mesh.size())
        return self.train_share(shares[self.mesh.get_local_rank()], objective)

    def train_share(self, share: Share, objective: Objective) -> dict[str, float]:
        """`train_step` where every rank is given its own share alone."""
        self.model.train()
        # FSDP averages over the ranks; the loss is a sum, so each share counts `world` times.
        scale = float(self.mesh.size()) if self.adapter is None else 1.0
        parts: list[Metrics] = []
        for index, batch in enumerate(share.batches):
            counts = index < share.counted
            sums = self.backward(batch, objective, share.tokens, scale if counts else 0.0)
            if counts:
                parts.append({name: value.cpu() for name, value in sums.items()})

        gathered: list[list[Metrics]] = [[] for _ in range(self.mesh.size())]
        dist.all_gather_object(gathered, parts, group=self.mesh.get_group())
        everyones: list[Metrics] = []
        for shared in gathered:
            everyones += shared
        return self.update(everyones)

    def clip_gradients(self) -> float:
        """See `Learner.clip_gradients`; the norm is that of the whole gradient."""
        if self.adapter is not None:
            self._sum_gradients(self.adapter.parameters())
            return super().clip_gradients()
        parameters = self.model.parameters()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        assert isinstance(norm, DTensor)
        return float(norm.full_tensor())

    def _sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every rank the sum of all ranks' gradients, by one collective."""
        gradients: list[Tensor] = []
        for parameter in parameters:
            assert parameter.grad is not None
            gradients.append(parameter.grad)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, group=self.mesh.get_group())
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, total in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(total.view_as(gradient))

    def named_params(self) -> Iterator[tuple[str, Tensor]]:
        """All that is trained, whole, by its checkpoint name; one is gathered at a time."""
        for name, value in self._named_values():
            yield name, value.full_tensor() if isinstance(value, DTensor) else value

    def manifest(self, version: int, dtype: torch.dtype) -> Manifest:
        """What the ranks send together as `version`, its matrices in `dtype`."""
        return manifest_of(version, self.mesh.size(), self._named_values(), dtype)

    def held_rows(self) -> dict[str, Tensor]:
        """This rank's rows of all that is trained, by its checkpoint name."""
        rank = self.mesh.get_local_rank()
        ranks = self.mesh.size()
        held: dict[str, Tensor] = {}
        for name, value in self._named_values():
            if isinstance(value, DTensor):
                held[name] = value.to_local()
            else:
                held[name] = value[rows_of(len(value), ranks, rank)]
        return held

    def _named_values(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._trained():
            yield name.replace("_checkpoint_wrapped_module.", ""), parameter.detach()

    def write(self, directory: Path, tokenizer: Tokenizer) -> None:
        """See `PolicyLearner.write`; the first rank writes, and all gather one parameter a time."""
        is_first = self.mesh.get_local_rank() == 0
        if self.adapter is not None:
            if is_first:
                lora.save(self.adapter, directory)
            return
        config = self.model.config
        shards = dict(self._named_values())
        if is_first:
            save_weights(config, shards, self.named_params(), directory, tokenizer)
            return
        for _ in self.named_params():
            pass

    def save(self, directory: Path) -> None:
        """Write every rank's shards of weights and optimiser; readable at any world size.

        Of an adapter, which every rank holds, the first writes all.
        """
        if self.adapter is not None:
            if self.mesh.get_local_rank() == 0:
                directory.mkdir(parents=True)
                torch.save(self.state(), directory / ADAPTER_STATE)
            return
        model, optimisers = get_state_dict(self.model, self.optimisers)
        state = {"model": model, "optimisers": optimisers}
        save(state, checkpoint_id=directory, process_group=self.mesh.get_group())

    def restore(self, directory: Path, done: int) -> None:
        """Take over what `save` wrote, resharded to this world size."""
        if self.adapter is not None:
            self.load_state(torch.load(directory / ADAPTER_STATE, map_location=self.device))
            self.done = done
            return
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


def shard(model: Qwen2, mesh: DeviceMesh, sharding: Sharding, trained: bool) -> None:
    """Shard every layer, then the rest (embedding, final norm, head), in place.

    A layer takes the run's precision just before (see `precision.prepare`), so that of a model in
    a mapped file no more than one layer is in memory whole. The head stays whole after the forward
    pass, because the loss multiplies by it chunk by chunk.
    """
    if sharding.offload and mesh.device_type == "cpu":
        raise OpenQwQError(
            "cluster.offload moves shards from an accelerator: there is none here"
        )
    products = MixedPrecisionPolicy()
    if model.lm_head.weight.requires_grad:
        products = MixedPrecisionPolicy(DTYPES[sharding.products], torch.float32)
    options: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": products,
        "offload_policy": CPUOffloadPolicy() if sharding.offload else OffloadPolicy(),
    }
    layers = model.model.layers
    for index, block in enumerate(layers):
        if sharding.recompute:
            block = checkpoint_wrapper(block)
            layers[index] = block
        prepare(block, sharding.products, trained)
        fully_shard(block, **options)
    for end in (model.model.embed_tokens, model.model.norm, model.lm_head):
        prepare(end, sharding.products, trained)
    fully_shard(model, reshard_after_forward=False, **options)

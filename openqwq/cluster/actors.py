"""What runs in Ray's processes: one rank of the learner, a sampler, a pool of verifiers.

They are plain classes, made actors where they are placed.
"""

import asyncio
import platform
import shutil
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

import openqwq
from openqwq.cluster.meeting import Meeting, keep_store
from openqwq.cluster.node import node_address
from openqwq.cluster.rank_reference import RankReference
from openqwq.cluster.saved_policy import SavedPolicy
from openqwq.cluster.sharded import ShardedLearner, Sharding, Share
from openqwq.cluster.transfer import Manifest, Receiver, Sender
from openqwq.config import Config, RlStage
from openqwq.data.user_code import shipped_to
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.engine.update import WeightUpdate
from openqwq.model.lora import Adapter
from openqwq.model.precision import DTYPES
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.judges import open_bench
from openqwq.train.learner import Objective
from openqwq.train.objective import Frozen
from openqwq.train.packing import MicroBatch
from openqwq.train.placement import SamplingStage
from openqwq.train.policies import AdapterAsItWas
from openqwq.types import Completion, SamplingParams, Score, Task

SampleRequest = tuple[list[int], SamplingParams, int]  # prompt ids, parameters, n


def reserved_device() -> torch.device:
    """The GPU that Ray reserved for this actor, else the CPU: Ray shows all GPUs to the others."""
    reserved = torch.cuda.is_available() and ray.get_gpu_ids()
    return torch.device("cuda" if reserved else "cpu")


def software() -> dict[str, str]:
    """What must be the same wherever a part of a run executes."""
    return {
        "openqwq": openqwq.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


class LearnerRank:
    """One rank of the sharded learner; the driver calls every rank alike."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank = rank
        self.world = world
        self.learner: ShardedLearner | None = None
        self._products = torch.float32
        self._store: Any = None  # where samplers meet this rank, the first
        self._sender: Sender | None = None

    def software(self) -> dict[str, str]:
        """See `software`."""
        return software()

    def address(self) -> str:
        """A free address that other nodes reach, for rank 0 to be met at."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        return f"tcp://{node_address()}:{port}"

    def join(
        self,
        address: str,
        policy: SavedPolicy,
        frozen: SavedPolicy | None,
        stage: SamplingStage,
        sharding: Sharding,
        threads: int,
    ) -> None:
        """Meet the other ranks and shard `policy`, to train it as `stage` says.

        `frozen` is what it is compared with, where that is another than it begins with.
        """
        torch.set_num_threads(threads)
        device = reserved_device().type
        # offloaded shards live on the CPU
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, address, rank=self.rank, world_size=self.world)
        mesh = init_device_mesh(device, (self.world,))
        model, adapter = policy.load()
        self.learner = ShardedLearner(
            model, stage.optimiser, stage.steps, mesh, sharding, adapter, stage.temperature
        )
        if adapter is None:
            self._products = DTYPES[policy.products]
        if frozen is not None:
            RankReference.held = self._frozen(frozen, stage, sharding)
        elif isinstance(stage, RlStage) and stage.kl_coefficient:
            RankReference.held = self._start(policy, stage, sharding, adapter)

    def _frozen(
        self, policy: SavedPolicy, stage: SamplingStage, sharding: Sharding
    ) -> ShardedLearner:
        """A policy that is not trained, in shards."""
        assert self.learner is not None
        model, adapter = policy.load()
        model.requires_grad_(False)
        mesh = self.learner.mesh
        return ShardedLearner(
            model, stage.optimiser, 0, mesh, sharding, adapter, stage.temperature
        )

    def _start(
        self,
        policy: SavedPolicy,
        stage: RlStage,
        sharding: Sharding,
        adapter: Adapter | None,
    ) -> Frozen:
        """The policy as the stage began: the base of a new adapter, or a frozen copy."""
        assert self.learner is not None
        if adapter is None:
            return self._frozen(policy, stage, sharding)
        if stage.lora == "continue":
            return AdapterAsItWas(self.learner, adapter)
        return self.learner.reference()

    def train_share(
        self, done: int, share: Share, objective: Objective
    ) -> dict[str, float]:
        """See `ShardedLearner.train_share`; `done` counts steps without a batch too."""
        assert self.learner is not None
        self.learner.done = done
        return self.learner.train_share(share, objective)

    def log_probs(self, batch: MicroBatch) -> tuple[Tensor, Tensor] | None:
        """See `Learner.log_probs`, without gradients; from the first rank alone."""
        assert self.learner is not None
        with torch.no_grad():
            log_probs, entropy = self.learner.log_probs(batch)
        return (log_probs.cpu(), entropy.cpu()) if self.rank == 0 else None

    def frozen_log_probs(self, batch: MicroBatch) -> Tensor | None:
        """The same of what the policy is compared with."""
        with torch.no_grad():
            log_probs, _ = RankReference().log_probs(batch)
        return log_probs.cpu() if self.rank == 0 else None

    def write(self, directory: Path, tokenizer: Tokenizer) -> None:
        """See `ShardedLearner.write`; what an attempt that broke off has left makes way."""
        assert self.learner is not None
        if self.rank == 0:
            shutil.rmtree(directory, ignore_errors=True)
        self.learner.write(directory, tokenizer)

    def open_store(self) -> tuple[str, int]:
        """Host and port of a store for meetings, which this rank keeps open."""
        if self._store is None:
            self._store = keep_store(node_address())
        return node_address(), self._store.port

    def meet(self, meeting: Meeting) -> None:
        """Be joined to the samplers."""
        if self._sender is not None:
            self._sender.close()
        self._sender = Sender(meeting, self.rank)

    def manifest(self, version: int) -> Manifest:
        """What the ranks would send as `version`."""
        assert self.learner is not None
        return self.learner.manifest(version, self._products)

    def send(self, manifest: Manifest) -> None:
        """Send this rank's rows to all samplers."""
        assert self.learner is not None and self._sender is not None
        self._sender.send(manifest, self.learner.held_rows())

    def save(self, directory: Path) -> None:
        """See `ShardedLearner.save`."""
        assert self.learner is not None
        self.learner.save(directory)

    def restore(self, directory: Path, done: int) -> None:
        """See `ShardedLearner.restore`."""
        assert self.learner is not None
        self.learner.restore(directory, done)


class SamplerActor:
    """Our engine in a process of its own."""

    def __init__(self, policy: SavedPolicy, limits: EngineLimits, threads: int) -> None:
        torch.set_num_threads(threads)
        device = reserved_device()
        policy.require_room(device)
        model = policy.load_to_sample()
        # Nobody shares the base here: laid out for decoding, it is held once.
        self.engine = Engine(model, policy.tokenizer, limits, device=device, packs=True)
        self._update = WeightUpdate(self.engine)
        self._receiver: Receiver | None = None

    async def software(self) -> dict[str, str]:
        """See `software`."""
        return software()

    async def generate(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """Completions of several prompts that came together, so that they run together."""
        return list(
            await asyncio.gather(
                *(self.engine.generate(ids, p, n) for ids, p, n in requests)
            )
        )

    async def meet(self, meeting: Meeting, number: int) -> None:
        """Be joined to the ranks as receiver `number`."""
        if self._receiver is not None:
            await asyncio.to_thread(self._receiver.close)
        self._receiver = await asyncio.to_thread(Receiver, meeting, number)

    async def begin(self, manifest: Manifest) -> None:
        """See `WeightUpdate.begin`; replies that are being drawn wait, and go on afterwards."""
        await asyncio.to_thread(self._update.begin, manifest.version, manifest.shapes)

    async def receive(self, manifest: Manifest) -> None:
        """Take the weights that the ranks send, laid out on arrival."""
        assert self._receiver is not None
        await asyncio.to_thread(self._receiver.receive, manifest, self._update.take)

    async def finish(self) -> None:
        """See `WeightUpdate.finish`."""
        self._update.finish()

    async def commit(self, version: int) -> None:
        """See `WeightUpdate.commit`."""
        self._update.commit(version)


class VerifierActor:
    """The judges of a run, with a sandbox and worker processes of their own."""

    def __init__(self, config: Config) -> None:
        shipped_to(Path.cwd())  # where Ray puts the run's Python
        self.bench = open_bench(config, AsyncExitStack())
        self._opening = asyncio.Lock()

    async def software(self) -> dict[str, str]:
        """See `software`."""
        return software()

    async def score(
        self, verifier: str, task: Task, completion: str, seconds: float | None = None
    ) -> dict[str, Any]:
        """The fields of a `Score`; a mapping of its parts may be of a class that has no copy."""
        async with self._opening:
            judge = await self.bench.verifier(verifier, seconds)
        score: Score = await judge.score(task, completion)
        return {**asdict(score), "parts": dict(score.parts)}

"""What runs in Ray's processes: one rank of the learner, a sampler, a pool of verifiers.

They are plain classes, made actors where they are placed.
"""

import asyncio
import platform
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.util
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

import openqwq
from openqwq.cluster.sharded import ShardedLearner, Sharding
from openqwq.config import Config, OptimiserConfig
from openqwq.engine.engine import Engine, EngineLimits
from openqwq.model import checkpoint
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.judges import open_bench
from openqwq.train.learner import Objective
from openqwq.train.packing import MicroBatch
from openqwq.types import Completion, SamplingParams, Score, Task

Request = tuple[list[int], SamplingParams, int]  # prompt ids, parameters, n


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
        self.rank, self.world = rank, world
        self.learner: ShardedLearner | None = None

    def software(self) -> dict[str, str]:
        """See `software`."""
        return software()

    def address(self) -> str:
        """A free address that other nodes reach, for rank 0 to be met at."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        # Not the host's name: many machines resolve their own to a loopback address.
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return f"tcp://{host}:{port}"

    def join(
        self,
        address: str,
        weights: Path,
        config: OptimiserConfig,
        steps: int,
        sharding: Sharding,
        threads: int,
    ) -> None:
        """Meet the other ranks and shard the checkpoint in `weights`."""
        torch.set_num_threads(threads)
        device = reserved_device().type
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"  # offloaded shards are CPU's
        dist.init_process_group(backend, address, rank=self.rank, world_size=self.world)
        mesh = init_device_mesh(device, (self.world,))
        model = checkpoint.load(weights)
        self.learner = ShardedLearner(model, config, steps, mesh, sharding)

    def train_step(
        self, done: int, batches: Sequence[MicroBatch], objective: Objective
    ) -> dict[str, float]:
        """See `Learner.train_step`; `done` counts steps without a batch too."""
        assert self.learner is not None
        self.learner.done = done
        return self.learner.train_step(batches, objective)

    def log_probs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """See `Learner.log_probs`, without gradients."""
        assert self.learner is not None
        with torch.no_grad():
            log_probs, entropy = self.learner.log_probs(batch)
        return log_probs.cpu(), entropy.cpu()

    def weights(self) -> dict[str, Tensor]:
        """Every parameter whole, on rank 0; nothing on the others."""
        assert self.learner is not None
        named = {name: value.cpu() for name, value in self.learner.named_params()}
        return named if self.rank == 0 else {}

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

    def __init__(self, weights: Path, tokenizer: Path, limits: EngineLimits, threads: int) -> None:
        torch.set_num_threads(threads)
        parts = checkpoint.load(weights), Tokenizer.load(tokenizer), limits
        self.engine = Engine(*parts, device=reserved_device())

    async def software(self) -> dict[str, str]:
        """See `software`."""
        return software()

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Completions of several prompts that came together, so that they run together."""
        return list(
            await asyncio.gather(*(self.engine.generate(ids, p, n) for ids, p, n in requests))
        )

    async def push(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Install weights; replies that are being drawn go on with them."""
        await asyncio.to_thread(self.engine.push, weights.items(), version, in_flight=True)


class VerifierActor:
    """The judges of a run, with a sandbox and worker processes of their own."""

    def __init__(self, config: Config) -> None:
        self.bench = open_bench(config, AsyncExitStack())
        self._opening = asyncio.Lock()

    async def software(self) -> dict[str, str]:
        """See `software`."""
        return software()

    async def score(self, verifier: str, task: Task, completion: str) -> dict[str, Any]:
        """The fields of a `Score`; a mapping of its parts may be of a class that has no copy."""
        async with self._opening:
            judge = await self.bench.verifier(verifier)
        score: Score = await judge.score(task, completion)
        return {**asdict(score), "parts": dict(score.parts)}

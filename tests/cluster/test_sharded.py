"""Two gloo ranks against one process: gradients, weights, checkpoints."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from openqwq.cluster.sharded import ShardedLearner, Sharding
from openqwq.config import OptimiserConfig, RlStage
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.train.learner import Learner, Objective
from openqwq.train.loss import cross_entropy_loss
from openqwq.train.objective import objective
from openqwq.train.packing import MicroBatch, pack_trajectories
from openqwq.types import OpenQwQError, Trajectory

OPTIMISER = OptimiserConfig(lr=1e-2, warmup_steps=1)
SHAPE = ModelConfig(30, 16, 24, 2, 4, 2, 4, tie_word_embeddings=True)


def model() -> Qwen2:
    built = Qwen2(SHAPE)
    built.initialise(torch.Generator().manual_seed(0), std=0.2)
    return built


def batches(budget: int = 24) -> list[MicroBatch]:
    """Five micro-batches, so that two ranks have unequal shares."""
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(30, (count,), generator=generator).tolist()

    records = []
    for group in range(3):
        prompt = ids(4)
        for member in range(3):
            reply = ids(3 + member + group)
            records.append(
                Trajectory(
                    prompt + reply,
                    [False] * 4 + [True] * len(reply),
                    [0.0] * 4 + [-3.4] * len(reply),
                    [0] * (4 + len(reply)),
                    f"t{group}", f"g{group}", "toy", 0.0, {}, "correct", 0, 0.5 - 0.4 * member,
                )
            )  # fmt: skip
    return pack_trajectories(records, budget)


def sft_objective(log_probs: torch.Tensor, batch: MicroBatch, tokens: float) -> Any:
    return cross_entropy_loss(log_probs, tokens)


OBJECTIVES: dict[str, Objective] = {"sft": sft_objective, "rl": objective(RlStage("rl"))}

JOBS = {"sft": "sft", "rl": "rl", "recompute": "rl"}  # job: objective


def train(learner: Learner, name: str, steps: int) -> list[dict[str, float]]:
    return [learner.train_step(batches(), OBJECTIVES[name]) for _ in range(steps)]


def start_rank(rank: int, world: int, port: int) -> DeviceMesh:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=world)
    return init_device_mesh("cpu", (world,))


def rank_main(rank: int, port: int, directory: Path) -> None:
    """Every job on one of two ranks: three steps, a checkpoint, two more steps."""
    mesh = start_rank(rank, 2, port)
    for job, name in JOBS.items():
        sharding = Sharding(recompute=job == "recompute")
        learner = ShardedLearner(model(), OPTIMISER, 10, mesh, sharding)
        metrics = train(learner, name, 3)
        learner.save(directory / f"{job}.shards")
        metrics += train(learner, name, 2)
        weights = dict(learner.named_params())
        if rank == 0:
            torch.save({"weights": weights, "metrics": metrics}, directory / f"{job}.pt")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ranks")
    mp.spawn(rank_main, (free_port(), directory), nprocs=2)
    return directory


@pytest.mark.parametrize("job", JOBS)
def test_two_ranks_train_as_one_process_does(job: str, two_ranks: Path) -> None:
    alone = Learner(model(), OPTIMISER, 10)
    expected = train(alone, JOBS[job], 5)
    found = torch.load(two_ranks / f"{job}.pt")
    for name, value in alone.named_params():
        torch.testing.assert_close(found["weights"][name], value, atol=1e-5, rtol=0, msg=name)
    for ours, theirs in zip(expected, found["metrics"], strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert theirs[key] == pytest.approx(value, abs=1e-5), key
    first, shared = expected[0]["grad_norm"], found["metrics"][0]["grad_norm"]
    assert first > 0.1
    assert shared == pytest.approx(first, rel=1e-6)


def test_the_shards_of_two_ranks_go_on_in_one(two_ranks: Path) -> None:
    mesh = start_rank(0, 1, free_port())
    try:
        learner = ShardedLearner(model(), OPTIMISER, 10, mesh)
        learner.restore(two_ranks / "rl.shards", 3)
        train(learner, "rl", 2)
        for name, value in torch.load(two_ranks / "rl.pt")["weights"].items():
            torch.testing.assert_close(dict(learner.named_params())[name], value, atol=1e-5, rtol=0)
    finally:
        torch.distributed.destroy_process_group()


def test_what_shards_cannot_do_is_refused() -> None:
    mesh = start_rank(0, 1, free_port())
    try:
        with pytest.raises(OpenQwQError, match="choose adamw"):
            ShardedLearner(model(), OptimiserConfig("muon"), 10, mesh)
        with pytest.raises(OpenQwQError, match=r"cluster\.offload"):
            ShardedLearner(model(), OPTIMISER, 10, mesh, Sharding(offload=True))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("offload", [False, True])
def test_a_rank_on_a_gpu_takes_the_steps_of_one_process(offload: bool) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl", address, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cuda", (1,))
        rank = ShardedLearner(
            model(), OPTIMISER, 10, mesh, Sharding(recompute=True, offload=offload)
        )
        ours, theirs = train(rank, "rl", 2), train(Learner(model(), OPTIMISER, 10), "rl", 2)
        for one, other in zip(ours, theirs, strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
        bf16 = ShardedLearner(model(), OPTIMISER, 10, mesh, Sharding(torch.bfloat16))
        assert train(bf16, "rl", 1)[0]["grad_norm"] == pytest.approx(
            theirs[0]["grad_norm"], rel=0.1
        )
        assert {name for name, _ in rank.named_params()} == {
            n for n, _ in model().named_parameters()
        }
    finally:
        torch.distributed.destroy_process_group()

"""Two gloo ranks against one process: gradients, weights, checkpoints."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from openqwq.cluster.sharded import ShardedLearner, Sharding, deal
from openqwq.config import OptimiserConfig, RlStage
from openqwq.model import checkpoint, lora, precision
from openqwq.model.lora import Adapter, AdapterShape
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.learner import Learner, Objective
from openqwq.train.loss import cross_entropy_loss
from openqwq.train.objective import objective
from openqwq.train.packing import MicroBatch, pack_trajectories
from openqwq.types import OpenQwQError, Products, Trajectory

TOKENIZER = Tokenizer.train([], 270)
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

JOBS = {"sft": "sft", "rl": "rl", "recompute": "rl", "lora": "kl", "lora-bf16": "kl"}
TEMPERATURE = 0.8


def jobs_here() -> dict[str, str]:
    """Those that this machine can do, with their objectives."""
    has_bf16 = precision.has_bf16()
    return {job: name for job, name in JOBS.items() if has_bf16 or job != "lora-bf16"}


def parts(job: str) -> tuple[Qwen2, Adapter | None]:
    """What a job trains: the model, or an adapter on it that adds something already."""
    built = model()
    if not job.startswith("lora"):
        return built, None
    adapter = lora.fresh(built, AdapterShape(3, 6.0), torch.Generator().manual_seed(2))
    for number, parameter in enumerate(adapter.parameters()):
        torch.nn.init.normal_(parameter, 0, 0.1, torch.Generator().manual_seed(number))
    lora.attach(built, adapter)
    precision.prepare(built, "bf16" if job == "lora-bf16" else "fp32", trained=False)
    return built, adapter


def train(learner: Learner, name: str, steps: int) -> list[dict[str, float]]:
    chosen = OBJECTIVES.get(name)
    if chosen is None:
        chosen = objective(RlStage("rl", kl_coefficient=0.3), learner.reference())
    return [learner.train_step(batches(), chosen) for _ in range(steps)]


def start_rank(rank: int, world: int, port: int) -> DeviceMesh:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=world)
    return init_device_mesh("cpu", (world,))


def rank_main(rank: int, port: int, directory: Path) -> None:
    """Every job on one of two ranks: three steps, a checkpoint, two more steps."""
    mesh = start_rank(rank, 2, port)
    for job, name in jobs_here().items():
        products: Products = "bf16" if job == "lora-bf16" else "fp32"
        sharding = Sharding(products, recompute=job == "recompute")
        built, adapter = parts(job)
        learner = ShardedLearner(built, OPTIMISER, 10, mesh, sharding, adapter, TEMPERATURE)
        metrics = train(learner, name, 3)
        learner.save(directory / f"{job}.shards")
        metrics += train(learner, name, 2)
        weights = dict(learner.named_params())
        learner.write(directory / f"{job}.written", TOKENIZER)
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
    if job not in jobs_here():
        pytest.skip("needs a CPU that multiplies in bf16")
    built, adapter = parts(job)
    alone = Learner(built, OPTIMISER, 10, adapter, TEMPERATURE)
    expected = train(alone, JOBS[job], 5)
    found = torch.load(two_ranks / f"{job}.pt")
    assert found["weights"].keys() == dict(alone.named_params()).keys()
    # In bf16 a difference of one rounding grows from update to update.
    close, steps = (1e-2, 1) if job == "lora-bf16" else (1e-5, 5)
    for name, value in alone.named_params():
        # Softmax hardly sees a bias of all keys: its gradient is near rounding, and AdamW scales
        # that up. Five updates of 1e-2 agree to a 500th there, elsewhere to a 5,000th.
        bound = max(close, 1e-4) if name.endswith("k_proj.bias") else close
        torch.testing.assert_close(
            found["weights"][name], value, atol=bound, rtol=0, msg=name
        )
    for ours, theirs in list(zip(expected, found["metrics"], strict=True))[:steps]:
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert theirs[key] == pytest.approx(value, abs=1e-5), key
    first, shared = expected[0]["grad_norm"], found["metrics"][0]["grad_norm"]
    assert first > 0.1
    assert shared == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("job", ["rl", "recompute", "lora"])
def test_two_ranks_write_what_they_train_as_one_process_does(
    job: str, two_ranks: Path, tmp_path: Path
) -> None:
    built, adapter = parts(job)
    Learner(built, OPTIMISER, 10, adapter).write(tmp_path / "alone", TOKENIZER)
    trained = torch.load(two_ranks / f"{job}.pt")["weights"]
    file = checkpoint.WEIGHTS if adapter is None else lora.WEIGHTS
    prefix = "" if adapter is None else lora.PREFIX
    written = load_file(two_ranks / f"{job}.written" / file)
    assert written.keys() == load_file(tmp_path / "alone" / file).keys()
    for name, value in trained.items():
        assert torch.equal(written[prefix + name], value), name
    for other in (tmp_path / "alone").glob("*.json"):
        assert (two_ranks / f"{job}.written" / other.name).read_text() == other.read_text()


@pytest.mark.parametrize("job", ["rl", "lora"])
def test_the_shards_of_two_ranks_go_on_in_one(job: str, two_ranks: Path) -> None:
    mesh = start_rank(0, 1, free_port())
    try:
        built, adapter = parts(job)
        learner = ShardedLearner(built, OPTIMISER, 10, mesh, None, adapter, TEMPERATURE)
        learner.restore(two_ranks / f"{job}.shards", 3)
        train(learner, JOBS[job], 2)
        for name, value in torch.load(two_ranks / f"{job}.pt")["weights"].items():
            torch.testing.assert_close(
                dict(learner.named_params())[name], value, atol=1e-5, rtol=0
            )
    finally:
        torch.distributed.destroy_process_group()


def test_ranks_get_their_own_micro_batches_and_about_as_many_tokens() -> None:
    made = batches(12)
    total = sum(len(batch.token_ids) for batch in made)
    shares = deal(made, 2)
    counted = [share.batches[: share.counted] for share in shares]
    assert sorted(map(id, [*counted[0], *counted[1]])) == sorted(map(id, made))
    tokens = [sum(len(batch.token_ids) for batch in own) for own in counted]
    assert abs(tokens[0] - tokens[1]) <= 12 < total / 4
    rounds = [len(share.batches) for share in shares]
    assert rounds[0] == rounds[1] == -(-len(made) // 2)  # every round asks all ranks
    assert {share.tokens for share in shares} == {sum(len(batch.targets) for batch in made)}
    alone = deal(made[:1], 2)
    assert [share.counted for share in alone] == [1, 0]
    assert [len(share.batches) for share in alone] == [1, 1]


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
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl", address, rank=0, world_size=1
    )
    try:
        mesh = init_device_mesh("cuda", (1,))
        rank = ShardedLearner(
            model(), OPTIMISER, 10, mesh, Sharding(recompute=True, offload=offload)
        )
        ours, theirs = train(rank, "rl", 2), train(Learner(model(), OPTIMISER, 10), "rl", 2)
        for one, other in zip(ours, theirs, strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
        bf16 = ShardedLearner(model(), OPTIMISER, 10, mesh, Sharding("bf16"))
        assert train(bf16, "rl", 1)[0]["grad_norm"] == pytest.approx(
            theirs[0]["grad_norm"], rel=0.1
        )
        assert {name for name, _ in rank.named_params()} == {
            n for n, _ in model().named_parameters()
        }
    finally:
        torch.distributed.destroy_process_group()

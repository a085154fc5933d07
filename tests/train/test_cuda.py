"""On a GPU a learner learns what it learns on the CPU. Skipped without one."""

import io

import pytest
import torch

from openqwq.config import OptimiserConfig, RlStage
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.train.learner import Learner
from openqwq.train.objective import objective
from openqwq.train.packing import MicroBatch, pack_trajectories
from openqwq.types import Trajectory

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
SHAPE = ModelConfig(50, 32, 48, 2, 4, 2, 8, tie_word_embeddings=True)


def learner(device: str, name: str) -> Learner:
    model = Qwen2(SHAPE)
    model.initialise(torch.Generator().manual_seed(0), std=0.2)
    config = OptimiserConfig(name, lr=0.01, warmup_steps=1)  # type: ignore[arg-type]
    return Learner(model.to(device), config, steps=10)


def batches() -> list[MicroBatch]:
    """Groups that share their prompts, and some that have none to share."""
    generator = torch.Generator().manual_seed(1)
    records = []
    for member in range(12):
        prompt = [5 + member // 4] * (1 if member > 8 else 9)
        reply = torch.randint(50, (4 + member,), generator=generator).tolist()
        size, count = len(prompt), len(reply)
        records.append(
            Trajectory(
                prompt + reply, [False] * size + [True] * count, [0.0] * size + [-3.9] * count,
                [0] * (size + count), "t", f"g{member // 4}", "toy", 0.0, {}, "correct", 0,
                0.5 - 0.1 * member,
            )
        )  # fmt: skip
    return pack_trajectories(records, 100)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_steps_are_those_of_the_cpu_and_a_state_moves_between_them(name: str) -> None:
    gpu, cpu = learner("cuda", name), learner("cpu", name)
    for _ in range(2):
        ours, theirs = (
            each.train_step(batches(), objective(RlStage("rl"))) for each in (gpu, cpu)
        )
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    buffer = io.BytesIO()
    torch.save(gpu.state(), buffer)
    buffer.seek(0)
    moved = learner("cpu", name)
    moved.load_state(torch.load(buffer, "cpu", weights_only=True))
    for each in (gpu, moved, cpu):
        each.train_step(batches(), objective(RlStage("rl")))
    for (key, a), (_, b), (_, c) in zip(
        gpu.named_params(), moved.named_params(), cpu.named_params(), strict=True
    ):
        torch.testing.assert_close(a.cpu(), c, atol=2e-3, rtol=0, msg=key)
        torch.testing.assert_close(b, c, atol=2e-3, rtol=0, msg=key)

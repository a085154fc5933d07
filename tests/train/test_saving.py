"""Saving streams to disk: it takes little more memory than the state that is there already."""

import ctypes
import gc
import platform
from pathlib import Path

import pytest
import torch
from small import small_config

from openqwq.config import OptimiserConfig
from openqwq.model import checkpoint
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.train.learner import Learner
from openqwq.train.run import Run

GLIBC = platform.libc_ver()[0] == "glibc"
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MOST = 0.1  # of the state, above what is held anyway
pytestmark = pytest.mark.skipif(
    not (GLIBC and RESET.exists()),
    reason="peaks are read from Linux's /proc, with glibc's malloc",
)


def resident(field: str) -> int:
    """Bytes of `VmRSS`, or of the peak since `reset`, `VmHWM`."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


class Peak:
    """What a block takes at most, in bytes, above what was resident before it."""

    taken = 0

    def __enter__(self) -> "Peak":
        gc.collect()
        # freed memory that is still held would hide a copy
        ctypes.CDLL(None).malloc_trim(0)
        RESET.write_text("5")  # the peak starts again from here
        self.before = resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.taken = resident("VmHWM") - self.before


def learner() -> Learner:
    """A learner of 16 million parameters whose optimiser has its two moments."""
    made = Qwen2(ModelConfig(512, 256, 1024, 16, 4, 4, 64, tie_word_embeddings=True))
    made.initialise(torch.Generator().manual_seed(0))
    result = Learner(made, OptimiserConfig(), 10)
    for parameter in made.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimiser in result.optimisers:
        optimiser.step()
        optimiser.zero_grad()
    return result


def test_states_and_checkpoints_are_saved_within_a_tenth_of_the_state(
    tmp_path: Path,
) -> None:
    trained = learner()
    run = Run(tmp_path / "run", small_config(), resume=False)
    run.save("warm", {})  # what a first save imports is not the state's
    with Peak() as peak:
        run.save("sft", {"learner": trained})
    state = (tmp_path / "run" / "sft.state").stat().st_size
    assert state > 150 * 2**20
    assert peak.taken <= MOST * state, (
        f"{peak.taken / state:.3f} of {state / 2**20:.0f} MiB"
    )

    with Peak() as peak:
        copies = [parameter.detach().clone() for parameter in trained.model.parameters()]
    # a copy of the weights alone would be seen
    assert peak.taken >= MOST * state and copies

    del copies
    with Peak() as peak:
        checkpoint.save(trained.model, tmp_path / "model")
    assert peak.taken <= MOST * state

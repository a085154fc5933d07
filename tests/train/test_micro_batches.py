"""Micro-batches that no config sizes: what fits into the free memory, chosen once for a stage."""

from dataclasses import replace
from pathlib import Path

import pytest
from small import rl_stage, small_config

from openqwq.config import LoraConfig, RlStage, SftStage
from openqwq.model.qwen2 import ModelConfig
from openqwq.train.micro_batches import fitting_tokens, sized
from openqwq.train.run import Run
from openqwq.types import OpenQwQError

GIB = 2**30
SHAPE = ModelConfig(151936, 896, 4864, 24, 14, 2, 64, tie_word_embeddings=True)
STAGE = RlStage("rl", prompts_per_step=8, group_size=8, lora=LoraConfig())


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("openqwq.train.micro_batches.available_memory", lambda: size)
    monkeypatch.setattr("openqwq.train.micro_batches.memory_in_use", lambda: 0)


def test_less_memory_means_smaller_micro_batches() -> None:
    config = small_config()
    assert fitting_tokens(STAGE, config, SHAPE, "bf16", 400 * GIB) == 1724
    on_gpu = replace(config, device="cuda")
    assert fitting_tokens(STAGE, on_gpu, SHAPE, "bf16", 400 * GIB) == 8192
    assert 640 <= fitting_tokens(STAGE, on_gpu, SHAPE, "bf16", 12 * GIB) < 8192
    with pytest.raises(OpenQwQError, match=r"needs .* GiB, and 1.00 GiB are free"):
        fitting_tokens(STAGE, config, SHAPE, "bf16", GIB)


def test_a_micro_batch_holds_the_longest_example_of_sft() -> None:
    """Also where replies that the engine draws are shorter."""
    config = small_config("engine.max_length=640")
    stage = SftStage("sft", lora=LoraConfig())
    assert fitting_tokens(stage, config, SHAPE, "bf16", 400 * GIB) == 1724
    assert fitting_tokens(stage, config, SHAPE, "bf16", 400 * GIB, longest=2949) == 2949


def test_a_resumed_run_keeps_the_micro_batches_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = small_config()
    free(monkeypatch, 400 * GIB)
    run = Run(tmp_path, config, resume=False)
    first = sized(STAGE, run, SHAPE, "bf16")
    run.log("stage1", 0, {"loss": 1.0})
    run.close()
    free(monkeypatch, 7 * GIB)
    again = sized(STAGE, Run(tmp_path, config, resume=True), SHAPE, "bf16")
    assert first.optimiser.max_tokens_per_micro_batch == 1724
    assert again == first


def test_a_size_that_the_config_names_stays(tmp_path: Path) -> None:
    config = small_config("stages.stage1.optimiser.max_tokens_per_micro_batch=700")
    stage = rl_stage(config)
    run = Run(tmp_path, config, resume=False)
    assert sized(stage, run, SHAPE, "fp32") == stage

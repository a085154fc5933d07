"""Slots that no config names: what a third of the free memory holds, chosen once for a run."""

from dataclasses import replace
from pathlib import Path

import pytest
from small import small_config

from openqwq.config import Config, EngineConfig
from openqwq.model.qwen2 import ModelConfig
from openqwq.train.run import Run
from openqwq.train.slots import fitting_slots, with_slots

GIB = 2**30
# SmolLM2-135M: 45 KiB of keys and values a token.
SHAPE = ModelConfig(49152, 576, 1536, 30, 9, 3, 64, tie_word_embeddings=True)


def config_with(slots: int) -> Config:
    config = small_config()
    return replace(config, engine=EngineConfig(slots=slots, max_length=2217))


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("openqwq.train.slots.free_memory", lambda _: size)


def test_one_long_prompt_means_fewer_slots() -> None:
    short = EngineConfig(max_length=256)
    long = EngineConfig(max_length=2217)
    assert fitting_slots(short, SHAPE, 22 * GIB) == 256
    assert fitting_slots(long, SHAPE, 22 * GIB) == 32
    assert fitting_slots(long, SHAPE, 400 * GIB) == 256
    assert fitting_slots(long, SHAPE, GIB) == 1


def test_a_resumed_run_keeps_the_slots_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Run(tmp_path, config_with(0), resume=False)
    free(monkeypatch, 22 * GIB)
    assert with_slots(run, SHAPE).engine.slots == 32
    free(monkeypatch, 400 * GIB)
    assert with_slots(run, SHAPE).engine.slots == 32


def test_slots_that_the_config_names_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Run(tmp_path, config_with(48), resume=False)
    free(monkeypatch, GIB)
    assert with_slots(run, SHAPE).engine.slots == 48

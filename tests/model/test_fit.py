"""What is predicted from a header alone: sizes that can be counted, and real peaks within 5%."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from openqwq.engine.verbs import add_fit_verb
from openqwq.model import checkpoint, fit, gguf
from openqwq.model.gguf_header import read_header
from openqwq.model.precision import has_bf16
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.types import OpenQwQError

QWQ = ModelConfig(152_064, 5120, 27_648, 64, 40, 8, 128)
GIB = 2**30


def test_qwq_32b_is_counted_right() -> None:
    total, embedding = fit.parameter_counts(QWQ)
    assert (total, embedding) == (32_763_876_352, 778_567_680)
    subject = fit.Subject(QWQ, None, "Q4_K")
    need = fit.need(subject, "llamacpp", 32_768, 1, 0)
    assert need.cache == 64 * 2 * 8 * 128 * 2 * 32_768  # 8 GiB
    assert need.weights == pytest.approx(32_763_876_352 * 4.5 / 8, rel=1e-3)
    plain = replace(subject, stored_type="F32")
    assert fit.need(plain, "torch", 2048, 1, 0).peak > 240 * GIB
    assert 120 * GIB < fit.need(plain, "torch", 2048, 1, 0, "bf16").peak < 130 * GIB


def test_a_saved_files_size_is_predicted(
    make_model: Callable[..., Qwen2], tmp_path: Path
) -> None:
    model = make_model(hidden_size=256, intermediate_size=512, head_dim=64)
    for kind in ("F32", "F16", "Q8_0", "Q4_0"):
        path = tmp_path / f"{kind}.gguf"
        gguf.save(model, path, kind, {})
        size = sum(t.size for t in read_header(path).tensors.values())
        assert fit.type_bytes(model.config, kind) == size
        subject = fit.read_subject(path)
        assert (subject.config, subject.stored_bytes, subject.stored_type) == (
            model.config,
            size,
            kind,
        )


def test_a_config_alone_is_enough(make_model: Callable[..., Qwen2], tmp_path: Path) -> None:
    checkpoint.save(make_model(), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    assert fit.read_subject(tmp_path / "model").config == make_model().config
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(OpenQwQError, match=r"cannot read .*config.json"):
        fit.read_subject(tmp_path / "model")


def test_llama_cpp_is_told_no_precision(smollm2: Path) -> None:
    parser = argparse.ArgumentParser()
    add_fit_verb(parser)
    options = parser.parse_args(
        [str(smollm2), "--engine", "llamacpp", "--precision", "bf16"]
    )
    with pytest.raises(OpenQwQError, match="the precision bf16 is for the engine torch"):
        options.verb(options)


def test_only_types_that_fit_are_offered() -> None:
    subject = fit.Subject(QWQ, None, "F16")
    fitting = fit.fitting(subject, 24 * GIB, 4096, 1, GIB // 4)
    assert {"Q2_K", "Q4_K"} <= fitting.keys() and not {"F16", "Q8_0"} & fitting.keys()
    assert all(peak <= 24 * GIB for peak in fitting.values())
    assert list(fitting.values()) == sorted(fitting.values(), reverse=True)
    text = fit.report("QwQ", subject, "torch", 24 * GIB, 4096, 1, GIB // 4, 20e9, "fp32")
    assert "32.8 B parameters" in text and "does not fit into 24.0 GiB" in text
    assert "Q4_K (" in text and "tokens/s" in text


@pytest.mark.parametrize(
    ("text", "size"), [("24GiB", 24 * GIB), ("1.5 GB", 1_500_000_000), ("512 MiB", 2**29)]
)
def test_amounts_of_memory_are_read(text: str, size: int) -> None:
    assert fit.parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "24", "GiB", "24Gigs", "-x MB", "1e999GiB"])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(OpenQwQError, match="is not an amount of memory: write it as 24GiB"):
        fit.parse_memory(text)


@pytest.mark.skipif(sys.platform != "linux", reason="measures through /proc/self")
@pytest.mark.parametrize(
    ("runner", "slots", "context"),
    [("llamacpp", 4, 2048), ("fp32", 1, 512), ("bf16", 1, 512)],
)
def test_a_real_peak_is_predicted_within_5_percent(
    runner: str, slots: int, context: int, smollm2: Path
) -> None:
    if runner == "llamacpp":
        pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install xllamacpp")
    if runner == "bf16" and not has_bf16():
        pytest.skip("needs a CPU that multiplies in bf16")
    bench = Path(__file__).parents[2] / "bench" / "fit.py"
    numbers = (str(n) for n in (slots, context, 400, 2))
    output = subprocess.run(
        [sys.executable, str(bench), "--once", str(smollm2), runner, *numbers],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ,
    ).stdout
    found = json.loads(output.splitlines()[-1])
    assert found["predicted"] / found["measured"] == pytest.approx(1, abs=0.05)

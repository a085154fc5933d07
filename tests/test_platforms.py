"""macOS on Apple Silicon, faked: everything but the sandbox works, which is refused by name.

What is taken away is what its PyTorch and its kernel lack: oneDNN, /proc, and the calls of Linux.
"""

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from openqwq.cli import main

RUN = """
threads = 1

[shape]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1

[tokenizer]
vocab_size = 300
tasks_per_table = 20

[engine]
slots = 16
max_length = 128

[evaluation]
limit = 2
samples = 1
max_tokens = 8

[data]
sums = { source = "SOURCE", options = OPTIONS }

[[stages]]
name = "sft"
kind = "sft"
steps = 2
batch_size = 4
data = { sums = 1.0 }

[[stages]]
name = "rl"
kind = "rl"
steps = 1
prompts_per_step = 2
group_size = 2
max_tokens = 8
max_refills = 0
skip_checks = ["ends", "rewards"]
data = { sums = 1.0 }
"""


def without_proc(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of a path, without what we read from /proc; psutil, which asks macOS, may."""

    def opened(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path) in {"/proc/self/status", "/proc/cpuinfo"}:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return function(path, *arguments, **options)

    return opened


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("builtins.open", without_proc(open))
    monkeypatch.setattr(Path, "read_text", without_proc(Path.read_text))
    for name in ("sched_getaffinity", "sched_setaffinity", "sched_setscheduler", "unshare"):
        monkeypatch.delattr(os, name, raising=False)
    # From Python 3.13 on it asks `sched_getaffinity` where the platform has it.
    monkeypatch.setattr(os, "process_cpu_count", os.cpu_count, raising=False)


def config(folder: Path, source: str, options: str) -> str:
    path = folder / "run.toml"
    path.write_text(RUN.replace("SOURCE", source).replace("OPTIONS", options))
    return str(path)


@pytest.mark.usefixtures("mac")
def test_a_mac_trains_evaluates_and_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, "addition", "{ min_digits = 1, max_digits = 1 }")
    out = tmp_path / "run"
    assert main(["train", path, "--out", str(out)]) == 0, capsys.readouterr().err
    assert (out / "report.html").exists()
    asked = [
        "ask",
        str(out / "rl"),
        "What is 1 + 1?",
        "--max-tokens",
        "4",
        "--device",
        "cpu",
    ]
    assert main(asked) == 0, capsys.readouterr().err


@pytest.mark.usefixtures("mac")
def test_programs_are_refused_on_a_mac_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, "linear", "{ max_slope = 25, max_offset = 80 }")
    assert main(["train", path, "--out", str(tmp_path / "run")]) == 2
    refusal = capsys.readouterr().err
    assert "namespaces, seccomp and Landlock" in refusal and "Darwin on arm64" in refusal
    assert not (tmp_path / "run" / "sft").exists()


@pytest.mark.usefixtures("mac")
def test_bf16_is_refused_by_name_where_the_processor_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, "addition", "{ min_digits = 1, max_digits = 1 }")
    arguments = ["train", path, "--out", str(tmp_path / "run"), "--set", "precision=bf16"]
    assert main(arguments) == 2
    assert "AVX-512 BF16 or AMX" in capsys.readouterr().err

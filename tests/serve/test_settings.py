"""Flags before the environment before files before defaults; a wrong setting is named."""

import argparse
from pathlib import Path

import pytest

from openqwq.cli import main
from openqwq.serve.models import local_models
from openqwq.serve.settings import apply_settings
from openqwq.types import OpenQwQError


def verbs() -> dict[str, argparse.ArgumentParser]:
    serve, ask = argparse.ArgumentParser(), argparse.ArgumentParser()
    serve.add_argument("model", nargs="?")
    serve.add_argument("--port", type=int, default=1)
    serve.add_argument("--engine", choices=["auto", "torch"], default="auto")
    serve.add_argument("--insecure", action="store_true")
    ask.add_argument("--top-p", type=float)
    ask.add_argument("--insecure", action="store_true")
    return {"serve": serve, "ask": ask}


def resolved(
    tmp_path: Path, toml: str, environment: dict[str, str], words: list[str]
) -> argparse.Namespace:
    files = [tmp_path / "user.toml", tmp_path / "qwq.toml", tmp_path / "missing.toml"]
    files[0].write_text("port = 2\n")
    files[1].write_text(toml)
    made = verbs()
    apply_settings(made, "serve", environment, files)
    return made["serve"].parse_args(words)


@pytest.mark.parametrize(
    ("toml", "environment", "words", "port"),
    [
        ("", {}, [], 2),
        ("port = 3", {}, [], 3),
        ("[serve]\nport = 4", {}, [], 4),
        ("port = 3\n[serve]\nport = 4", {}, [], 4),
        ("[serve]\nport = 4", {"QWQ_PORT": "5"}, [], 5),
        ("[serve]\nport = 4", {"QWQ_PORT": "5"}, ["--port", "6"], 6),
        ("[ask]\ntop_p = 0.5", {}, [], 2),
    ],
)
def test_flags_before_environment_before_files(
    tmp_path: Path, toml: str, environment: dict[str, str], words: list[str], port: int
) -> None:
    assert resolved(tmp_path, toml, environment, words).port == port


def test_a_table_is_of_its_verb_alone(tmp_path: Path) -> None:
    assert not resolved(tmp_path, "[ask]\ninsecure = true", {}, []).insecure


def test_switches_and_models_can_be_set(tmp_path: Path) -> None:
    got = resolved(
        tmp_path, 'model = "runs/x"\ninsecure = true', {"QWQ_ENGINE": "torch"}, []
    )
    assert (got.model, got.insecure, got.engine) == ("runs/x", True, "torch")
    assert not resolved(tmp_path, "insecure = true", {"QWQ_INSECURE": "0"}, []).insecure


@pytest.mark.parametrize(
    ("toml", "environment", "fault"),
    [
        ("prot = 3", {}, r"qwq.toml: unknown setting 'prot': did you mean 'port'\?"),
        ("[serv]\nport = 3", {}, r"unknown table \[serv\]: did you mean 'serve'"),
        ("[ask]\nport = 3", {}, "unknown setting 'port'"),
        ("port = 'x'", {}, "qwq.toml: port is 'x': not a valid value"),
        ("port = [", {}, "cannot read .*qwq.toml"),
        ("", {"QWQ_PORT": "x"}, "QWQ_PORT is 'x'"),
        ("", {"QWQ_ENGINE": "gpu"}, "QWQ_ENGINE is 'gpu': choose from auto, torch"),
        ("", {"QWQ_INSECURE": "maybe"}, "must be true or false"),
    ],
)
def test_a_wrong_setting_is_named(
    tmp_path: Path, toml: str, environment: dict[str, str], fault: str
) -> None:
    with pytest.raises(OpenQwQError, match=fault):
        resolved(tmp_path, toml, environment, [])


@pytest.mark.parametrize("number", ["-1", "65536"])
def test_a_port_that_is_none_is_refused_before_a_model_is_looked_for(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "nowhere", f"--port={number}"]) == 2
    assert f"port is {number}: it must be" in capsys.readouterr().err


def test_links_that_lead_nowhere_are_no_models(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Qwen--Small-1B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for link in (tmp_path / "a.gguf", snapshot / "b.gguf", snapshot / "c.safetensors"):
        link.symlink_to(tmp_path / "gone")
    assert local_models(tmp_path, tmp_path) == []


def test_models_lists_runs_files_and_the_cache(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"GGUF" * 10)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    (tmp_path / "run" / "stage1").mkdir(parents=True)
    for file in saved.iterdir():
        (tmp_path / "run" / "stage1" / file.name).write_bytes(file.read_bytes())
    snapshot = tmp_path / "hub" / "models--Qwen--Small-1B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"x" * 7)
    (snapshot / "config.json").write_text('{"architectures": ["Qwen2ForCausalLM"]}')
    found = local_models(tmp_path, tmp_path / "hub")
    assert [(Path(m.name).name, m.kind) for m in found[:2]] == [
        ("small.gguf", "GGUF"),
        ("stage1", "Qwen2ForCausalLM"),
    ]
    assert ("Qwen/Small-1B", "Qwen2ForCausalLM", 7) in found

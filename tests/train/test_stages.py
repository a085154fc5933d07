"""The whole miniature, very small: every stage, its files, exact resume after kill -9, Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from small import rl_stage, small_config, write_config

from openqwq.cli import main
from openqwq.config import LoraConfig
from openqwq.data.rows import read_rows
from openqwq.engine.open import load_tokenizer
from openqwq.model import checkpoint
from openqwq.train.policies import LoadedPolicy, for_stage
from openqwq.train.prepare import START
from openqwq.train.run import Run

COMMAND = [sys.executable, "-m", "openqwq.cli", "train"]


def start(config: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, str(config), "--out", str(out), *more],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(out: Path, stage: str, step: int, process: "subprocess.Popen[str]") -> None:
    """Until the log of a running process has reached a step."""
    log = out / "log.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        lines = log.read_text().splitlines() if log.exists() else []
        if any(f'"stage": "{stage}", "step": {step}' in line for line in lines):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"no {stage} step {step} in 300 s: {process.communicate()}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished")
    process = start(write_config(folder / "config.toml"), folder / "run")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "stage2" in out and "report.html" in out
    return folder / "run"


def test_a_run_begins_with_the_pretrained_model_that_its_config_names(
    finished: Path, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path / "config.toml",
    )
    tree = tomllib.loads(config.read_text())
    del tree["shape"]
    tree["model"] = str(finished / "sft")
    tree["evaluation"] = {"limit": 2, "data": ["addition"]}
    (rl,) = [stage for stage in tree["stages"] if stage["name"] == "stage1"]
    tree["stages"] = [rl | {"steps": 1, "kl_coefficient": 0.1}]
    config.write_text(tomli_w.dumps(tree))
    assert main(["train", str(config), "--out", str(tmp_path / "run")]) == 0
    records = [
        json.loads(line)
        for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    ]
    assert {record["stage"] for record in records} == {"stage1", "timing"}
    assert "reference_kl" in next(
        record for record in records if record["stage"] == "stage1"
    )
    assert (tmp_path / "run" / "evaluation" / "start.json").exists()
    begun, trained = weights(finished, "sft"), weights(tmp_path / "run", "stage1")
    assert any(not torch.equal(trained[name], value) for name, value in begun.items())


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / name / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    for name in ("sft", "stage1", "taste", "stage2"):
        a, b = weights(one, name), weights(other, name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_a_run_leaves_checkpoints_log_evaluation_and_report(finished: Path) -> None:
    log = (finished / "log.jsonl").read_text().splitlines()
    stages = [json.loads(line)["stage"] for line in log]
    assert [stages.count(stage) for stage in ("sft", "stage1", "stage2")] == [60, 4, 3]
    for name, count in {"sft": 40, "stage1": 40, "stage2": 50}.items():
        outcomes = json.loads((finished / "evaluation" / f"{name}.json").read_text())[
            "outcomes"
        ]
        assert len(outcomes) == count
    bare = [outcome for outcome in outcomes if outcome["kind"] == "without-tools"]
    assert len(bare) == 10 and not any("<tool>" in o["completion"] for o in bare)
    html = (finished / "report.html").read_text()
    assert 'src="http' not in html and 'href="http' not in html  # nothing is fetched
    assert list((finished / "plots").glob("*.png"))
    trained = [weights(finished, name) for name in ("sft", "stage1", "stage2")]
    for a, b in pairwise(trained):
        assert any(not torch.equal(a[key], b[key]) for key in a)


def test_a_reward_model_stage_leaves_its_preferences_and_its_report(finished: Path) -> None:
    report = json.loads((finished / "taste.json").read_text())
    train, held_out = (
        list(read_rows(finished / "preferences" / f"taste-{name}.jsonl"))
        for name in ("train", "held_out")
    )
    assert report["train_pairs"] == len(train) and report["held_out"]["pairs"] == len(
        held_out
    )
    prompts = [{row["chosen"][0]["content"] for row in rows} for rows in (train, held_out)]
    assert not prompts[0] & prompts[1]
    records = [
        json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()
    ]
    stage2 = [record for record in records if record["stage"] == "stage2"]
    assert all("reference_kl" in record for record in stage2)
    rewards = [record["rewards"] for record in stage2 if "rewards" in record]
    assert any({"taste", "verifier"} <= found.keys() for found in rewards)
    html = (finished / "report.html").read_text()
    assert "<h2>taste</h2>" in html and "without-tools" in html


def test_the_trained_directory_opens_in_transformers_with_the_same_logits(
    finished: Path,
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from openqwq.model import checkpoint
    from openqwq.model.attention import RaggedAttention, positions
    from openqwq.text.template import encode_chat
    from openqwq.text.tokenizer import Tokenizer

    directory = finished / "stage1"
    theirs = AutoModelForCausalLM.from_pretrained(directory)
    their_tokenizer = AutoTokenizer.from_pretrained(directory)
    ours, tokenizer = checkpoint.load(directory), Tokenizer.load(directory)
    messages = [{"role": "user", "content": "What is 3 + 4?"}]
    ids = encode_chat(tokenizer, messages)  # type: ignore[arg-type]
    rendered = their_tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert list(rendered["input_ids"]) == ids
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0]
        hidden = ours(torch.tensor(ids), positions([len(ids)]), RaggedAttention([len(ids)]))
        assert float((ours.logits(hidden) - expected).abs().max()) <= 1e-4


def without_stage_2(finished: Path, out: Path) -> None:
    """A copy of a finished run as it was before its reward model."""
    later = ("stage2*", "taste*", "preferences", "tensorboard")
    shutil.copytree(finished, out, ignore=shutil.ignore_patterns(*later))
    lines = (out / "log.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"stage2"' not in line and '"taste"' not in line]
    (out / "log.jsonl").write_text("".join(kept))
    (out / "finished.json").write_text(json.dumps({"sft": 60, "stage1": 4}))


@pytest.mark.parametrize(("stage", "step"), [("sft", 25), ("stage1", 1), ("stage2", 1)])
def test_kill_9_and_resume_gives_bit_equal_weights(
    finished: Path, tmp_path: Path, stage: str, step: int
) -> None:
    config = write_config(tmp_path / "config.toml")
    if stage == "stage2":
        without_stage_2(finished, tmp_path / "run")
    process = start(config, tmp_path / "run", "--resume")
    wait_for(tmp_path / "run", stage, step, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = start(config, tmp_path / "run", "--resume")
    _, err = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, err
    assert_same_weights(tmp_path / "run", finished)
    kept = ("stage", "step", "loss", "reward", "sample")

    def log(run: Path) -> list[dict[str, object]]:
        records = list(map(json.loads, (run / "log.jsonl").read_text().splitlines()))
        return [{k: r.get(k) for k in kept} for r in records if r["stage"] != "timing"]

    assert log(tmp_path / "run") == log(finished)


def test_kill_9_and_resume_gives_bit_equal_adapters(finished: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.toml")
    tree = tomllib.loads(config.read_text())
    del tree["shape"]
    tree["model"] = str(finished / "sft")
    tree["evaluation"] = {"limit": 2, "data": ["addition"]}
    (rl,) = [stage for stage in tree["stages"] if stage["name"] == "stage1"]
    tree["stages"] = [rl | {"lora": {"rank": 4}, "kl_coefficient": 0.1}]
    config.write_text(tomli_w.dumps(tree))
    whole = start(config, tmp_path / "whole")
    killed = start(config, tmp_path / "killed")
    wait_for(tmp_path / "killed", "stage1", 1, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    resumed = start(config, tmp_path / "killed", "--resume")
    for process in (whole, resumed):
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
    expected = load_file(tmp_path / "whole" / "stage1" / "adapter_model.safetensors")
    found = load_file(tmp_path / "killed" / "stage1" / "adapter_model.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    # it has learned
    assert any(value.any() for name, value in found.items() if "lora_B" in name)


def test_a_run_killed_in_an_evaluation_goes_on_with_it_at_the_length_its_data_need(
    finished: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.toml")
    tree = tomllib.loads(config.read_text())
    del tree["shape"], tree["engine"]["max_length"]
    tree["precision"] = "auto"
    tree["model"] = str(finished / "sft")
    tree["evaluation"] = {"limit": 2, "data": ["addition"]}
    (sft,) = [stage for stage in tree["stages"] if stage["name"] == "sft"]
    tree["stages"] = [sft | {"steps": 1}]
    config.write_text(tomli_w.dumps(tree))
    evaluated = tmp_path / "run" / "evaluation" / "sft.json"
    for _ in range(2):
        process = start(config, tmp_path / "run", "--resume")
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        evaluated.unlink()  # as a run leaves it that is killed before


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_resume(
    finished: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.toml")
    process = start(config, tmp_path / "run")
    wait_for(tmp_path / "run", "sft", 13, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "everything is saved" in err and "--resume" in err and "Traceback" not in err
    assert (tmp_path / "run" / "sft.state").exists()
    resumed = start(config, tmp_path / "run", "--resume")
    _, err = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, err
    assert_same_weights(tmp_path / "run", finished)


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.safetensors")}
    config = finished.parent / "config.toml"
    assert main(["train", str(config), "--out", str(finished), "--resume"]) == 0
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*.safetensors")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--set", "stages.sft.stepz=1"], "unknown key stages.sft.stepz"),
        (["train", "missing.toml", "--out", "x"], "missing.toml does not exist"),
        (["chat", "no/such/model"], "no/such/model"),
        (["report", "no/such/run"], "no/such/run"),
        (["demo", "--set", "stages.sft.data.nothing=1.0", "--out", "{tmp}/a"], "nothing"),
        (["demo", "--set", "sandbox.level=none", "--out", "{tmp}/b"], "level"),
    ],
)
def test_a_mistake_is_one_line_without_traceback_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([a.format(tmp=tmp_path) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("qwq: ") and error.count("\n") == 1


def test_the_base_of_an_adapter_opens_like_any_checkpoint(
    finished: Path, tmp_path: Path
) -> None:
    """An adapter that is not continued is merged into it."""
    config = small_config()
    tokenizer = load_tokenizer(finished / "sft")
    policy = LoadedPolicy(checkpoint.load(finished / "sft"), START)
    run = Run(tmp_path / "run", config, resume=False)
    stage = replace(rl_stage(config), lora=LoraConfig(rank=2))
    made = for_stage(run, stage, policy, tokenizer)
    assert made.base == str(tmp_path / "run" / "stage1.base")
    assert load_tokenizer(Path(made.base)).encode("1 + 2") == tokenizer.encode("1 + 2")

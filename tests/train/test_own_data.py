"""A whole run on data of one's own: rows, traces, programs, preferences and a reward, all tiny."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from openqwq.cli import main

CONFIG = """
threads = 1
[shape]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
max_position_embeddings = 256
[tokenizer]
vocab_size = 300
[engine]
slots = 32
[sandbox]
workers = 1
wall_seconds = 2.0
[evaluation]
limit = 4
samples = 1
max_tokens = 8

[data.sums]
rows = "sums.jsonl"
prompt = "{q}\\nEnd with \\\\boxed{}."
system = "Be brief."
answer = "{a}"
answer_pattern = "#### (.+)"
held_out = "test.csv"
[data.traces]
rows = "traces.jsonl"
[data.programs]
rows = "programs.jsonl"
[data.tastes]
rows = "tastes.jsonl"
held_out = 0.3

[[stages]]
name = "cold-start"
kind = "sft"
epochs = 2
batch_size = 4
data = { traces = 1 }

[[stages]]
name = "taste"
kind = "reward_model"
epochs = 1
batch_size = 4
data = { tastes = 1 }

[[stages]]
name = "rl"
kind = "rl"
steps = 2
prompts_per_step = 4
group_size = 2
max_tokens = 8
checkpoint_every = 1
skip_checks = ["ends", "rewards"]
informative = "reward"
truncated = "zero"
data = { sums = 1, programs = 1, tastes = 1 }
rewards = [{ use = "verifier" }, { use = "rewards.py:length", weight = 0.1 }]
rewards_of.tastes = [{ use = "stage:taste" }]
evaluate = { every = 1, data = ["sums"] }
"""
REWARDS = "def length(task, completion): return float(len(completion))\n"


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def assistant(thinking: str, text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text, "reasoning_content": thinking}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, layers: dict[str, str]) -> Path:
    """Everything that the run of CONFIG reads, and the run."""
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    path = tmp_path_factory.mktemp("own")
    (path / "run.toml").write_text(CONFIG)
    (path / "rewards.py").write_text(REWARDS)
    write(
        path / "sums.jsonl", [{"q": f"{n} + 1?", "a": f"so #### {n + 1}"} for n in range(8)]
    )
    test = ["q,a", *(f"{n} + 2?,so #### {n + 2}" for n in range(5))]
    (path / "test.csv").write_text("\n".join(test) + "\n")
    asked = [{"role": "user", "content": "3 + 4?"}]
    write(
        path / "traces.jsonl",
        [{"messages": [*asked, assistant("3 and 4", f"\\boxed{{{n}}}")]} for n in range(8)],
    )
    tests = [{"input": "2\n", "output": "3\n"}]
    write(
        path / "programs.jsonl",
        [{"problem": f"Add 1 to {n}.", "tests": tests} for n in range(3)],
    )
    write(
        path / "tastes.jsonl",
        [
            {"prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"no {n}"}
            for n in range(12)
        ],
    )
    assert main(["train", str(path / "run.toml"), "--out", str(path / "run")]) == 0
    return path


def test_every_stage_of_the_run_leaves_its_result(folder: Path) -> None:
    for stage in ("cold-start", "rl"):
        assert (folder / "run" / stage / "config.json").exists()
    log = [
        json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()
    ]
    steps = [line for line in log if line["stage"] == "rl" and "status" in line]
    assert len(steps) == 2
    assert all("error" not in line["status"] for line in steps)
    seen = {kind for line in steps for kind in line["reward_by_kind"]}
    assert seen <= {"sums", "programs", "tastes"} and len(seen) >= 2


def test_held_out_rows_are_evaluated_and_no_others(folder: Path) -> None:
    outcomes = list((folder / "run" / "evaluation").glob("*.json*"))
    asked: set[str] = set()
    for path in outcomes:
        asked.update(part for part in path.read_text().split('"') if "held_out-" in part)
    assert {f"sums:held_out-{n}" for n in range(1, 5)} <= asked
    assert "sums:held_out-5" not in asked  # the limit is 4


def test_what_cannot_be_judged_has_no_accuracy(folder: Path) -> None:
    for path in (folder / "run" / "evaluation").glob("*.json"):
        settings = json.loads(path.read_text())["settings"]
        assert settings["tables"] == ["sums"], path.name  # not the pairs of tastes


def test_the_lock_names_every_file_and_a_changed_one_is_refused_on_resume(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = json.loads((folder / "run" / "data.lock").read_text())
    names = {Path(reference).name for reference in lock}
    assert names == {
        "sums.jsonl",
        "test.csv",
        "traces.jsonl",
        "programs.jsonl",
        "tastes.jsonl",
    }

    sums = folder / "sums.jsonl"
    before = sums.read_text()
    try:
        sums.write_text(before + before)
        arguments = [
            "train",
            str(folder / "run.toml"),
            "--out",
            str(folder / "run"),
            "--resume",
        ]
        assert main(arguments) == 2
        assert "sums.jsonl has changed since the run began" in capsys.readouterr().err
    finally:
        sums.write_text(before)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "sums.jsonl",
            '{"q": "1 + 1?", "a": "2"}\n',
            r"sums\.jsonl row 1, answer_pattern: ",
        ),
        (
            "sums.jsonl",
            '{"q": "0 + 2?", "a": "#### 2"}\n',
            r"row 1, held_out: .* test\.csv row 1",
        ),
        (
            "traces.jsonl",
            '{"messages": [{"role": "user", "content": "1?"}]}\n',
            "no reply to imitate",
        ),
        (
            "rewards.py",
            "length = oops\n",
            r"rewards\.py cannot be imported: NameError",
        ),
    ],
)
def test_what_cannot_work_is_said_before_the_runs_directory_is_made(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    content: str,
    said: str,
) -> None:
    copy = tmp_path / "own"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("run"))
    (copy / file).write_text(content)
    assert main(["train", str(copy / "run.toml"), "--out", str(copy / "run")]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(said, error), error
    assert not (copy / "run").exists()


def test_budgets_for_recorded_conversations_are_refused_before_the_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "own"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("run"))
    budgets = ["--set", "stages.cold-start.thinking_budgets=[4, 8]"]
    run = copy / "run"
    assert main(["train", str(copy / "run.toml"), *budgets, "--out", str(run)]) == 2
    said = "whose rows are recorded conversations .* stages.cold-start.thinking_budgets cut"
    assert re.search(said, capsys.readouterr().err)
    assert not run.exists()

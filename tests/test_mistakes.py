"""What a newcomer gets wrong is one line that names it and what to do, with exit status 2."""

from pathlib import Path

import pytest

from openqwq.cli import main

MISTAKES = [
    (["demo", "--out", "FILE"], "is a file: name a directory for the run with --out"),
    (
        ["demo", "--resume", "--out", "FILE"],
        "is a file: name a directory for the run with --out",
    ),
    (["demo", "--set", "steps=3"], "unknown key steps"),
    (["demo", "--set", "stages.sft.steps"], "stages.sft.steps"),
    (["train", "FILE"], "add --out DIR"),
    (["train", "nowhere.toml"], "config file nowhere.toml does not exist"),
    (["train", "FOLDER"], "cannot be read"),
    (["data", "FILE"], "has no table [data.NAME]"),
    (["data", "nowhere.toml"], "config file nowhere.toml does not exist"),
    (["models", "FILE"], "is not a directory"),
    (["models", "nowhere"], "nowhere is not a directory"),
    (["report", "FILE"], "FILE"),
    (["rollouts", "FOLDER"], "FOLDER"),
    (["fit", "FILE"], "cannot read"),
    (["ask", "nowhere", "question"], "nowhere"),
    (["eval"], "no MODEL was named"),
    (["eval", "--compare", "FILE", "FILE"], "run.json cannot be read"),
    (["verify", "FILE", "--verifier", "math"], "is not a file of rows"),
    (["feedback", "export", "nowhere.db", "rows"], "nowhere.db does not exist"),
    (["mcp", "--tools", "nothing"], "unknown tool 'nothing'"),
]


@pytest.mark.parametrize(
    ("arguments", "said"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES]
)
def test_a_mistake_is_one_line_that_names_it(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    (tmp_path / "FOLDER").mkdir()
    assert main(arguments) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint.startswith("qwq: ") and said in complaint


@pytest.mark.parametrize(
    "words", [["doctr"], ["--doctor"], ["doctor", "now"], ["demo", "mini"]]
)
def test_a_word_that_is_not_known_is_refused_with_the_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("usage: qwq ")


def test_a_folder_without_models_is_said_to_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert main(["models", str(tmp_path)]) == 0
    assert "no model in" in capsys.readouterr().err

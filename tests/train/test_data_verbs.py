"""`qwq data` and `qwq collect` from the command line, with tiny models and no network."""

import json
import re
from pathlib import Path

import pytest

from openqwq.cli import main
from openqwq.config import ShapeConfig
from openqwq.model import checkpoint
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.policies import fresh_model

CONFIG = """
[data.own]
rows = "own.jsonl"

[[stages]]
name = "first"
kind = "sft"
epochs = 1
data = { own = 1 }
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = [
        {"question": f"{n} + 1?", "answer": n + 1, "solution": "Count."} for n in range(4)
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path / "run.toml"


def test_data_prints_a_report_and_writes_a_page(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = run.with_name("data.html")
    assert main(["data", str(run), "--against", "none", "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "to train on 4, 100% of the rows" in shown
    assert "4 of 8 golds fail with their own verifier" in shown  # "Count." gives no answer
    assert page.read_text().startswith("<!doctype html>")
    assert main(["data", str(run), "--against", "none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"][0]["rows"]["train"] == 4


def test_data_knows_the_configs_that_come_with_the_package(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["data", "mini", "--against", "none", "--tasks", "4", "--golds", "2"]) == 0
    shown = capsys.readouterr().out
    assert "calculator" in shown and "golds       4 of 4" in shown
    assert "golds fail" not in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--against", "aime26"], "unknown benchmark 'aime26'"),
        (["--tasks", "0"], "--tasks is 0"),
        (
            ["--set", "data.own.verifier=maths"],
            r"data\.own\.verifier names .* did you mean",
        ),
        (["--set", "data.own.verifier=no.py:f"], r"no\.py does not exist"),
        (["--set", "data.own.prompt={q}"], "no rows that can be used; .*no column 'q'"),
    ],
)
def test_data_refuses_what_it_cannot_do(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["data", str(run), *arguments]) == 2
    assert re.search(said, capsys.readouterr().err)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    tokenizer = Tokenizer.train(["0 + 1? 1 2 3"], 300)
    shape = ShapeConfig(32, 64, 1, 2, 1, max_position_embeddings=128)
    checkpoint.save(fresh_model(shape, tokenizer, 0), tmp_path / "teacher", tokenizer)
    return tmp_path / "teacher"


def test_collect_asks_a_model_for_every_row_and_goes_on_where_it_was(
    run: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run.with_name("traces.jsonl")
    arguments = ["collect", str(teacher), "--data", f"{run}:own", "--out", str(out)]
    arguments += ["--samples", "2", "--max-tokens", "4", "--limit", "3", "--device", "cpu"]
    assert main(arguments) == 0
    assert (
        f"of 6 replies are right, to 0 of 3 tasks; 0 rows in {out}"
        in capsys.readouterr().out
    )
    assert main(arguments) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    replies = (run.with_name("traces.replies") / "own.jsonl").read_text().splitlines()
    assert len(replies) == 6


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{run}:other", r"has no \[data\.other\]: it has own"),
        ("{run}.jsonl", r"does not exist"),
    ],
)
def test_collect_names_data_that_is_not_there(
    run: Path, capsys: pytest.CaptureFixture[str], data: str, said: str
) -> None:
    out = run.with_name("traces.jsonl")
    assert main(["collect", "m", "--data", data.format(run=run), "--out", str(out)]) == 2
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own.jsonl", "exists, and qwq collect did not write it: choose another --out"),
        ("traces.jsonl.gz", "rows are written as JSON lines"),
        ("traces.parquet", "rows are written as JSON lines"),
    ],
)
def test_collect_replaces_no_other_file_and_writes_what_can_be_read(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    out = run.with_name(name)
    before = out.read_bytes() if out.exists() else None
    assert main(["collect", "m", "--data", f"{run}:own", "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert (out.read_bytes() if out.exists() else None) == before


def test_collect_refuses_counts_below_one(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(run.with_name("traces.jsonl"))
    for name in ("samples", "limit", "max-tokens", "concurrency", "context-length"):
        arguments = ["collect", "m", "--data", f"{run}:own", "--out", out, f"--{name}", "0"]
        assert main(arguments) == 2
        assert f"--{name} is 0: it must be at least 1" in capsys.readouterr().err


def test_two_models_are_evaluated_and_compared_on_rows_of_ones_own(
    run: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(run.with_name("own.jsonl"))
    outs = [str(run.with_name(name)) for name in ("a", "b")]
    for out, seed in zip(outs, ("0", "1"), strict=True):
        arguments = ["eval", str(teacher), "--tasks", data, "--out", out, "--seed", seed]
        assert (
            main([*arguments, "--max-tokens", "4", "--samples", "2", "--device", "cpu"])
            == 0
        )
    assert "own" in capsys.readouterr().out
    assert main(["eval", "--compare", *outs]) == 0
    assert "B − A, points" in capsys.readouterr().out

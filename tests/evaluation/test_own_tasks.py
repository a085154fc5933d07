"""`qwq eval` on data of one's own: asked, judged and compared like a benchmark."""

import json
from pathlib import Path

import pytest

from openqwq.cli import main
from openqwq.config import load_config
from openqwq.data.hub import DataLock
from openqwq.evaluation.own_tasks import is_own, own_config, own_selections
from openqwq.types import OpenQwQError

CONFIG = """
[sandbox]
wall_seconds = 2.0
[data.own]
rows = "own.jsonl"
held_out = 0.4
[data.sums]
source = "addition"
options = { min_digits = 1, max_digits = 2 }
[data.plain]
rows = "own.jsonl"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    rows = [{"question": f"{n} + 1?", "answer": n + 1} for n in range(10)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path / "run.toml"


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("run.toml", True),
        ("run.toml:own", True),
        ("a/rows.jsonl.gz", True),
        ("rows.parquet", True),
        ("hf://datasets/a/b/c.parquet", True),
        ("gsm8k", False),
        ("bfcl/live", False),
    ],
)
def test_own_data_is_told_from_benchmarks_by_its_name(name: str, own: bool) -> None:
    assert is_own(name) == own


def test_one_table_of_a_config_can_be_named(config: Path) -> None:
    own = own_config(f"{config}:own")
    assert list(own.data) == ["own"]
    assert own.sandbox.wall_seconds == 2.0
    with pytest.raises(
        OpenQwQError, match=r"has no \[data\.other\]: it has own, sums, plain"
    ):
        own_config(f"{config}:other")


def test_a_file_of_rows_is_a_table_of_its_own(config: Path) -> None:
    own = own_config(str(config.with_name("own.jsonl")))
    (selection,) = own_selections(own, DataLock(), None)
    assert (selection.name, len(selection.tasks)) == ("own", 10)


def test_held_out_rows_are_asked_and_all_rows_where_none_are_held_out(config: Path) -> None:
    lock = DataLock()
    loaded = load_config([config])
    own, sums, plain = own_selections(loaded, lock, None)
    assert 0 < len(own.tasks) < 10
    assert len(plain.tasks) == 10
    assert len(sums.tasks) > 10
    assert [path for path in lock.files if path.endswith("own.jsonl")]
    fewer = own_selections(loaded, lock, 2)
    assert [len(selection.tasks) for selection in fewer] == [2, 2, 2]


def test_bad_rows_are_left_out_and_listed_where_asked(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = config.with_name("own.jsonl")
    rows.write_text(rows.read_text() + '{"question": "1 + 1?"}\n')
    own = own_config(str(rows))
    with pytest.raises(OpenQwQError, match="with --skip-bad-rows"):
        own_selections(own, DataLock(), None)
    (selection,) = own_selections(own, DataLock(), None, skip_bad_rows=True)
    assert len(selection.tasks) == 10
    assert "left out: own.jsonl row 11" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("a/test.jsonl", "b/test.jsonl", "test"),
        ("gsm8k", "gsm8k.toml", "gsm8k"),
        ("gsm8k.toml", "gsm8k.toml:gsm8k", "gsm8k"),
    ],
)
def test_two_tables_or_benchmarks_of_one_name_are_refused(
    first: str,
    second: str,
    shared: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = json.dumps({"question": "1 + 1?", "answer": "#### 2"})
    for folder in ("a", "b", "gsm8k"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.jsonl").write_text(row)
    (tmp_path / "gsm8k.toml").write_text('[data.gsm8k]\nrows = "a/test.jsonl"\n')
    monkeypatch.chdir(tmp_path)
    data = ["--data", str(tmp_path), "--allow-changed-data", "--out", "out"]
    assert main(["eval", "nowhere", "--tasks", f"{first},{second}", *data]) == 2
    told = capsys.readouterr().err
    assert f"{first} and {second} would both be saved as '{shared}': rename one" in told
    assert not (tmp_path / "out").exists()

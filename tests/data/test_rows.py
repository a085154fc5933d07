"""The reader of row files: one meaning for every form, and errors that name file and row."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from openqwq.data.rows import numbered_rows, read_rows, text_rows
from openqwq.types import OpenQwQError

ROWS = [
    {"question": "1 + 1?\nThink.", "answer": "2"},
    {"question": 'Say "é, ü\u2028"', "answer": "é"},
]


def lines() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def table(path: Path, delimiter: str) -> bytes:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["question", "answer"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    return path.read_bytes()


def test_every_form_of_a_file_gives_the_same_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pip install pyarrow")
    from pyarrow import parquet

    forms = {
        "a.jsonl": lines(),
        "a.json": json.dumps(ROWS).encode(),
        "lines.json": lines(),
        "bom.jsonl": b"\xef\xbb\xbf" + lines(),
        "crlf.jsonl": lines().replace(b"\n", b"\r\n"),
        "a.csv": table(tmp_path / "scratch", ","),
        "a.tsv": table(tmp_path / "scratch", "\t"),
    }
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        assert list(read_rows(tmp_path / name)) == ROWS, name
        assert list(read_rows(tmp_path / f"{name}.gz")) == ROWS, name
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet")) == ROWS


def test_blank_lines_are_passed_over_and_numbers_are_those_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n  \n{"a": 2}\n')
    assert list(numbered_rows(path)) == [(1, {"a": 1}), (4, {"a": 2})]


def test_a_table_with_an_index_that_pandas_left_unnamed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",question\n0,why\n")
    assert list(read_rows(path)) == [{"unnamed 0": "0", "question": "why"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": ',
            r"a\.jsonl row 2 is not JSON .*: write one object a line",
        ),
        ("a.jsonl", b"[1]\n", r"a\.jsonl row 1 is \[1\]: it must be an object"),
        ("a.json", b'[{"a": 1}, 2]', r"a\.json row 2 is 2: it must be an object"),
        ("a.json", b'[{"a": 1},', r"a\.json is not JSON"),
        ("a.jsonl", b'{"a": "\xff"}', r"a\.jsonl is not UTF-8 .*: convert it"),
        (
            "a.jsonl.gz",
            b"plain",
            r"a\.jsonl\.gz cannot be read .*: .* name it without \.gz",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(lines(), mtime=0)[:-9],
            r"a\.jsonl\.gz cannot be read .*: get the file again",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(lines(), mtime=0)[:10] + b"\xff" * 40,
            r"a\.jsonl\.gz cannot be read .*: get the file again",
        ),
        ("a.json", b"[" * 100_000, r"a\.json is not JSON"),
        ("a.jsonl", gzip.compress(lines(), mtime=0), r"it is packed by gzip, so add \.gz"),
        ("a.jsonl", b'[\n {"a": 1}\n]', r"row 1 is not JSON .* JSON list is named \.json"),
        (
            "a.csv",
            b"a,a\n1,2\n",
            r"a\.csv has the columns \['a', 'a'\]: .* each column once",
        ),
        ("a.csv", b"a,b\n1,2,3\n", r"a\.csv row 1 has 3 cells, the header 2"),
        ("a.csv", b'a\n"1\n', r"a\.csv line \d cannot be read .*: check its quotes"),
        ("a.parquet", b"no", r"a\.parquet is not a whole parquet file"),
        ("a.txt", b"", r"a\.txt is not a file of rows: .*\.jsonl"),
        (
            "a.csv",
            b"q;a\n1;2\n",
            r"a\.csv has the one column 'q;a': separate columns by commas",
        ),
        ("a.jsonl", b'[{"q": 1}]', r"row 1 is .* one JSON list is named \.json"),
        (
            "a.json",
            b'{\n"data": [{"q": 1}]}',
            r"one object with 'data': it must be a list of rows",
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_its_file_and_row(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(OpenQwQError, match=said):
        list(read_rows(path))


def test_a_missing_file_names_the_nearest_and_a_directory_its_files(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(lines())
    with pytest.raises(
        OpenQwQError, match=r"trian\.jsonl does not exist: did you mean 'train"
    ):
        list(read_rows(tmp_path / "trian.jsonl"))
    folder = tmp_path / "shards.jsonl"
    folder.mkdir()
    (folder / "one.jsonl").write_bytes(lines())
    with pytest.raises(OpenQwQError, match=r"is a directory: name one of one\.jsonl"):
        list(read_rows(folder))


def test_spaces_around_the_names_of_a_csv_belong_to_no_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question, answer\nWhat?,5\n")
    assert list(read_rows(path)) == [{"question": "What?", "answer": "5"}]
    whole = tmp_path / "b.jsonl"
    whole.write_text('{"q": "\\ud83d\\ude00"}\n')
    assert list(read_rows(whole)) == [{"q": "\N{GRINNING FACE}"}]


@pytest.mark.parametrize(("name", "form"), [("a.jsonl", "{}"), ("a.json", "[{}]")])
def test_half_a_character_is_judged_and_not_taught(
    tmp_path: Path, name: str, form: str
) -> None:
    path = tmp_path / name
    path.write_text(form.format(r'{"q": "\ud800x"}'))
    assert list(read_rows(path)) == [{"q": "\ud800x"}]
    with pytest.raises(
        OpenQwQError, match=r"row 1 has half a character, '\\ud800': remove"
    ):
        list(text_rows(path))
    path.write_text(form.format(r'{"q": "\ud83d\ude00"}'))
    assert list(text_rows(path)) == [(1, {"q": "\U0001f600"})]

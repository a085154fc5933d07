"""`qwq verify`: rows of a file are judged, counted by status, and compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from openqwq.cli import main

ADD = {"form": "script", "entry_point": "add", "script": "assert add(1, 2) == 3"}
STDIN = {"form": "stdin", "cases": [{"input": "1 2\n", "expected": "3\n"}]}


def verify(
    path: Path, verifier: str, rows: list[dict[str, Any]], *options: str
) -> list[dict[str, Any]]:
    file = path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    out = path / "out.jsonl"
    words = [
        "verify",
        str(file),
        "--verifier",
        verifier,
        "--workers",
        "1",
        "--out",
        str(out),
    ]
    assert main([*words, *options]) in (0, None)
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_mathematics_is_judged_with_reasons_counts_and_agreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": "a", "gold": "1/2", "answer": "So \\boxed{0.5}", "expected": "correct"},
        {"id": "b", "gold": 7, "answer": "<think>8</think>\\boxed{8}", "expected": "wrong"},
        {"id": "c", "gold": "?!", "answer": "\\boxed{8}", "expected": "error"},
        {"id": "d", "gold": "8", "answer": "\0\ud800", "expected": "correct or error"},
    ]
    found = verify(tmp_path, "math", rows)
    assert [each["status"] for each in found] == ["correct", "wrong", "error", "wrong"]
    assert [each["agrees"] for each in found] == [True, True, True, False]
    assert "cannot be parsed" in found[2]["detail"]
    printed = capsys.readouterr().out
    assert "4 rows: 2 wrong, 1 correct, 1 error" in printed
    assert "rows/s; 3 of 4 as expected" in printed


def test_programs_are_judged_by_tests_of_their_rows(tmp_path: Path) -> None:
    right = "```python\ndef add(a, b): return a + b\n```"
    rows = [
        {"tests": ADD, "answer": right},
        {"tests": ADD, "answer": right.replace("+", "-")},
        {"tests": STDIN, "answer": "print(sum(map(int, input().split())))"},
        {"tests": STDIN, "answer": "print(3)  # \0"},
        {"tests": STDIN, "answer": "print(3)  # \ud800"},
        {"tests": STDIN, "answer": "x = 1\n" * 400_000},
        {"tests": ADD | {"script": "x = ("}, "answer": right},
    ]
    found = verify(tmp_path, "code", rows)
    statuses = [each["status"] for each in found]
    assert statuses == ["correct", "wrong", "correct", "wrong", "wrong", "wrong", "error"]
    assert "cannot be compiled" in found[-1]["detail"]


def test_other_judges_take_rows_too(tmp_path: Path) -> None:
    rules = [{"id": "punctuation:no_comma"}]
    found = verify(tmp_path, "instructions", [{"rules": rules, "answer": "a, b"}])
    assert found[0]["status"] == "wrong"
    entry = {"answer": "3", "metadata": {"source_dataset": "gcd"}}
    found = verify(tmp_path, "gym", [{"entry": entry, "answer": "The answer is **3**."}])
    assert found[0]["status"] == "correct"


def test_thinking_that_never_ends_is_truncated_where_it_is_asked_for(
    tmp_path: Path,
) -> None:
    rows = [{"gold": "7", "answer": "so \\boxed{7}"}]
    assert verify(tmp_path, "math", rows, "--thinking")[0]["status"] == "truncated"
    assert verify(tmp_path, "math", rows)[0]["status"] == "correct"


def test_tools_are_read_from_json_text_as_csv_files_hold_them(tmp_path: Path) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    function = {"name": "f", "parameters": parameters | {"required": ["a"]}}
    call = {"name": "f", "arguments": {"a": 1}}
    answer = f"<tool_call>{json.dumps(call)}</tool_call>"
    row = {"gold": [{"f": {"a": [1]}}], "answer": answer}
    rows = [row | {"tools": tools} for tools in ([function], json.dumps([function]))]
    rows.append({"gold": [], "answer": "No call.", "tools": None})
    found = verify(tmp_path, "tool_calls", rows)
    assert [each["status"] for each in found] == ["correct", "correct", "correct"]


@pytest.mark.parametrize(
    ("verifier", "row", "named"),
    [
        ("code", {"tests": [], "answer": "7"}, "row 1: tests: there are no tests: give"),
        (
            "tool_calls",
            {"gold": [], "answer": "7", "tools": "f"},
            "row 1: tools: it is 'f': it must be a list of tools",
        ),
        ("gym", {"gold": "7", "answer": "7"}, "row 1: the entry is '7': it must be"),
    ],
)
def test_tests_tools_and_entries_that_cannot_be_read_are_named(
    tmp_path: Path,
    verifier: str,
    row: dict[str, Any],
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    assert main(["verify", str(file), "--verifier", verifier]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--workers=0", "--limit=-1", "--limit=0"])
def test_counts_below_one_are_refused(
    tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"gold": "7", "answer": "7"}))
    assert main(["verify", str(file), "--verifier", "math", flag]) == 2
    name, _, value = flag.partition("=")
    assert f"{name} is {value}: it must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"answer": "7"}, "row 1: no gold: looked for gold"),
        ({"gold": "7"}, "row 1: no answer: looked for answer"),
        ({"gold": "7", "answer": 7}, "row 1: the answer is of type 'int'"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    tmp_path: Path, row: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    assert main(["verify", str(file), "--verifier", "math"]) == 2
    assert named in capsys.readouterr().err

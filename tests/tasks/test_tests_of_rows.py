"""Hidden tests of rows that could be taken for another form."""

import json
from pathlib import Path
from typing import Any

import pytest

from openqwq.config import DataConfig
from openqwq.data.hub import DataLock
from openqwq.tasks.rows import open_rows
from openqwq.types import CodeTests, OpenQwQError, TestCase


def read_from(folder: Path, **columns: Any) -> CodeTests | None:
    path = folder / "rows.jsonl"
    path.write_text(json.dumps({"problem": "Write add(a, b).", **columns}) + "\n")
    table = open_rows("own", DataConfig(rows=str(path)), DataLock())
    return table.rows[0].task.tests


@pytest.mark.parametrize("mark", [{"type": "function_call"}, {}])
def test_a_test_that_names_its_function_calls_it(
    tmp_path: Path, mark: dict[str, str]
) -> None:
    case = {**mark, "fn_name": "add", "input": [2, 3], "output": 5}
    expected = CodeTests("call", (TestCase([2, 3], 5),), "add")
    assert read_from(tmp_path, tests=json.dumps([case])) == expected


@pytest.mark.parametrize("given", [[2, 3], {"a": 2}])
def test_arguments_without_a_function_are_not_taken_for_lines(
    tmp_path: Path, given: object
) -> None:
    with pytest.raises(OpenQwQError, match=r"tests\.0: it is .* in a column entry_point"):
        read_from(tmp_path, tests=[{"input": given, "output": 5}])
    lines = read_from(tmp_path, tests=[{"input": ["2", "3"], "output": 5}])
    assert lines == CodeTests("stdin", (TestCase("2\n3", "5"),))


@pytest.mark.parametrize(
    ("limits", "said"),
    [({"wall_second": 2}, "wall_seconds"), ({"wall_seconds": "2"}, "'2'")],
)
def test_limits_that_the_sandbox_does_not_know_are_refused_with_their_row(
    tmp_path: Path, limits: dict[str, object], said: str
) -> None:
    own = {"form": "stdin", "cases": [{"input": "1", "output": "2"}], "limits": limits}
    with pytest.raises(OpenQwQError, match=rf"row 1, tests\.limits: .*{said}"):
        read_from(tmp_path, tests=own)
    own["limits"] = {"wall_seconds": 2, "memory_bytes": None}  # as parquet fills an object
    tests = read_from(tmp_path, tests=own)
    assert tests is not None and tests.limits == {"wall_seconds": 2}

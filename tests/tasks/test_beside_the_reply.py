"""What a row says about its reply: whether it was good, and what was thought before it."""

import json
from pathlib import Path
from typing import Any

import pytest

from openqwq.config import DataConfig
from openqwq.data.hub import DataLock
from openqwq.tasks.rows import open_rows
from openqwq.types import OpenQwQError, Task


def opened(folder: Path, *rows: dict[str, Any], **settings: Any) -> list[Task]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = open_rows("own", DataConfig(rows=str(path), **settings), DataLock())
    return [row.task for row in table.rows]


@pytest.mark.parametrize("label", [True, False, 0, 1, "True", "false"])
def test_a_rated_reply_is_not_imitated_however_its_rating_is_written(
    tmp_path: Path, label: object
) -> None:
    row = {"prompt": "2 + 3?", "completion": "6", "Label": label}
    with pytest.raises(OpenQwQError, match=r"row 1, label: single ratings .*good rows"):
        opened(tmp_path, row)


def test_a_label_that_names_a_class_is_no_rating(tmp_path: Path) -> None:
    row = {"prompt": "2 + 3?", "completion": "5", "label": "sums"}
    (task,) = opened(tmp_path, row)
    assert task.demonstration == ({"role": "assistant", "content": "5"},)


@pytest.mark.parametrize("column", ["reasoning_content", "reasoning", "Thinking"])
def test_thinking_in_a_column_of_its_own_belongs_to_the_reply(
    tmp_path: Path, column: str
) -> None:
    (reply,) = opened(tmp_path, {"question": "2 + 3?", column: "Count.", "response": "5"})
    thought = {"role": "assistant", "content": "5", "reasoning_content": "Count."}
    assert reply.demonstration == (thought,)
    row = {"problem": "2 + 3?", column: "Count.", "solution": "It is \\boxed{5}."}
    (solved,) = opened(tmp_path, row)
    assert solved.solution == "Count.\n</think>\n\nIt is \\boxed{5}."
    assert solved.answer == "5"


def test_openthoughts_marks_are_read_and_not_imitated(tmp_path: Path) -> None:
    text = "<|begin_of_thought|>\n\nCount.\n\n<|end_of_thought|>\n\n"
    text += "<|begin_of_solution|>\n\nIt is 5.\n\n<|end_of_solution|>"
    turns = [{"from": "user", "value": "2 + 3?"}, {"from": "assistant", "value": text}]
    (task,) = opened(tmp_path, {"conversations": turns})
    thought = {"role": "assistant", "content": "It is 5.", "reasoning_content": "Count."}
    assert task.demonstration == (thought,)


def test_a_column_that_says_whether_there_is_thinking_is_not_the_thinking(
    tmp_path: Path,
) -> None:
    row = {"prompt": "2 + 3?", "output": "<think>Count.</think>5", "reasoning": "on"}
    other = {"prompt": "4 + 4?", "output": "8", "reasoning": "off"}
    with_thinking, without = opened(tmp_path, row, other)
    assert with_thinking.demonstration[0]["reasoning_content"] == "Count."
    assert "reasoning_content" not in without.demonstration[0]


def test_a_turn_alone_is_a_turn_and_not_its_json(tmp_path: Path) -> None:
    asked = {"from": "human", "value": "2 + 3?"}
    right = {"from": "gpt", "value": "5"}
    pair = {"conversations": [asked], "chosen": right, "rejected": {**right, "value": "6"}}
    (task,) = opened(tmp_path, pair)
    assert task.demonstration == ({"role": "assistant", "content": "5"},)
    turn = {"role": "user", "content": "2 + 3?"}
    (task,) = opened(tmp_path, {"prompt": turn, "answer": "5"})
    assert task.messages == (turn,)

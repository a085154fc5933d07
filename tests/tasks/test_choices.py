"""Multiple-choice rows: what is asked, and which letter is right."""

import json
from pathlib import Path
from typing import Any

import pytest

from openqwq.config import DataConfig
from openqwq.data.hub import DataLock
from openqwq.tasks.rows import open_rows
from openqwq.types import OpenQwQError, Task

NAMED = {"question": "What is 2 + 3?", "choices": ["4", "5", "6"]}


def opened(folder: Path, row: dict[str, Any], **settings: Any) -> Task:
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    table = open_rows("own", DataConfig(rows=str(path), **settings), DataLock())
    return table.rows[0].task


@pytest.mark.parametrize(
    "row",
    [
        {"choices": ["4", "5", "6"], "answer": 1},
        {"options": ["4", "5", "6"], "answer": "B"},
        {"choices": ["4", "5", "6"], "answer": "5"},
        {"choices": '["4", "5", "6"]', "answer": "b"},
        {"choices": {"text": ["4", "5", "6"], "label": ["A", "B", "C"]}, "answerKey": "B"},
        {"options": {"A": 4, "B": 5, "C": 6}, "answer": "5", "answer_idx": "B"},
    ],
)
def test_choices_stand_below_the_question_and_the_letter_is_right(
    tmp_path: Path, row: dict[str, Any]
) -> None:
    task = opened(tmp_path, {"question": "What is 2 + 3?", **row})
    assert task.messages[-1]["content"] == "What is 2 + 3?\n\nA. 4\nB. 5\nC. 6"
    assert (task.answer, task.verifier) == ("B", "math")


@pytest.mark.parametrize("key", ["2", 2])
def test_a_number_that_labels_a_choice_is_no_index(tmp_path: Path, key: object) -> None:
    choices = {"text": ["4", "5", "6", "7"], "label": ["1", "2", "3", "4"]}
    row = {"question": "What is 2 + 3?", "choices": choices, "answerKey": key}
    assert opened(tmp_path, row).answer == "2"


def test_a_question_that_lists_its_choices_is_asked_as_it_is(tmp_path: Path) -> None:
    question = "What is 2 + 3?\n(A) 4\n(B) 5\n(C) 6"
    task = opened(tmp_path, {**NAMED, "question": question, "answer": 1})
    assert (task.messages[-1]["content"], task.answer) == (question, "B")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (3, "3 is none of them"),
        ("7", "'7' is none of them"),
        ([1], r"\[1\] is none of them"),
        (-1, "-1 is none of them"),
    ],
)
def test_an_answer_that_is_no_choice_is_refused(
    tmp_path: Path, answer: object, said: str
) -> None:
    with pytest.raises(OpenQwQError, match=rf"row 1, answer: .* A, B, C, and {said}"):
        opened(tmp_path, {**NAMED, "answer": answer})


def test_a_number_that_is_a_choice_and_the_index_of_another_is_refused(
    tmp_path: Path,
) -> None:
    row = {"question": "What is 1 + 1?", "choices": ["1", "2"], "answer": "1"}
    with pytest.raises(OpenQwQError, match="'1' may be A or B: give the letter"):
        opened(tmp_path, row)


def test_a_prompt_of_the_config_is_asked_as_it_says(tmp_path: Path) -> None:
    task = opened(tmp_path, {**NAMED, "answer": 5}, prompt="{question}")
    assert (task.messages[-1]["content"], task.answer) == ("What is 2 + 3?", "5")


def test_a_pattern_finds_the_letter_in_a_worked_answer(tmp_path: Path) -> None:
    row = {**NAMED, "answer": "2 + 3 is 5, so the answer is (B)."}
    assert opened(tmp_path, row, answer_pattern=r"\((\w)\)").answer == "B"

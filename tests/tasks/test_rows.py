"""Tables over rows: what is asked, what is held out, and which rows stop a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from openqwq.config import DataConfig
from openqwq.data.hub import DataLock
from openqwq.tasks.rows import RowTable, open_rows, require_apart
from openqwq.types import OpenQwQError
from openqwq.verify.toolcalls import RightCalls

Rows = Sequence[Mapping[str, Any]]
SUMS = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(200)]


class Folder:
    """Writes row files and opens tables over them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, rows: Rows, name: str = "rows.jsonl") -> str:
        file = self.path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(file)

    def open(
        self, rows: Rows, *, table: str = "sums", skip: bool = False, **settings: Any
    ) -> RowTable:
        config = DataConfig(rows=self.write(rows), **settings)
        return open_rows(table, config, DataLock(), skip_bad_rows=skip)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def questions(table: RowTable) -> tuple[list[str], list[str]]:
    sides = table.rows, table.held_out_rows
    texts = [[r.task.messages[-1]["content"] for r in records] for records in sides]
    return texts[0], texts[1]


def test_templates_say_what_is_asked_and_what_is_right(folder: Folder) -> None:
    rows = [{"q": "2 + 3?", "a": "hm #### 4 #### 5", "w": "Count.", "hint": {"level": 1}}]
    table = folder.open(
        rows,
        prompt="{q}\nEnd with \\boxed{}.",
        system="Level {hint.level}.",
        answer="{a}",
        answer_pattern="#### (\\d+)",
        solution="<think>{w}</think>\\boxed{{5}}",
    )
    (record,) = table.rows
    task = record.task
    assert (task.id, task.kind, task.verifier) == ("sums:1", "sums", "math")
    assert task.messages == (
        {"role": "system", "content": "Level 1."},
        {"role": "user", "content": "2 + 3?\nEnd with \\boxed{}."},
    )
    assert task.answer == "5"
    assert task.solution == "Count.\n</think>\n\n\\boxed{5}"
    assert task.row == rows[0]


def test_a_setting_comes_before_what_the_row_says(folder: Folder) -> None:
    row = {"prompt": "2 + 3?", "answer": "wrong", "right": 5, "system": "Old."}
    (record,) = folder.open(
        [row], answer="{right}", system="New.", verifier="rewards.py:f"
    ).rows
    assert record.task.answer == "5"
    assert record.task.verifier == "rewards.py:f"
    assert record.task.messages[0] == {"role": "system", "content": "New."}


def test_several_answers_are_for_a_verifier_of_ones_own(folder: Folder) -> None:
    row = {"prompt": "2 + 3?", "answer": ["5", "five"]}
    with pytest.raises(OpenQwQError, match=r"there are 2 answers: .* a verifier of yours"):
        folder.open([row])
    (record,) = folder.open([row], verifier="rewards.py:any_of").rows
    assert (record.task.answer, record.task.row) == ('["5", "five"]', row)


def test_objects_are_not_judged_as_mathematics(folder: Folder) -> None:
    rules = '[{"instruction_id": ["detectable_format:title"], "kwargs": [null]}]'
    (record,) = folder.open([{"prompt": "Write.", "ground_truth": rules}]).rows
    assert record.task.verifier == ""
    (interval,) = folder.open([{"prompt": "Solve.", "answer": "[1, 2]"}]).rows
    assert interval.task.verifier == "math"


def test_right_calls_are_read_with_their_row(folder: Folder) -> None:
    right = '[{"add": {"a": [2], "b": [3]}}]'
    rows = [
        {"prompt": "2 + 3?", "answer": right, "tools": [{"name": "add"}]},
        {"prompt": "Hello.", "answer": "add(2, 3)"},
    ]
    table = folder.open(rows[:1], verifier="tool_calls_python")
    assert table.rows[0].task.reference == RightCalls([{"add": {"a": [2], "b": [3]}}])
    with pytest.raises(OpenQwQError, match=r"row 2, answer: the right calls are not JSON"):
        folder.open(rows, verifier="tool_calls_python")


@pytest.mark.parametrize(
    "right",
    [
        '[{"name": "add", "arguments": {"a": 2}}]',
        '[{"subtract": {"a": [2]}}]',
        '[{"add": {"a": 2}}]',
        '{"add": {"a": [2]}}',
    ],
)
def test_right_calls_that_no_reply_could_make_are_refused_before_the_run(
    folder: Folder, right: str
) -> None:
    row = {"prompt": "2 + 3?", "right": right, "tools": [{"name": "add"}]}
    with pytest.raises(OpenQwQError, match=r"row 1, answer: ground truth .* is not"):
        folder.open([row], answer="{right}", verifier="tool_calls_python")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"id": "punctuation:no_commas"}, "unknown instruction 'punctuation:no_commas'"),
        ({"id": "startend:end_checker"}, r"takes \['end_phrase'\] and got {}"),
    ],
)
def test_a_rule_that_nobody_knows_is_refused_before_the_run(
    folder: Folder, rule: Mapping[str, Any], said: str
) -> None:
    rows = [{"prompt": "Write.", "checks": [rule]}]
    with pytest.raises(OpenQwQError, match=rf"row 1, rules: .*{said}"):
        folder.open(rows, rules="{checks}")
    assert folder.open(rows, rules="{checks}", verifier="mine.py:rules").size == 1


def test_a_share_is_split_by_what_is_asked_alone(folder: Folder) -> None:
    one = folder.open(SUMS, held_out=0.2)
    other = folder.open(
        [
            {"id": i, "problem": row["question"] + " ", "answer": 0}
            for i, row in enumerate(SUMS)
        ],
        table="renamed",
        held_out=0.2,
        system="You are careful.",
        prompt="{problem}",
    )
    train, held_out = questions(one)
    assert 20 < len(held_out) < 60
    assert sorted(train + held_out) == sorted(row["question"] for row in SUMS)
    assert [text.strip() for text in questions(other)[1]] == held_out
    fewer = questions(folder.open(SUMS, held_out=0.1))[1]
    assert set(fewer) < set(held_out)


def test_held_out_rows_of_a_file_come_in_its_order_and_of_a_share_by_hash(
    folder: Folder,
) -> None:
    rest = folder.write(SUMS[100:], "test.jsonl")
    table = folder.open(SUMS[:100], held_out=rest, limit=10)
    assert questions(table)[0] == [row["question"] for row in SUMS[:10]]
    assert table.beyond_limit == 90
    first = [task.messages[-1]["content"] for task in table.held_out(3, seed=1)]
    assert first == ["100 + 1?", "101 + 1?", "102 + 1?"]
    assert table.held_out(1, 0)[0].id == "sums:held_out-1"

    shuffled = folder.open(SUMS[::-1], held_out=0.2)
    assert questions(shuffled)[1] == questions(folder.open(SUMS, held_out=0.2))[1]


def test_every_epoch_draws_each_row_once_in_another_order(folder: Folder) -> None:
    table = folder.open(SUMS[:20])
    draws = [table.draw(number, "seed").id for number in range(40)]
    assert len(set(draws[:20])) == len(set(draws[20:])) == 20
    assert draws[:20] != draws[20:]
    assert draws == [table.draw(number, "seed").id for number in range(40)]
    assert draws != [table.draw(number, "other").id for number in range(40)]


def test_a_training_row_that_is_held_out_stops_the_run_and_both_are_named(
    folder: Folder,
) -> None:
    rest = folder.write(SUMS[5:8], "test.jsonl")
    said = r"data\.sums: rows\.jsonl row 6, held_out: .* test\.jsonl row 1: .*\(2 more rows"
    with pytest.raises(OpenQwQError, match=said):
        folder.open(SUMS[:20], held_out=rest)
    table = folder.open(SUMS[:20], held_out=rest, skip=True)
    assert (table.size, len(table.skipped)) == (17, 3)


def test_a_row_held_out_by_another_table_stops_the_run(folder: Folder) -> None:
    one = folder.open(SUMS, held_out=0.2, table="one")
    other = folder.open(SUMS, table="other")
    require_apart([one], [one, other])
    with pytest.raises(
        OpenQwQError, match=r"data\.other would train on .*data\.one holds out"
    ):
        require_apart([other], [one])


GOOD = {"prompt": "2 + 3?", "answer": "5"}


@pytest.mark.parametrize(
    ("bad", "settings", "said"),
    [
        ({"prompt": "4 + 4?"}, {}, r"format: it has no answer, .*unlike rows\.jsonl row 1"),
        (
            {"question": "4 + 4?", "answer": "8"},
            {},
            r"format: its format is 'question', .*'prompt'",
        ),
        (
            {"messages": [{"role": "user", "content": "4 + 4?"}], "answer": "8"},
            {},
            r"format: its format is 'messages'",
        ),
        ({**GOOD, "completion": "8"}, {}, "format: it has recorded reply"),
        ({"prompt": "4 + 4?", "answer": ""}, {}, "answer: the answer is empty"),
        (
            {"prompt": "4 + 4?", "answer": "eight"},
            {"answer_pattern": "(\\d+)"},
            r"answer_pattern: '\(\\\\d\+\)' finds nothing in answer 'eight'",
        ),
        (
            {"prompt": "4 + 4?"},
            {"answer": "{answer}"},
            r"data\.sums\.answer: .*no column 'answer'",
        ),
    ],
)
def test_one_bad_row_stops_the_run_or_is_listed(
    folder: Folder, bad: Mapping[str, Any], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(
        OpenQwQError, match=rf"data\.sums: rows\.jsonl row 2, {said}.*--skip-bad"
    ):
        folder.open([GOOD, bad], **settings)
    table = folder.open([GOOD, bad], skip=True, **settings)
    assert table.size == 1
    assert str(table.skipped[0]).startswith("rows.jsonl row 2, ")


def test_equal_ids_are_refused_with_both_rows(folder: Folder) -> None:
    rows = [{"id": 0, **GOOD}, {"id": 1, "prompt": "4 + 4?", "answer": "8"}]
    assert [r.task.id for r in folder.open(rows).rows] == ["sums:0", "sums:1"]
    with pytest.raises(OpenQwQError, match=r"row 3, id: '1' is also that of row 2"):
        folder.open([*rows, {"id": 1, "prompt": "7 + 7?", "answer": "14"}])


@pytest.mark.parametrize(
    ("verifier", "missing"),
    [("code", "tests"), ("instructions", "rules"), ("math", "answer")],
)
def test_a_verifier_that_the_rows_cannot_feed_is_refused(
    folder: Folder, verifier: str, missing: str
) -> None:
    row = {"prompt": "2 + 3?"} if verifier == "math" else GOOD
    with pytest.raises(
        OpenQwQError, match=rf"{missing}: the verifier '{verifier}' needs it"
    ):
        folder.open([row], verifier=verifier)


def test_a_file_without_usable_rows_and_a_share_that_holds_out_none_are_refused(
    folder: Folder,
) -> None:
    with pytest.raises(OpenQwQError, match=r"rows\.jsonl has no rows that can be used"):
        folder.open([])
    with pytest.raises(OpenQwQError, match=r"none of the 1 rows.*hold out a larger share"):
        folder.open([GOOD], held_out=0.0001)
    with pytest.raises(
        OpenQwQError, match=r"no rows that can be used; the first of them: .*row 1"
    ):
        folder.open([{"prompt": ""}], skip=True)

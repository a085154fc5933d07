"""Preference pairs: written in the field's format, ranked fairly."""

import json
from pathlib import Path

import pytest

from openqwq.config import DataConfig
from openqwq.data.hub import DataLock
from openqwq.tasks.rows import open_rows
from openqwq.train.episodes import Attempt
from openqwq.train.preference_stage import row_pairs
from openqwq.train.preferences import ranked_pairs, save_pairs
from openqwq.types import Message, OpenQwQError, Pair, Score, ScoreStatus, Task

ASK = {"role": "user", "content": "Hi"}
GOOD, BAD = (
    {"role": "assistant", "content": "Hello"},
    {"role": "assistant", "content": "Go"},
)
PAIR = Pair((ASK, GOOD), (ASK, BAD))  # type: ignore[arg-type]


def test_what_is_saved_is_a_table_of_pairs(tmp_path: Path) -> None:
    save_pairs([PAIR, PAIR], tmp_path / "p.jsonl")
    table = open_rows("p", DataConfig(rows=str(tmp_path / "p.jsonl")), DataLock())
    assert table.pairs == [PAIR, PAIR]


def test_a_weight_says_how_often_a_tables_pairs_are_taken(tmp_path: Path) -> None:
    rows = [{"prompt": str(i), "chosen": "yes", "rejected": "no"} for i in range(20)]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = {"p": open_rows("p", DataConfig(rows=str(path)), DataLock())}

    def asked(weight: float) -> list[str]:
        pairs = row_pairs(tables, {"p": weight}, 0)["train"]
        return [pair.chosen[0]["content"] for pair in pairs]

    assert len(set(asked(0.1))) == 2
    assert sorted(map(int, asked(1.0))) == list(range(20))
    assert len(asked(2.5)) == 50 and len(set(asked(2.5))) == 20
    with pytest.raises(OpenQwQError, match=r"weight 0\.01 of 'p' is none of its 20 pairs"):
        asked(0.01)


def attempt(answer: str, value: float, status: ScoreStatus = "wrong") -> Attempt:
    task = Task("t", "topics", (Message(role="user", content="Hi"),), "preference")
    text = f"thinking {value}\n</think>\n\n{answer}" if answer else "never ends"
    return Attempt(task, [], [], text, Score(value, status))


def test_pairs_set_the_best_against_the_worst_and_use_each_answer_once() -> None:
    attempts = [attempt(text, value) for text, value in
                (("a", 0.1), ("b", 0.9), ("c", 0.4), ("d", 0.6), ("b", 0.9))]  # fmt: skip
    pairs = ranked_pairs(attempts, 9)
    said = [(p.chosen[-1]["content"], p.rejected[-1]["content"]) for p in pairs]
    assert said == [("b", "a"), ("d", "c")]
    assert len(ranked_pairs(attempts, 1)) == 1
    assert "thinking" not in str(pairs)


def test_what_cannot_be_compared_gives_no_pair() -> None:
    assert ranked_pairs([attempt("a", 0.5), attempt("b", 0.5)], 9) == []
    assert ranked_pairs([attempt("a", 0.9), attempt("", 0.1)], 9) == []
    assert ranked_pairs([attempt("a", 0.9), attempt("b", 0.1, "error")], 9) == []
    assert ranked_pairs([], 9) == []

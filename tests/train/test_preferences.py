"""Preference pairs: written in the field's format, ranked fairly."""

from pathlib import Path

from openqwq.config import DataConfig
from openqwq.data.hub import DataLock
from openqwq.tasks.rows import open_rows
from openqwq.train.episodes import Attempt
from openqwq.train.preferences import ranked_pairs, save_pairs
from openqwq.types import Message, Pair, Score, ScoreStatus, Task

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

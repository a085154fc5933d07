"""Preference pairs: the field's format read and written, mistakes named, pairs ranked fairly."""

import json
from pathlib import Path

import pytest

from openqwq.train.episodes import Attempt
from openqwq.train.preferences import Pair, load_pairs, ranked_pairs, save_pairs
from openqwq.types import Message, OpenQwQError, Score, ScoreStatus, Task

ASK = {"role": "user", "content": "Hi"}
GOOD, BAD = {"role": "assistant", "content": "Hello"}, {"role": "assistant", "content": "Go"}
PAIR = Pair((ASK, GOOD), (ASK, BAD))  # type: ignore[arg-type]


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_both_forms_of_the_field_give_the_same_pair(tmp_path: Path) -> None:
    path = written(
        tmp_path / "p.jsonl",
        {"chosen": [ASK, GOOD], "rejected": [ASK, BAD], "source": "ignored"},
        "",
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
    )
    assert load_pairs(path) == [PAIR, PAIR]


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    save_pairs([PAIR, PAIR], tmp_path / "p.jsonl")
    assert load_pairs(tmp_path / "p.jsonl") == [PAIR, PAIR]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{oops", "p.jsonl:2 is not JSON"),
        ("[1]", r"p.jsonl:2 is \[1\]: it must be an object"),
        ({"chosen": [ASK, GOOD]}, "'rejected' is None: it must be a list of messages"),
        ({"chosen": "Hello", "rejected": "Go"}, "'chosen' is 'Hello'"),
        ({"chosen": [{"role": "bot", "content": ""}], "rejected": [ASK]}, "'chosen' is"),
        ({"chosen": [ASK], "rejected": [ASK, BAD]}, "chosen ends with a user turn"),
        ({"chosen": [ASK, GOOD], "rejected": [GOOD, BAD]}, "answer different chats"),
        ({"chosen": [ASK, GOOD], "rejected": [ASK, GOOD]}, "are equal: leave the line out"),
    ],
)
def test_a_bad_line_is_named_with_what_is_wrong(tmp_path: Path, row: object, message: str) -> None:
    path = written(tmp_path / "p.jsonl", {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, row)
    with pytest.raises(OpenQwQError, match=message):
        load_pairs(path)


def test_an_absent_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OpenQwQError, match="cannot read preferences"):
        load_pairs(tmp_path / "none.jsonl")
    with pytest.raises(OpenQwQError, match="holds no preference pairs"):
        load_pairs(written(tmp_path / "p.jsonl"))


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

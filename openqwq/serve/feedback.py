"""What readers think of answers, in one SQLite file, and as rows that training takes.

Nothing is kept unless a server was started with `--feedback FILE.db`. One row is one opinion about
one answer; a reader who changes their mind replaces it under the same id.
"""

import argparse
import json
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from openqwq.data.files import write_atomically
from openqwq.data.rows import Row
from openqwq.types import OpenQwQError

LOCK_SECONDS = 5.0  # to wait for another process that holds the file
_TABLE = """
CREATE TABLE IF NOT EXISTS feedback (
    id TEXT PRIMARY KEY, created REAL, kind TEXT, body TEXT
)
"""


class FeedbackLockedError(OpenQwQError):
    """Another process holds the file; later it may be free."""


class FeedbackStore:
    """The opinions of one file, which is made where it is missing.

    Safe to call from several threads. Raises OpenQwQError for a file that cannot be used, and its
    subclass FeedbackLockedError where another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # conversations are private
            self._rows = sqlite3.connect(
                path, check_same_thread=False, timeout=LOCK_SECONDS
            )
            weakref.finalize(self, self._rows.close)  # where nobody closes the store
            self._rows.execute("PRAGMA journal_mode = WAL")
            self._rows.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise _explained(path, error) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._rows.close()

    def put(self, opinion: Row) -> None:
        """Keep an opinion, in place of an earlier one with its `id`."""
        values = (opinion["id"], time.time(), opinion["kind"], json.dumps(opinion))
        self._write("REPLACE INTO feedback VALUES (?, ?, ?, ?)", values)

    def withdraw(self, name: str) -> None:
        """Forget an opinion, where there is one."""
        self._write("DELETE FROM feedback WHERE id = ?", (name,))

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        try:
            with self._lock, self._rows:
                self._rows.execute(statement, values)
        except sqlite3.Error as error:
            raise _explained(self.path, error) from error


def _explained(path: Path, error: Exception) -> OpenQwQError:
    text = str(error)
    if "locked" in text:
        return FeedbackLockedError(
            f"the feedback file {path} is locked by another program: try again when it is done"
        )
    if "full" in text:
        return OpenQwQError(
            f"the disk of the feedback file {path} is full: free some space"
        )
    return OpenQwQError(
        f"the feedback file {path} cannot be used ({error}): name another one"
    )


def read_feedback(path: Path) -> list[Row]:
    """Every opinion of a file, the oldest first; OpenQwQError where it holds none."""
    if not path.is_file():
        raise OpenQwQError(
            f"{path} does not exist: name the file given to qwq serve --feedback"
        )
    try:
        rows = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=LOCK_SECONDS
        )
        try:
            found = rows.execute(
                "SELECT body FROM feedback ORDER BY created, id"
            ).fetchall()
        finally:
            rows.close()
    except sqlite3.Error as error:
        raise _explained(path, error) from error
    if not found:
        raise OpenQwQError(f"{path} holds no feedback yet: rate some answers first")
    return [json.loads(body) for (body,) in found]


def training_rows(opinions: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows for `sft` (messages), `preferences` (prompt, chosen, rejected), `prompts` (prompt).

    A good or edited answer is a demonstration. A preference comes of a choice between two answers,
    of an edit against what it replaced, and of a good and a bad answer to the same messages.
    """
    rows: dict[str, list[Row]] = {"sft": [], "preferences": [], "prompts": []}
    rated: dict[str, dict[int, list[Row]]] = {}
    prompts: dict[str, list[Row]] = {}
    for opinion in opinions:
        prompt: list[Row] = opinion["messages"]
        key = json.dumps(prompt, sort_keys=True)
        prompts.setdefault(key, prompt)
        match opinion["kind"]:
            case "rating":
                sides = rated.setdefault(key, {1: [], -1: []})
                sides[opinion["rating"]].append(opinion["answer"])
                if opinion["rating"] > 0:
                    rows["sft"].append({"messages": [*prompt, _turn(opinion["answer"])]})
            case "edit":
                rows["sft"].append({"messages": [*prompt, _turn(opinion["edited"])]})
                _prefer(rows, prompt, opinion["edited"], opinion["answer"])
            case "preference":
                _prefer(rows, prompt, opinion["chosen"], opinion["rejected"])
    for key, sides in rated.items():
        for good in sides[1]:
            for bad in sides[-1]:
                _prefer(rows, prompts[key], good, bad)
    rows["prompts"] = [{"prompt": prompt} for prompt in prompts.values()]
    return rows


def _prefer(
    rows: dict[str, list[Row]],
    prompt: list[Row],
    good: Row,
    bad: Row,
) -> None:
    if good["content"] != bad["content"]:
        row = {"prompt": prompt, "chosen": [_turn(good)], "rejected": [_turn(bad)]}
        rows["preferences"].append(row)


def _turn(answer: Mapping[str, Any]) -> Row:
    turn: Row = {"role": "assistant", "content": answer["content"]}
    if answer.get("reasoning_content"):
        turn["reasoning_content"] = answer["reasoning_content"]
    return turn


def export_feedback(path: Path, out: Path) -> dict[str, int]:
    """Write `sft.jsonl`, `preferences.jsonl` and `prompts.jsonl` into `out`; rows of each."""
    counts = {}
    for name, rows in training_rows(read_feedback(path)).items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        write_atomically(out / f"{name}.jsonl", "".join(lines).encode())
        counts[name] = len(rows)
    return counts


def add_feedback_verb(parser: argparse.ArgumentParser) -> None:
    """`qwq feedback export DB OUT`."""
    parser.add_argument(
        "action", choices=["export"], help="write the ratings as training rows"
    )
    parser.add_argument(
        "database", type=Path, metavar="DB", help="the file given to qwq serve --feedback"
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="directory for the JSONL files"
    )
    parser.set_defaults(verb=_feedback_verb)


def _feedback_verb(options: argparse.Namespace) -> None:
    for name, count in export_feedback(options.database, options.out).items():
        print(f"{count:7d} rows  {options.out / f'{name}.jsonl'}")

"""Responses that outlive their request, in one SQLite file: what was asked, said and streamed.

A response is stored with its input items, so that a later request may go on from it; a background
response also keeps its events, so that a reader who left may go on where it stopped.
"""

import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openqwq.serve.protocol import ApiError, Json
from openqwq.types import OpenQwQError

KEEP_SECONDS = 30 * 24 * 3600  # as long as OpenAI keeps what it stores
RUNNING = ("queued", "in_progress")
LOCK_SECONDS = 10.0  # to wait for another process that holds the file
_TABLES = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, created REAL, process INTEGER, previous TEXT, status TEXT,
    body TEXT, input TEXT
);
CREATE TABLE IF NOT EXISTS items (id TEXT PRIMARY KEY, response TEXT, body TEXT);
CREATE INDEX IF NOT EXISTS items_by_response ON items (response);
CREATE TABLE IF NOT EXISTS events (
    response TEXT, number INTEGER, body TEXT, PRIMARY KEY (response, number)
) WITHOUT ROWID;
"""


class ResponseStore:
    """The stored responses of one file, or of this process alone where `path` is None.

    Safe to call from several threads. Several servers may share a file. Raises OpenQwQError for a
    file that cannot be used; every method raises ApiError 503 where it cannot be used right now,
    as another program holds it or the disk is full.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.touch(mode=0o600)  # conversations are private
            target = ":memory:" if path is None else str(path)
            self._rows = sqlite3.connect(
                target, check_same_thread=False, timeout=LOCK_SECONDS
            )
            weakref.finalize(self, self._rows.close)  # where nobody closes the store
            self._rows.execute("PRAGMA journal_mode = WAL")
            self._rows.execute("PRAGMA synchronous = NORMAL")
            self._rows.executescript(_TABLES)
            self._forget_old()
            self._settle_abandoned()
        except (OSError, sqlite3.Error) as error:
            raise OpenQwQError(
                f"the store of responses {path} cannot be used ({error}): name another with --store"
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._rows.close()

    def save(
        self, response: Json, input_items: list[Json], events: Iterable[Json] = ()
    ) -> None:
        """Store a response as it is now, in place of what was stored of it, and add `events`."""
        name = response["id"]
        previous = response.get("previous_response_id")
        values = [name, response["created_at"], os.getpid(), previous, response["status"]]
        values += [json.dumps(response), json.dumps(input_items)]
        items = [item for item in [*input_items, *response["output"]] if item.get("id")]
        with self._using(), self._rows:
            self._rows.execute(
                "REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)", values
            )
            self._rows.executemany(
                # An item that came back from an earlier response stays that one's.
                "INSERT INTO items VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET body = excluded.body"
                " WHERE response = excluded.response",
                [(item["id"], name, json.dumps(item)) for item in items],
            )
            self._rows.executemany(
                "REPLACE INTO events VALUES (?, ?, ?)",
                [(name, event["sequence_number"], json.dumps(event)) for event in events],
            )

    def response(self, name: str) -> Json:
        """A stored response; ApiError 404 if none has that id."""
        response: Json = self._one(
            "SELECT body FROM responses WHERE id = ?", name, "response"
        )
        return response

    def input_items(self, name: str) -> list[Json]:
        """The items that a stored response answers, without those of earlier responses."""
        items: list[Json]
        items = self._one("SELECT input FROM responses WHERE id = ?", name, "response")
        return items

    def item(self, name: str) -> Json:
        """A stored item, of whatever response; ApiError 404 if none has that id."""
        item: Json = self._one("SELECT body FROM items WHERE id = ?", name, "item")
        return item

    def events(self, name: str, after: int) -> list[Json]:
        """The stored events of a response whose sequence number is above `after`, in order."""
        query = "SELECT body FROM events WHERE response = ? AND number > ? ORDER BY number"
        with self._using():
            found = self._rows.execute(query, (name, after)).fetchall()
        return [json.loads(body) for (body,) in found]

    def conversation(self, name: str) -> list[Json]:
        """Every item up to the end of a stored response: of those before it, its input, its output.

        Raises ApiError 404 if it or one before it is not stored, 400 if it still runs.
        """
        turns: list[list[Json]] = []
        current: str | None = name
        while current is not None:
            response = self.response(current)
            if response["status"] in RUNNING:
                text = f"response {current!r} still runs: wait for its end, or cancel it"
                raise ApiError(400, text, "previous_response_id", "response_not_finished")
            turns.append([*self.input_items(current), *response["output"]])
            current = response.get("previous_response_id")
        items: list[Json] = []
        for turn in reversed(turns):
            items += turn
        return items

    def delete(self, name: str) -> None:
        """Forget a response, its items and events; ApiError 404 if none has that id."""
        self.response(name)
        with self._using(), self._rows:
            self._delete([name])

    @contextmanager
    def _using(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            text = f"the store of responses {self.path} cannot be used now ({error}): try again"
            raise ApiError(
                503, text, code="store_unavailable", headers={"Retry-After": "2"}
            ) from error

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._rows.execute("DELETE FROM responses WHERE id = ?", (name,))
            self._rows.execute("DELETE FROM items WHERE response = ?", (name,))
            self._rows.execute("DELETE FROM events WHERE response = ?", (name,))

    def _one(self, query: str, name: str, kind: str) -> Any:
        with self._using():
            found = self._rows.execute(query, (name,)).fetchone()
        if found is None:
            text = (
                f"{kind} {name!r} is not stored here: send what it held, or store it first"
            )
            raise ApiError(404, text, "id", "not_found")
        return json.loads(found[0])

    def _forget_old(self) -> None:
        limit = time.time() - KEEP_SECONDS
        old = self._rows.execute(
            "SELECT id FROM responses WHERE created < ?", (limit,)
        ).fetchall()
        with self._rows:
            self._delete(name for (name,) in old)

    def _settle_abandoned(self) -> None:
        """Responses whose server has gone have failed: nobody will finish them."""
        query = "SELECT id, process, body, input FROM responses WHERE status IN (?, ?)"
        for name, process, body, input_text in self._rows.execute(
            query, RUNNING
        ).fetchall():
            if process != os.getpid() and _runs(process):
                continue
            response = json.loads(body)
            message = "the server ended while it wrote this response: ask again"
            response["status"] = "failed"
            response["error"] = {"code": "server_error", "message": message}
            last = self._rows.execute(
                "SELECT max(number) FROM events WHERE response = ?", (name,)
            ).fetchone()[0]
            number = 0 if last is None else last + 1
            event = {
                "type": "response.failed",
                "sequence_number": number,
                "response": response,
            }
            self.save(response, json.loads(input_text), [event])


def _runs(process: int) -> bool:
    """Whether a process of this machine is alive, even if another user owns it."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

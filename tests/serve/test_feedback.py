"""Ratings: kept only where the server was told to, exported as rows that training takes."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from openqwq.cli import main
from openqwq.engine.open import OpenedModel
from openqwq.serve import feedback
from openqwq.serve.feedback import FeedbackStore, read_feedback, training_rows
from openqwq.serve.server import ServerOptions
from openqwq.serve.tool_steps import ServerTools
from openqwq.types import OpenQwQError

ASKED = [{"role": "user", "content": "2 + 2?"}]
GOOD = {"content": "4", "reasoning_content": "two and two"}
BAD = {"content": "5"}


def rating(name: str, value: int, answer: dict[str, str] = GOOD) -> dict[str, Any]:
    return {
        "kind": "rating",
        "id": name,
        "messages": ASKED,
        "answer": answer,
        "rating": value,
    }


def test_opinions_become_demonstrations_preferences_and_prompts() -> None:
    edit = {
        "kind": "edit",
        "id": "e",
        "messages": ASKED,
        "answer": BAD,
        "edited": {"content": "6"},
    }
    other = [{"role": "user", "content": "3?"}]
    choice = {
        "kind": "preference",
        "id": "p",
        "messages": other,
        "chosen": GOOD,
        "rejected": BAD,
    }
    rows = training_rows([rating("a", 1), rating("b", -1, BAD), edit, choice])
    said = {"role": "assistant", "content": "4", "reasoning_content": "two and two"}
    five = {"role": "assistant", "content": "5"}
    six = {"role": "assistant", "content": "6"}
    assert rows["sft"] == [{"messages": [*ASKED, said]}, {"messages": [*ASKED, six]}]
    assert rows["preferences"] == [
        {"prompt": ASKED, "chosen": [six], "rejected": [five]},
        {"prompt": other, "chosen": [said], "rejected": [five]},
        {"prompt": ASKED, "chosen": [said], "rejected": [five]},
    ]
    assert rows["prompts"] == [{"prompt": ASKED}, {"prompt": other}]


def test_an_answer_is_never_preferred_to_itself() -> None:
    assert training_rows([rating("a", 1), rating("b", -1)])["preferences"] == []


def test_a_server_keeps_nothing_unless_it_is_told_to(
    scripted: Callable[..., OpenedModel], serve: Any
) -> None:
    with serve(scripted("yes")) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/v1/models").json()["data"][0]["feedback"] is False
        answer = client.post("/v1/feedback", json=rating("a", 1))
        assert answer.status_code == 404 and "--feedback FILE.db" in answer.text


def test_ratings_go_through_the_server_into_training_rows(
    scripted: Callable[..., OpenedModel],
    serve: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "ratings.db"
    options = ServerOptions(feedback=path)
    with (
        serve(scripted("yes"), options) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        assert client.get("/v1/models").json()["data"][0]["feedback"] is True
        assert client.post("/v1/feedback", json=rating("a", -1)).status_code == 200
        # changed mind
        assert client.post("/v1/feedback", json=rating("a", 1)).status_code == 200
        assert client.post("/v1/feedback", json=rating("b", -1, BAD)).status_code == 200
        assert client.post("/v1/feedback", json=rating("c", 1)).status_code == 200
        assert client.delete("/v1/feedback/c").status_code == 200
        refused = client.post("/v1/feedback", json=rating("d", 5))
        assert refused.status_code == 400
        out = tmp_path / "rows"
        assert main(["feedback", "export", str(path), str(out)]) == 0
    assert "1 rows" in capsys.readouterr().out
    counts = {file.stem: len(file.read_text().splitlines()) for file in out.iterdir()}
    assert counts == {"sft": 1, "preferences": 1, "prompts": 1}
    row = json.loads((out / "preferences.jsonl").read_text())
    assert row["chosen"][0]["content"] == "4" and row["rejected"][0]["content"] == "5"
    assert path.stat().st_mode & 0o077 == 0


def test_a_locked_file_is_named_and_the_rating_comes_again(
    scripted: Callable[..., OpenedModel],
    serve: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feedback, "LOCK_SECONDS", 0.1)
    path = tmp_path / "ratings.db"
    options = ServerOptions(feedback=path)
    with (
        serve(scripted("yes"), options) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        other = sqlite3.connect(path)
        other.execute("BEGIN EXCLUSIVE")
        answer = client.post("/v1/feedback", json=rating("a", 1))
        assert answer.status_code == 503 and "locked by another program" in answer.text
        assert answer.headers["Retry-After"]
        other.rollback()
        other.close()
        assert client.post("/v1/feedback", json=rating("a", 1)).status_code == 200


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(OpenQwQError, match="does not exist"):
        read_feedback(tmp_path / "none.db")
    FeedbackStore(tmp_path / "empty.db").close()
    with pytest.raises(OpenQwQError, match="holds no feedback yet"):
        read_feedback(tmp_path / "empty.db")
    (tmp_path / "text.db").write_text("this is not a database" * 100)
    for use in (FeedbackStore, read_feedback):
        with pytest.raises(OpenQwQError, match=r"text\.db cannot be used"):
            use(tmp_path / "text.db")


def test_a_full_disk_is_said_in_words(
    scripted: Callable[..., OpenedModel], serve: Any, tmp_path: Path
) -> None:
    options = ServerOptions(feedback=tmp_path / "ratings.db")
    with (
        serve(scripted("yes"), options) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        rows = server.server.service.feedback._rows
        rows.execute("PRAGMA max_page_count = 3")
        long = {"content": "x" * 100_000}
        answer = client.post("/v1/feedback", json=rating("a", 1, long))
        assert answer.status_code == 507 and "is full" in answer.text


def test_a_tool_of_the_server_is_run_by_itself(
    scripted: Callable[..., OpenedModel], serve: Any
) -> None:
    options = ServerOptions(tools=ServerTools.opened(["calculator"], []))
    with (
        serve(scripted("yes"), options) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        (tool,) = client.get("/v1/tools").json()["data"]
        assert tool["function"]["name"] == "calculator"
        good = client.post(
            "/v1/tools/calculator", json={"arguments": {"expression": "6*7"}}
        )
        assert (good.json()["result"], good.json()["error"]) == ("42", False)
        bad = client.post("/v1/tools/calculator", json={"arguments": {}}).json()
        assert bad["error"] and "expression" in bad["result"]
        missing = client.post("/v1/tools/python", json={"arguments": {}})
        assert missing.status_code == 404 and "--tools" in missing.text

"""Stored responses: gone on from, referred to, run in the background, resumed, cancelled."""

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwq.engine.open import OpenedModel
from openqwq.serve.background import Background
from openqwq.serve.format_responses import ResponsesFormat
from openqwq.serve.protocol import ApiError, document
from openqwq.serve.reply import Ask, Finish, Piece, call_pieces
from openqwq.serve.server import ServerOptions
from openqwq.serve.store import ResponseStore
from openqwq.serve.tool_steps import ServerTools
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError, SamplingParams

Build = Callable[..., OpenedModel]
PATH = "/v1/responses"
CALL = (
    '<tool_call>\n{"name": "calculator", "arguments": {"expression": "6*7"}}\n</tool_call>'
)


def fits(value: Any, schema: str) -> bool:
    root = {
        "$ref": f"#/components/schemas/{schema}",
        "components": document()["components"],
    }
    jsonschema_rs.validate(root, value)
    return True


def events(text: str) -> list[dict[str, Any]]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines]


def post(server: Any, path: str = PATH, **more: Any) -> httpx.Response:
    body = {"model": "scripted", "input": "hi", **more} if path == PATH else None
    return httpx.post(server.url + path, json=body, timeout=60)


def get(server: Any, name: str, **query: Any) -> httpx.Response:
    return httpx.get(f"{server.url}{PATH}/{name}", params=query, timeout=60)


def prompt(server: Any, number: int = -1) -> str:
    ids, _ = server.model.generate.asked[number]
    return str(server.model.tokenizer.decode(ids))


@pytest.fixture
def slow(scripted: Build, serve: Any, tmp_path: Path) -> Iterator[Any]:
    """A server that writes a token every 10 ms."""
    text = "thinking " * 20 + "</think>\n\n" + "the answer " * 20
    options = ServerOptions(slots=2, queue=0, store=tmp_path / "store.sqlite")
    with serve(scripted(text, delay=0.01), options) as server:
        yield server


def test_a_conversation_goes_on_from_the_id_of_a_response(
    scripted: Build, serve: Any
) -> None:
    model = scripted("a</think>\n\nOslo.", "b</think>\n\nRain.", "c</think>\n\nSo.")
    with serve(model) as server:
        first = post(server, input="the capital of Norway?").json()
        second = post(server, input="its weather?", previous_response_id=first["id"]).json()
        assert second["previous_response_id"] == first["id"] and fits(second, "Response")
        third = post(
            server, input="and?", previous_response_id=second["id"], instructions="Be brief"
        )
        assert third.status_code == 200
        shown = prompt(server)
        unknown = post(server, previous_response_id="resp_0")
    order = ["Be brief", "capital of Norway", "Oslo.", "its weather", "Rain.", "and?"]
    assert [shown.index(text) for text in order] == sorted(
        shown.index(text) for text in order
    )
    assert unknown.status_code == 404
    assert unknown.json()["error"]["param"] == "previous_response_id"


def test_a_call_is_answered_by_its_result_alone(scripted: Build, serve: Any) -> None:
    model = scripted(f"I ask</think>\n\n{CALL}", "so</think>\n\n42.")
    tools = [{"type": "function", "name": "calculator"}]
    with serve(model) as server:
        first = post(server, input="6*7?", tools=tools).json()
        (call,) = [item for item in first["output"] if item["type"] == "function_call"]
        result = {
            "type": "function_call_output",
            "call_id": call["call_id"],
            "output": "42",
        }
        more = {"previous_response_id": first["id"], "tools": tools}
        second = post(server, input=[result], **more).json()
        assert second["output"][-1]["content"][0]["text"] == "42."
        assert '"expression": "6*7"' in prompt(server)


def test_items_are_referred_to_by_id(scripted: Build, serve: Any) -> None:
    with serve(scripted("a</think>\n\nOslo.")) as server:
        first = post(server, input="the capital?").json()
        user = httpx.get(f"{server.url}{PATH}/{first['id']}/input_items").json()
        assert (
            fits(user, "ItemList")
            and user["data"][0]["content"][0]["text"] == "the capital?"
        )
        names = [user["first_id"], *(item["id"] for item in first["output"])]
        references: list[Any] = [{"type": "item_reference", "id": name} for name in names]
        again = post(server, input=[*references, {"role": "user", "content": "sure?"}])
        assert again.status_code == 200 and "Oslo." in prompt(server)
        bare: list[Any] = [{"id": names[0]}, {"type": None, "id": names[1]}]
        assert post(server, input=bare).status_code == 200
        missing = post(server, input=[{"type": "item_reference", "id": "rs_1"}])
    error = missing.json()["error"]
    assert missing.status_code == 404 and "'rs_1' is not stored here" in error["message"]


def test_what_is_not_to_be_stored_is_not(scripted: Build, serve: Any) -> None:
    with serve(scripted("a</think>\n\nOslo.")) as server:
        first = post(server, store=False).json()
        assert first["store"] is False and get(server, first["id"]).status_code == 404
        assert post(server, store=False, background=True).status_code == 400
        kept = post(server).json()
        assert get(server, kept["id"]).json() == kept
        gone = httpx.delete(f"{server.url}{PATH}/{kept['id']}")
        assert fits(gone.json(), "DeletedResponse")
        assert get(server, kept["id"]).status_code == 404
        (item,) = kept["output"][-1:]
        again = post(server, input=[{"type": "item_reference", "id": item["id"]}])
        assert again.status_code == 404


def test_a_background_response_needs_no_reader_and_is_read_from_any_place(
    slow: Any,
) -> None:
    queued = post(slow, background=True).json()
    assert queued["status"] == "queued" and fits(queued, "Response")
    while get(slow, queued["id"]).json()["status"] in ("queued", "in_progress"):
        time.sleep(0.05)
    done = get(slow, queued["id"]).json()
    assert done["status"] == "completed" and fits(done, "Response")
    whole = events(get(slow, queued["id"], stream="true").text)
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert whole[0]["type"] == "response.created" and whole[-1]["response"] == done
    for place in (0, 7, len(whole) - 1):
        rest = events(get(slow, queued["id"], stream="true", starting_after=place).text)
        assert rest == whole[place + 1 :]


def test_a_reader_who_left_a_stream_goes_on_where_it_stopped(slow: Any) -> None:
    body = {"model": "scripted", "input": "hi", "background": True, "stream": True}
    seen: list[Any] = []
    with httpx.stream("POST", slow.url + PATH, json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line[6:]))
            if len(seen) == 10:
                break
    name = seen[0]["response"]["id"]
    time.sleep(0.1)
    assert slow.server.running.admitted == 1  # it goes on without the reader
    last = seen[-1]["sequence_number"]
    seen += events(get(slow, name, stream="true", starting_after=last).text)
    text = "".join(e["delta"] for e in seen if e["type"] == "response.output_text.delta")
    final = get(slow, name).json()
    assert (
        text
        == final["output"][-1]["content"][0]["text"]
        == "the answer " * 19 + "the answer "
    )
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    slow.wait_until_idle()


def test_a_background_response_is_cancelled_and_keeps_what_it_said(slow: Any) -> None:
    name = post(slow, background=True).json()["id"]
    while not get(slow, name).json()["output"]:
        time.sleep(0.02)
    ended = post(slow, f"{PATH}/{name}/cancel").json()
    assert ended["status"] == "cancelled" and ended["output"] and fits(ended, "Response")
    slow.wait_until_idle()
    assert slow.model.generate.open == 0
    assert post(slow, f"{PATH}/{name}/cancel").json() == ended
    assert events(get(slow, name, stream="true").text)[-1]["type"] == "response.cancelled"
    plain = post(slow, max_output_tokens=30).json()
    assert post(slow, f"{PATH}/{plain['id']}/cancel").status_code == 400
    assert get(slow, plain["id"], stream="true").status_code == 400


def test_a_cancelled_response_says_so_though_its_end_is_not_stored_yet(
    slow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ResponseStore.save
    refused: list[str] = []

    def save_later(store: ResponseStore, response: dict[str, Any], *rest: Any) -> None:
        if response["status"] == "cancelled" and not refused:
            refused.append(response["id"])
            raise ApiError(503, "the store is held")
        save(store, response, *rest)

    monkeypatch.setattr(ResponseStore, "save", save_later)
    name = post(slow, background=True).json()["id"]
    ended = post(slow, f"{PATH}/{name}/cancel").json()
    assert refused == [name]
    assert ended["status"] == "cancelled" and fits(ended, "Response")
    slow.wait_until_idle()


def test_background_responses_take_places_like_others(slow: Any) -> None:
    names = [post(slow, background=True).json()["id"] for _ in range(2)]
    full = post(slow, background=True)
    assert full.status_code == 429 and full.headers["retry-after"]
    for name in names:
        post(slow, f"{PATH}/{name}/cancel")
    slow.wait_until_idle()


def test_an_engine_that_fails_leaves_a_failed_response(
    scripted: Build, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scripted("x")

    async def broken(*_: Any) -> Any:
        raise RuntimeError("the engine broke")
        yield

    with serve(model) as server:
        monkeypatch.setattr(model.generate, "stream", broken)
        name = post(server, background=True).json()["id"]
        while (got := get(server, name).json())["status"] in ("queued", "in_progress"):
            time.sleep(0.02)
        assert got["status"] == "failed" and "the engine broke" in got["error"]["message"]
        assert fits(got, "Response")
        kinds = [event["type"] for event in events(post(server, stream=True).text)]
        assert kinds[-2:] == ["error", "response.failed"]


def test_responses_survive_the_server_and_unfinished_ones_have_failed(
    scripted: Build, serve: Any, tmp_path: Path
) -> None:
    path = tmp_path / "new folder" / "store.sqlite"
    with serve(scripted("a</think>\n\nOslo."), ServerOptions(store=path)) as server:
        first = post(server).json()
    program = (
        "import sys\nfrom pathlib import Path\nfrom openqwq.serve.store import ResponseStore\n"
        "response = {'id': 'resp_1', 'created_at': 4e9, 'status': 'in_progress', 'output': []}\n"
        "ResponseStore(Path(sys.argv[1])).save(response, [], [{'sequence_number': 0}])\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    store = ResponseStore(path)
    assert store.response(first["id"]) == first
    left = store.response("resp_1")
    assert left["status"] == "failed" and "the server ended" in left["error"]["message"]
    assert store.events("resp_1", 0)[0]["sequence_number"] == 1
    store.close()
    assert path.stat().st_mode & 0o77 == 0


def test_a_store_that_another_program_holds_keeps_no_reader_waiting(
    scripted: Build, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openqwq.serve.store.LOCK_SECONDS", 0.1)
    monkeypatch.setattr("openqwq.serve.background.FLUSH_SECONDS", 0.05)
    monkeypatch.setattr("openqwq.serve.background.RETRY_SECONDS", 0.05)
    path = tmp_path / "store.sqlite"
    other = sqlite3.connect(path, isolation_level=None)
    model = scripted("a</think>\n\nOslo is the capital of Norway.", delay=0.02)
    with serve(model, ServerOptions(store=path)) as server:
        name = post(server, background=True).json()["id"]
        other.execute("BEGIN IMMEDIATE")
        followed = httpx.get(f"{server.url}/v1/responses/{name}?stream=true", timeout=60)
        assert events(followed.text)[-1]["type"] == "response.completed"
        assert get(server, name).json()["status"] == "completed"
        refused = post(server, background=True)
        assert refused.status_code == 503 and "cannot be used now" in refused.text
        assert post(server).json()["status"] == "completed"  # not stored, but told
        other.execute("ROLLBACK")
        stored = sqlite3.connect(path)
        status = "SELECT status FROM responses WHERE id = ?"
        while stored.execute(status, (name,)).fetchone() != ("completed",):
            time.sleep(0.02)
        again = httpx.get(f"{server.url}/v1/responses/{name}?stream=true", timeout=60)
        assert events(again.text) == events(followed.text)
    stored.close()
    other.close()


class SlowStore:
    """A store that another program holds for a moment, once `seconds` is set."""

    seconds = 0.0

    def save(self, *_: Any) -> None:
        time.sleep(self.seconds)


class Plain:
    """As much of a response as is recorded."""

    def snapshot(self) -> dict[str, Any]:
        return {"id": "resp_1"}

    def cancel(self) -> list[dict[str, Any]]:
        return [{"type": "response.cancelled", "sequence_number": 1}]


@pytest.mark.parametrize(
    ("ends", "calls", "kind"),
    [
        (False, ["cancel", "cancel"], "response.cancelled"),
        (False, ["cancel", "stop"], "response.cancelled"),
        (False, ["stop", "cancel"], "response.cancelled"),
        (True, ["cancel"], "response.completed"),
        (True, ["stop"], "response.completed"),
    ],
)
async def test_readers_see_the_end_however_often_and_late_a_response_is_cancelled(
    ends: bool, calls: list[str], kind: str
) -> None:
    store: Any = SlowStore()
    response: Any = Plain()
    background = Background(store)
    goes_on = asyncio.Event()

    async def drawn() -> AsyncGenerator[dict[str, Any], None]:
        yield {"type": "response.created", "sequence_number": 0}
        await goes_on.wait()
        yield {"type": "response.completed", "sequence_number": 1}

    recording = await background.start(response, [], drawn())
    store.seconds = 0.3
    if ends:  # its end is being stored
        goes_on.set()
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(getattr(background, call)("resp_1"))
            await asyncio.sleep(0.1)
        seen = [event["type"] async for event in recording.read(-1)]
    assert seen == ["response.created", kind]
    await background.close()
    assert not background.running


async def test_a_response_cancelled_before_it_goes_on_ends_its_engine_too() -> None:
    store: Any = SlowStore()
    response: Any = Plain()
    background = Background(store)
    is_closed = False

    async def drawn() -> AsyncGenerator[dict[str, Any], None]:
        nonlocal is_closed
        try:
            yield {"type": "response.created", "sequence_number": 0}
            await asyncio.sleep(60)
        finally:
            is_closed = True

    await background.start(response, [], drawn())
    async with asyncio.timeout(5):
        await background.stop("resp_1")
    assert is_closed and not background.running


@pytest.mark.parametrize("error", [ApiError(503, "the store is held"), ValueError("a bug")])
async def test_a_server_stops_though_its_store_cannot_be_used(error: Exception) -> None:
    class Held:
        is_free = True

        def save(self, *_: Any) -> None:
            if not self.is_free:
                raise error

    store: Any = Held()
    response: Any = Plain()
    background = Background(store)

    async def drawn() -> AsyncGenerator[dict[str, Any], None]:
        yield {"type": "response.created", "sequence_number": 0}
        await asyncio.sleep(60)

    recording = await background.start(response, [], drawn())
    store.is_free = False
    async with asyncio.timeout(5):
        await background.close()
        seen = [event["type"] async for event in recording.read(-1)]
    assert seen == ["response.created", "response.cancelled"]
    assert not background.running


def test_old_responses_are_forgotten_and_a_bad_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = ResponseStore(path)
    store.save({"id": "resp_1", "created_at": 1e9, "status": "completed", "output": []}, [])
    store.close()
    with pytest.raises(ApiError, match="not stored"):
        ResponseStore(path).response("resp_1")
    bad = tmp_path / "bad.sqlite"
    bad.write_text("no database " * 100)
    with pytest.raises(OpenQwQError, match=r"bad\.sqlite cannot be used"):
        ResponseStore(bad)


def test_tools_that_the_server_runs_are_items_of_the_response(
    scripted: Build, serve: Any
) -> None:
    model = scripted(
        f"I compute</think>\n\nLook.\n{CALL}", "got it</think>\n\nIt is 42.", "</think>x"
    )
    with serve(
        model, ServerOptions(tools=ServerTools.opened(["calculator"], []))
    ) as server:
        whole = post(server).json()
        assert fits(whole, "Response")
        kinds = [item["type"] for item in whole["output"]]
        assert kinds == ["reasoning", "message", "mcp_call", "reasoning", "message"]
        step = whole["output"][2]
        assert (step["name"], step["output"], step["error"]) == ("calculator", "42", None)
        post(server, previous_response_id=whole["id"], tool_choice="none")
        assert '"expression": "6*7"' in prompt(server) and "42" in prompt(server)


def test_tools_of_a_namespace_are_called_by_their_own_names(
    scripted: Build, serve: Any
) -> None:
    call = '<tool_call>\n{"name": "agents.close", "arguments": {}}\n</tool_call>'
    close = {"type": "function", "name": "close"}
    space = {
        "type": "namespace",
        "name": "agents",
        "description": "others",
        "tools": [close],
    }
    search = {"type": "web_search", "external_web_access": False}
    with serve(scripted(f"</think>\n\n{call}", "</think>\n\nClosed.")) as server:
        first = post(server, tools=[close, space, search]).json()
        assert fits(first, "Response")
        (item,) = first["output"]
        assert (item["name"], item["namespace"]) == ("close", "agents")
        result = {
            "type": "function_call_output",
            "call_id": item["call_id"],
            "output": "ok",
        }
        post(server, input=[item, result], tools=[space])
        assert '"name": "agents.close"' in prompt(server)
        twice = post(server, tools=[close, close])
    assert twice.status_code == 400 and "'close'" in twice.json()["error"]["message"]


TEXT = st.builds(
    lambda kind, text: [Piece(kind, text)],
    st.sampled_from(["reasoning", "content"]),
    st.text(min_size=1, max_size=4),
)
CALLED = st.builds(
    lambda name, parts: call_pieces({"name": name, "arguments": {"a": 1}}, '{"a":1}', 0)[
        :parts
    ],
    st.sampled_from("fg"),
    st.integers(2, 3),  # the last one ends the call: without it the call is broken
)
PIECES = st.lists(TEXT | CALLED, max_size=12).map(
    lambda lists: list(chain.from_iterable(lists))
)
TOKENIZER = Tokenizer.train(["the quick brown fox"], 300)
TWO_TOOLS = [{"type": "function", "name": name} for name in "fg"]


def folded(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that a client makes of the events alone, without the last one's response."""
    output: list[dict[str, Any]] = []
    for event in stream:
        match event["type"]:
            case "response.output_item.added":
                assert event["output_index"] == len(output)
                output.append(event["item"])
            case "response.content_part.added":
                output[event["output_index"]]["content"].append(event["part"])
            case "response.output_text.delta" | "response.reasoning_text.delta":
                output[event["output_index"]]["content"][0]["text"] += event["delta"]
            case "response.function_call_arguments.delta":
                output[event["output_index"]]["arguments"] += event["delta"]
            case "response.output_item.done":
                item = output[event["output_index"]]
                assert {**item, "status": event["item"]["status"]} == event["item"]
                item["status"] = event["item"]["status"]
    return output


@given(PIECES)
def test_any_pieces_fold_to_the_whole_response(pieces: list[Piece]) -> None:
    def made() -> ResponsesFormat:
        ask = Ask([1], SamplingParams())
        return ResponsesFormat("resp_x", "m", TOKENIZER, ask, {"tools": TWO_TOOLS})

    streamed, whole = made(), made()
    stream = streamed.start()
    for piece in [*pieces, Piece("end", finish=Finish("stop", None, 3, 1))]:
        stream += streamed.feed(0, piece)
        whole.feed(0, piece)
    stream += streamed.end()
    assert folded(stream) == whole.whole()["output"] == stream[-1]["response"]["output"]
    assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
    assert fits(whole.whole(), "Response")


@pytest.mark.parametrize("include", [["message.output_text.logprobs"], []])
def test_log_probs_of_the_answer_come_with_its_text(
    scripted: Build, serve: Any, include: list[str]
) -> None:
    more = {"include": include, "top_logprobs": 1}
    with serve(scripted("so</think>\n\nOslo.")) as server:
        whole = post(server, **more).json()
        stream = events(post(server, **more, stream=True).text)
        without = post(server).json()
    assert fits(whole, "Response")
    (part,) = whole["output"][-1]["content"]
    assert "".join(entry["token"] for entry in part["logprobs"]).strip() == "Oslo."
    assert all(entry["top_logprobs"] for entry in part["logprobs"])
    deltas = [each for each in stream if each["type"] == "response.output_text.delta"]
    streamed = [entry for each in deltas for entry in each["logprobs"]]
    assert streamed and streamed == part["logprobs"][: len(streamed)]
    assert (
        stream[-1]["response"]["output"][-1]["content"][0]["logprobs"] == part["logprobs"]
    )
    assert without["output"][-1]["content"][0]["logprobs"] == []


def test_openais_client_streams_and_resumes_a_background_response(slow: Any) -> None:
    with openai.OpenAI(base_url=f"{slow.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.responses.create(
            model="scripted", input="hi", background=True, stream=True
        )
        first = next(iter(stream))
        assert first.type == "response.created"
        stream.close()
        name = first.response.id
        rest = list(client.responses.retrieve(name, stream=True, starting_after=3))
        assert rest[0].sequence_number == 4 and rest[-1].type == "response.completed"
        assert client.responses.retrieve(name).status == "completed"
        assert client.responses.input_items.list(name).data
        client.responses.delete(name)

"""Anthropic's API: blocks in and out, streamed and whole, its errors, its counts."""

import json
from collections.abc import Callable
from itertools import chain
from typing import Any

import httpx
import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwq.engine.open import OpenedModel
from openqwq.serve.format_messages import MessagesFormat
from openqwq.serve.protocol import document
from openqwq.serve.reply import Ask, Finish, Piece, call_pieces
from openqwq.types import SamplingParams

Build = Callable[..., OpenedModel]
PATH = "/v1/messages"
USER = {"role": "user", "content": "weather in Oslo?"}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
TOOL = {
    "name": "weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def fits(value: Any, schema: str) -> bool:
    root = {
        "$ref": f"#/components/schemas/{schema}",
        "components": document()["components"],
    }
    jsonschema_rs.validate(root, value)
    return True


def post(server: Any, path: str = PATH, **more: Any) -> httpx.Response:
    body = {"model": "scripted", "max_tokens": 2000, "messages": [USER], **more}
    return httpx.post(server.url + path, json=body, timeout=60)


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def folded(stream: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of a stream, as Anthropic's own helper folds it."""
    message: dict[str, Any] = dict(stream[0]["message"])
    blocks: list[dict[str, Any]] = []
    partial = ""
    for event in stream[1:]:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(blocks)
                blocks.append(dict(event["content_block"]))
                partial = ""
            case "content_block_delta":
                delta, block = event["delta"], blocks[event["index"]]
                if delta["type"] == "input_json_delta":
                    partial += delta["partial_json"]
                else:
                    (field,) = delta.keys() - {"type"}
                    block[field] += delta[field]
            case "content_block_stop" if blocks[event["index"]]["type"] == "tool_use":
                blocks[event["index"]]["input"] = json.loads(partial)
            case "message_delta":
                message |= event["delta"]
                message["usage"] = {**message["usage"], **event["usage"]}
    return {**message, "content": blocks}


def prompt(server: Any) -> str:
    ids, _ = server.model.generate.asked[-1]
    return str(server.model.tokenizer.decode(ids))


def test_thinking_text_and_tool_use_are_blocks(scripted: Build, serve: Any) -> None:
    with serve(scripted(f"I ask</think>\n\nLook:\n{CALL}")) as server:
        thinking = {"type": "enabled", "budget_tokens": 1024}
        got = post(server, tools=[TOOL], thinking=thinking).json()
        hidden = post(server, tools=[TOOL]).json()
    assert fits(got, "MessagesReply") and got["stop_reason"] == "tool_use"
    assert [block["type"] for block in got["content"]] == ["thinking", "text", "tool_use"]
    first, text, use = got["content"]
    assert first["thinking"] == "I ask" and first["signature"] and text["text"] == "Look:"
    assert (use["name"], use["input"]) == ("weather", {"city": "Oslo"})
    assert [block["type"] for block in hidden["content"]] == ["text", "tool_use"]
    assert got["usage"]["output_tokens"] > 10 and got["usage"]["input_tokens"] > 10


def test_documents_and_results_of_a_search_are_read(scripted: Build, serve: Any) -> None:
    text = {"type": "text", "media_type": "text/plain", "data": "It rains."}
    paper = {"type": "document", "source": text, "title": "News", "context": "Today's"}
    parts = {"type": "content", "content": [{"type": "text", "text": "It snows."}]}
    found = {"type": "search_result", "source": "a.org", "title": "Web"}
    found["content"] = [{"type": "text", "text": "It hails."}]
    use = {"type": "tool_use", "id": "t", "name": "weather", "input": '{"city": "Oslo"}'}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [found]}
    server_side = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    asked = {"type": "text", "text": "weather?"}
    history = [
        {"role": "user", "content": [paper, {"type": "document", "source": parts}, asked]},
        {"role": "assistant", "content": [server_side, use]},
        {"role": "user", "content": [result]},
    ]
    with serve(scripted("so</think>\n\nRain.")) as server:
        assert post(server, messages=history).status_code == 200
        shown = prompt(server)
    assert "News\n\nToday's\n\nIt rains.\n\nIt snows.\n\nweather?" in shown
    assert '"arguments": {"city": "Oslo"}' in shown and "web_search" not in shown
    assert "Web\n\na.org\n\nIt hails." in shown


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "url", "url": "x"}},
        {"type": "document", "source": {"type": "base64", "media_type": "a", "data": "x"}},
        {"type": "document", "source": {"type": "url", "url": "x"}},
    ],
)
def test_blocks_that_the_model_cannot_read_are_refused_by_name(
    scripted: Build, serve: Any, block: dict[str, Any]
) -> None:
    with serve(scripted("yes")) as server:
        message = {"role": "user", "content": [block]}
        error = post(server, messages=[message]).json()["error"]
    kind = block["source"]["type"] if block["type"] == "document" else "image"
    assert f'"{kind}" is not supported' in error["message"] and error["param"].endswith(
        "type"
    )


def test_a_result_goes_back_and_is_answered(scripted: Build, serve: Any) -> None:
    with serve(scripted(f"I ask</think>\n\n{CALL}", "so</think>\n\nRain.")) as server:
        first = post(server, tools=[TOOL], thinking={"type": "adaptive"}).json()
        use = first["content"][-1]
        result = {"type": "tool_result", "tool_use_id": use["id"], "is_error": True}
        result |= {
            "content": [{"type": "text", "text": "no station"}],
            "cache_control": {"a": 1},
        }
        said = {"role": "user", "content": [result, {"type": "text", "text": "well?"}]}
        history = [USER, {"role": "assistant", "content": first["content"]}, said]
        system = [
            {"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}
        ]
        last = post(server, messages=history, tools=[TOOL], system=system).json()
        shown = prompt(server)
    assert last["content"] == [{"type": "text", "text": "Rain."}]
    assert last["stop_reason"] == "end_turn"
    order = ["Be brief", "weather in Oslo?", '"city": "Oslo"', "error: no station", "well?"]
    assert [shown.index(text) for text in order] == sorted(
        shown.index(text) for text in order
    )


def test_a_stop_sequence_is_named(scripted: Build, serve: Any) -> None:
    with serve(scripted("x</think>\n\none two three")) as server:
        got = post(server, stop_sequences=["zz", " three"]).json()
        cut = post(server, max_tokens=9).json()
    assert (got["stop_reason"], got["stop_sequence"]) == ("stop_sequence", " three")
    assert got["content"][0]["text"] == "one two"
    assert (cut["stop_reason"], cut["stop_sequence"]) == ("max_tokens", None)


@pytest.mark.parametrize(
    ("more", "budget"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, 100),
        ({"thinking": {"type": "disabled"}}, 0),
        ({"max_tokens": 1}, None),
        ({}, 1500),  # all but the answer's quarter
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, 1024),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, 0),
        (
            {
                "thinking": {"type": "enabled", "budget_tokens": 50},
                "output_config": {"effort": "high"},
            },
            50,
        ),
        ({"chat_template_kwargs": {"enable_thinking": False}}, 0),
        ({"chat_template_kwargs": {"enable_thinking": True}}, 1500),
        ({"max_tokens": 1, "output_config": {"effort": "high"}}, None),
    ],
    ids=str,
)
def test_thinking_always_leaves_room_for_an_answer(
    scripted: Build, serve: Any, more: dict[str, Any], budget: int | None
) -> None:
    with serve(scripted("x</think>\n\nyes")) as server:
        assert post(server, **more).status_code == 200
        _, params = server.model.generate.asked[-1]
    assert params.thinking_budget == budget


def test_a_disagreement_on_thinking_names_the_fields_that_were_sent(
    scripted: Build, serve: Any
) -> None:
    thinking = {"type": "enabled", "budget_tokens": 50}
    with serve(scripted("x</think>\n\nyes")) as server:
        more = {"chat_template_kwargs": {"enable_thinking": False}}
        refused = post(server, thinking=thinking, **more)
    assert refused.status_code == 400
    text = refused.json()["error"]["message"]
    assert text.startswith(
        "thinking.budget_tokens and chat_template_kwargs.enable_thinking"
    )


@pytest.mark.parametrize("thinking", [{"type": "adaptive"}, None])
def test_the_folded_stream_is_the_whole_message(
    scripted: Build, serve: Any, thinking: Any
) -> None:
    with serve(scripted(f"I ask</think>\n\nLook:\n{CALL}\n{CALL}")) as server:
        more = {"tools": [TOOL], "thinking": thinking}
        whole = post(server, **more).json()
        answer = post(server, **more, stream=True)
    names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    stream = events(answer.text)
    assert names == [event["type"] for event in stream] and "[DONE]" not in answer.text
    assert names[0] == "message_start" and names[-1] == "message_stop"
    assert names.count("content_block_start") == names.count("content_block_stop")
    same = [
        json.dumps(each).replace(each["id"][4:], "") for each in (whole, folded(stream))
    ]
    assert json.loads(same[0]) == json.loads(same[1])


TEXT = st.builds(
    lambda kind, text: [Piece(kind, text)],
    st.sampled_from(["reasoning", "content"]),
    st.text(min_size=1, max_size=4),
)
CALLED = st.builds(
    lambda name, index: call_pieces(
        {"name": name, "arguments": {"a": 1}}, '{"a":1}', index
    ),
    st.sampled_from("fg"),
    st.integers(0, 3),
)
PIECES = st.lists(TEXT | CALLED, max_size=12).map(
    lambda lists: list(chain.from_iterable(lists))
)


@given(PIECES, st.booleans())
def test_any_pieces_fold_to_the_whole_message(pieces: list[Piece], shown: bool) -> None:
    def written() -> MessagesFormat:
        return MessagesFormat("msg_x", "m", Ask([1], SamplingParams()), shown)

    ended = [*pieces, Piece("end", finish=Finish("stop", None, 3, 1))]
    streamed, whole = written(), written()
    stream = streamed.start()
    for piece in ended:
        stream += streamed.feed(0, piece)
        whole.feed(0, piece)
    assert folded(stream + streamed.end()) == whole.whole()
    assert fits(whole.whole(), "MessagesReply")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"messages": [USER, {"role": "assistant", "content": "The"}]}, "last message"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "type",
        ),
        ({"max_tokens": None}, "max_tokens is missing"),
        ({"frobnicate": 1}, "frobnicate"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_in_anthropics_shape(
    scripted: Build, serve: Any, more: dict[str, Any], text: str
) -> None:
    with serve(scripted("x")) as server:
        answer = post(server, **more)
        unknown = post(server, model="claude")
    refused = answer.json()
    assert answer.status_code == 400 and text in refused["error"]["message"]
    assert (
        refused["type"] == "error" and refused["error"]["type"] == "invalid_request_error"
    )
    assert (
        unknown.status_code == 404 and unknown.json()["error"]["type"] == "not_found_error"
    )


def test_tokens_are_counted_as_they_are_asked(scripted: Build, serve: Any) -> None:
    with serve(scripted("x</think>\n\nyes")) as server:
        body = {
            "model": "scripted",
            "messages": [USER],
            "system": "Be brief",
            "tools": [TOOL],
        }
        count = httpx.post(f"{server.url}{PATH}/count_tokens?beta=true", json=body).json()
        asked = post(server, system="Be brief", tools=[TOOL]).json()
    assert (
        fits(count, "TokenCount")
        and count["input_tokens"] == asked["usage"]["input_tokens"]
    )


def test_a_prompt_longer_than_the_context_is_counted_and_no_grammar_compiled(
    scripted: Build, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a count needs no grammar")

    monkeypatch.setattr("openqwq.serve.asking.answer_grammar", refuse)
    form = {"type": "json_schema", "schema": {"type": "object"}}
    long = {"role": "user", "content": "the fox " * 100}
    with serve(scripted("x</think>\n\nyes", context=64)) as server:
        body = {"messages": [long], "output_config": {"format": form}, "model": "scripted"}
        counted = httpx.post(f"{server.url}{PATH}/count_tokens", json=body)
    assert counted.status_code == 200, counted.text
    assert counted.json()["input_tokens"] > 100


@pytest.mark.parametrize(
    ("choice", "forced"), [("any", True), ("auto", False), ("tool", True)]
)
def test_a_choice_of_tools_is_enforced(
    scripted: Build, serve: Any, choice: str, forced: bool
) -> None:
    asked = {"type": choice, "disable_parallel_tool_use": True}
    if choice == "tool":
        asked["name"] = "weather"
    with serve(scripted(f"</think>\n\n{CALL}\n{CALL}")) as server:
        got = post(server, tools=[TOOL], tool_choice=asked).json()
        _, params = server.model.generate.asked[-1]
    assert bool(params.grammar) == forced
    assert [block["type"] for block in got["content"]] == ["tool_use"]

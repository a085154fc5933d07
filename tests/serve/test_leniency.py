"""What clients send beside the point is let pass; what asks for something unknown is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from openqwq.engine.open import OpenedModel
from openqwq.serve.protocol import check

Build = Callable[..., OpenedModel]
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
NOTHING_CALLED = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object"}},
}

# Bodies that well-known clients send, in our own words; each must be answered.
HISTORIES: dict[str, list[Any]] = {
    "litellm's provider fields": [
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [CALL],
            "provider_specific_fields": {},
        },
        RESULT,
    ],
    "annotations of a part": [
        USER,
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "x", "annotations": []}],
        },
        USER,
    ],
    "autogen's names": [{**USER, "name": "user"}],
    "empty arguments": [
        USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**CALL, "function": {"name": "f", "arguments": ""}}],
        },
        RESULT,
    ],
    "a parsed answer": [USER, {"role": "assistant", "content": "{}", "parsed": {}}, USER],
    "a cache mark": [{**USER, "cache_control": {"type": "ephemeral"}}],
    "a cache mark of a part": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "x", "cache_control": {"a": 1}}],
        }
    ],
    "our own tool steps": [
        USER,
        {"role": "assistant", "content": "x", "tool_steps": [{"id": "s"}]},
        USER,
    ],
    "a phase and a name": [
        USER,
        {"role": "assistant", "content": "x", "phase": "final"},
        USER,
    ],
    "a refusal": [USER, {"role": "assistant", "content": None, "refusal": "no"}, USER],
    "empty parts": [
        USER,
        {"role": "assistant", "content": [], "tool_calls": [CALL]},
        RESULT,
    ],
    "nulls in a call": [
        {**USER, "name": None},
        {
            "role": "assistant",
            "tool_calls": [{**CALL, "type": None, "index": None, "extra": None}],
        },
        {**RESULT, "content": None, "name": None},
    ],
    "arguments that are null": [
        USER,
        {
            "role": "assistant",
            "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "null"}}],
        },
        RESULT,
    ],
    "arguments that are encoded twice": [
        USER,
        {
            "role": "assistant",
            "tool_calls": [
                {**CALL, "function": {"name": "f", "arguments": '"{\\"x\\": 1}"'}}
            ],
        },
        {**RESULT, "content": [{"type": "text", "text": "x", "id": None}]},
    ],
    "thinking as a part": [
        USER,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "x"},
            ],
        },
        USER,
    ],
    "a call with an index": [
        USER,
        {"role": "assistant", "tool_calls": [{**CALL, "index": 0}], "audio": None},
        {"role": "tool", "content": "sunny", "name": "f", "status": "success"},
    ],
    "a call of a custom tool": [
        USER,
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "c1", "type": "custom", "custom": {"name": "f", "input": "x"}}
            ],
        },
        RESULT,
    ],
    "annotations of a message": [
        USER,
        {"role": "assistant", "content": "x", "annotations": [1]},
    ],
}
CHAT_EXTRAS: list[dict[str, Any]] = [
    {"metadata": {"a": "b"}},
    {"safety_identifier": "me"},
    {"verbosity": "low"},
    {"reasoning_effort": "minimal"},
    {"reasoning_effort": "xhigh"},
    {"top_k": -1},
    {"temperature": 1e-6},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"max_tokens": 32_000},
    {"max_tokens": -1},
    {"n_predict": -1},
    {"prompt_cache_key": "k"},
    {"service_tier": "flex"},
    {"tool_choice": "auto", "parallel_tool_calls": True},
    {"an_unknown_null": None},
    {
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
    },
    {"reasoning": {"effort": "low", "exclude": True}},
    {"thinking": {"type": "enabled", "budget_tokens": 100}},
    {"include_reasoning": False},
    {"prediction": {"type": "content", "content": "yes"}},
    {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
]
RESPONSES_EXTRAS: list[dict[str, Any]] = [
    {"include": []},
    {"include": ["reasoning.encrypted_content"], "store": False},
    {"reasoning": {"effort": "medium", "summary": "auto"}},
    {"prompt_cache_key": "k"},
    {"text": {"verbosity": "low"}},
    {"text": {"format": {"type": "text"}, "verbosity": None}},
    {"stream": True, "stream_options": {"include_obfuscation": False}},
    {"background": False},
    {"tool_choice": "auto", "parallel_tool_calls": True},
    {"tools": [], "tool_choice": "auto"},
    {"conversation": None, "max_tool_calls": None},
    {"top_logprobs": 3},
    {"truncation": "auto"},
]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"frobnicate": 1}, "frobnicate"),
    (CHAT, {"web_search_options": {}}, "web_search_options"),
    (CHAT, {"modalities": ["audio"]}, "modalities"),
    (CHAT, {"tool_choice": "required"}, "tool_choice"),
    (CHAT, {"reasoning": {"frobnicate": 1}}, "reasoning.frobnicate"),
    (CHAT, {"store": True}, "store"),
    (CHAT, {"max_tokens": 0}, "max_tokens"),
    (CHAT, {"n_predict": -2}, "n_predict"),
    (RESPONSES, {"max_output_tokens": -1}, "max_output_tokens"),
    (RESPONSES, {"tools": [{"type": "file_search"}]}, "tools[0].type"),
    (RESPONSES, {"input": [{"type": "compaction"}]}, "input[0].type"),
    (CHAT, {"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role"),
    (
        CHAT,
        {"tool_choice": {"type": "custom", "custom": {"name": "f"}}},
        "tool_choice.type",
    ),
    (RESPONSES, {"truncation": "middle"}, "truncation"),
    (RESPONSES, {"include": ["frobnicate"]}, "include[0]"),
    (RESPONSES, {"conversation": "c"}, "conversation"),
]


@pytest.fixture
def server(scripted: Build, serve: Any) -> Any:
    with serve(scripted("so</think>\n\nyes")) as running:
        yield running


def send(server: Any, path: str, **more: Any) -> httpx.Response:
    body: dict[str, Any] = {"model": "scripted", **more}
    body.setdefault("messages" if path == CHAT else "input", [USER])
    return httpx.post(server.url + path, json=body, timeout=60)


@pytest.mark.parametrize("name", HISTORIES)
def test_unknown_fields_inside_a_history_are_ignored(server: Any, name: str) -> None:
    answer = send(server, CHAT, messages=HISTORIES[name])
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "yes"


@pytest.mark.parametrize("more", CHAT_EXTRAS, ids=json.dumps)
def test_what_changes_nothing_or_is_spelled_otherwise_is_accepted(
    server: Any, more: Any
) -> None:
    answer = send(server, CHAT, **more)
    assert answer.status_code == 200 and "error" not in answer.text, answer.text


@pytest.mark.parametrize("more", RESPONSES_EXTRAS, ids=json.dumps)
def test_what_agents_send_to_responses_is_accepted(server: Any, more: Any) -> None:
    answer = send(server, RESPONSES, **more)
    assert answer.status_code == 200 and "response.failed" not in answer.text, answer.text


@pytest.mark.parametrize(("path", "more", "param"), REFUSED, ids=str)
def test_what_asks_for_something_unknown_is_refused(
    server: Any, path: str, more: Any, param: str
) -> None:
    answer = send(server, path, **more)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, (
        answer.text
    )


def test_items_may_hold_what_other_servers_put_into_them(server: Any) -> None:
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "b"}],
         "encrypted_content": "zzz", "content": None},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "namespace": "n"},
        {"type": "function_call_output", "call_id": "c",
         "output": [{"type": "input_text", "text": "so"}]},
        {"type": "message", "role": "assistant", "phase": "final", "id": "msg_1",
         "content": [{"type": "output_text", "text": "c", "annotations": [{"a": 1}]}]},
        {"role": "user", "content": "again"},
    ]  # fmt: skip
    answer = send(server, RESPONSES, input=items)
    assert answer.status_code == 200, answer.text


def test_nulls_inside_of_data_are_data() -> None:
    data = {"rows": [{"a": None}], "next": None}
    assert check({"arguments": data}, "ToolCallRequest") == {"arguments": data}
    messages = [USER, {**RESULT, "content": data, "name": None}]
    given = check({"model": "m", "messages": messages, "user": None}, "ChatRequest")
    assert given == {"model": "m", "messages": [USER, {**RESULT, "content": data}]}


# What agents keep in their items, and what the model reads of it.
ITEMS: dict[str, tuple[list[Any], list[str]]] = {
    "thinking between parallel calls": (
        [
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "x"},
            {"type": "function_call", "call_id": "d", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "d", "output": "of g"},
            {"type": "function_call_output", "call_id": "c", "output": "of f"},
        ],
        ["of f\n</tool_response>\n<tool_response>\nof g"],
    ),
    "broken arguments": (
        [
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"x": 1'},
            {"type": "function_call_output", "call_id": "c", "output": "of f"},
        ],
        ['"arguments": {"x": 1}\n</tool_call>', "of f"],
    ),
    "a result that is no text": (
        [
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": None},
            {"type": "function_call_output", "call_id": "c", "output": {"a": None}},
        ],
        ['<tool_response>\n{"a": null}\n</tool_response>'],
    ),
    "a tool that takes a text": (
        [
            {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "*** a"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "of f"},
        ],
        ['"arguments": {"input": "*** a"}', "of f"],
    ),
    "a search of OpenAI's": (
        [
            {"type": "web_search_call", "id": "ws_1", "action": {"type": "search"}},
            {"type": "message", "role": "assistant", "content": "I found it"},
            USER,
        ],
        ["assistant\nI found it"],
    ),
    "an answer without content": (
        [{"role": "assistant", "content": None}, {"role": "user", "content": ["again"]}],
        ["user\nagain"],
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ITEMS)
def test_items_of_other_servers_are_read(server: Any, name: str, stream: bool) -> None:
    items, shown = ITEMS[name]
    answer = send(server, RESPONSES, input=[USER, *items], stream=stream)
    assert answer.status_code == 200 and "yes" in answer.text, answer.text
    prompt = server.model.tokenizer.decode(server.model.generate.prompts[-1])
    assert all(text in prompt for text in shown), prompt


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
def test_what_the_model_cannot_read_is_refused_by_name(server: Any, kind: str) -> None:
    part = {"type": kind, kind: {"url": "data:,"}}
    called = [
        USER,
        {"role": "assistant", "tool_calls": [CALL]},
        {**RESULT, "content": [part]},
    ]
    for history in ([{"role": "user", "content": [part]}], called):
        answer = send(server, CHAT, messages=history)
        assert answer.status_code == 400, answer.text
        assert f'"{kind}" is not supported' in answer.json()["error"]["message"]


def test_every_shared_case_is_answered_as_it_should_be(
    server: Any, shared_data: Path
) -> None:
    for file in sorted((shared_data.parent / "cases" / "api").glob("*.json")):
        case = json.loads(file.read_text())
        answer = httpx.post(
            server.url + case["path"],
            json={**case["body"], "model": "scripted"},
            timeout=60,
        )
        expected = 404 if "item_reference" in file.name else 200
        assert answer.status_code == expected, (file.name, answer.text)

"""Which tools may be called: a subset of those offered, and the deprecated functions."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from openqwq.engine.open import OpenedModel
from openqwq.serve.asking import ask_chat
from openqwq.serve.asking_responses import chat_body
from openqwq.serve.protocol import ApiError, check

Build = Callable[..., OpenedModel]
USER = {"role": "user", "content": "hi"}
NAMES = ("add", "sub", "mul")
TOOLS = [{"type": "function", "function": {"name": name}} for name in NAMES]
FLAT = [{"type": "function", "name": name} for name in NAMES]
CALL = '</think>\n\n<tool_call>\n{"name": "NAME", "arguments": {"x": 1}}\n</tool_call>'
NESTED = [{"type": "function", "function": {"name": name}} for name in ("sub", "mul")]


def spellings(mode: str, names: list[str]) -> list[dict[str, Any]]:
    """Those of the API reference, of the guides, and of /v1/responses."""
    nested = [{"type": "function", "function": {"name": name}} for name in names]
    flat = [{"type": "function", "name": name} for name in names]
    return [
        {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": nested}},
        {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": flat}},
        {"type": "allowed_tools", "mode": mode, "tools": nested},
        {"type": "allowed_tools", "mode": mode, "tools": flat},
    ]


@pytest.mark.parametrize("spelling", range(4))
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_are_all_that_the_model_may_call(
    scripted: Build, mode: str, spelling: int
) -> None:
    model = scripted()
    choice = spellings(mode, ["mul", "sub"])[spelling]
    body = {"model": "m", "messages": [USER], "tools": TOOLS, "tool_choice": choice}
    ask = ask_chat(model, check(body, "ChatRequest"))
    assert list(ask.tools) == ["sub", "mul"]
    prompt = model.tokenizer.decode(ask.prompt_ids)
    assert '"mul"' in prompt and '"add"' not in prompt
    grammar = ask.params.grammar
    if mode == "auto":
        assert grammar is None
    else:
        assert grammar and '\\"sub\\"' in grammar and '\\"add\\"' not in grammar
        one = {**body, "parallel_tool_calls": False}
        assert ")*" in grammar and ")*" not in str(ask_chat(model, one).params.grammar)


@pytest.mark.parametrize("spelling", [2, 3])
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_of_a_response(scripted: Build, mode: str, spelling: int) -> None:
    choice = spellings(mode, ["sub"])[spelling]
    body = {"model": "m", "input": "hi", "tools": FLAT, "tool_choice": choice}
    item = {"type": "message", **USER}
    ask = ask_chat(scripted(), chat_body(check(body, "ResponsesRequest"), [item]))
    assert list(ask.tools) == ["sub"] and bool(ask.params.grammar) == (mode == "required")


def test_an_answer_in_a_schema_may_call_allowed_tools_alone(scripted: Build) -> None:
    body = {
        "messages": [USER],
        "tools": TOOLS,
        "tool_choice": spellings("auto", ["sub"])[0],
        "response_format": {"type": "json_object"},
    }
    grammar = ask_chat(scripted(), body).params.grammar
    assert grammar and '\\"sub\\"' in grammar and '\\"add\\"' not in grammar
    none = {**body, "tool_choice": spellings("auto", [])[0]}
    ask = ask_chat(scripted(), none)
    assert ask.tools == {} and ask.params.grammar and '\\"sub\\"' not in ask.params.grammar


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (spellings("auto", ["div"])[0], "names 'div'"),
        (spellings("required", [])[3], "no tools"),
    ],
)
def test_allowed_tools_that_cannot_be_are_refused(
    scripted: Build, choice: Any, text: str
) -> None:
    body = {"messages": [USER], "tools": TOOLS, "tool_choice": choice}
    with pytest.raises(ApiError, match=text) as got:
        ask_chat(scripted(), body)
    assert got.value.status == 400 and got.value.param == "tool_choice"


def post(server: Any, **more: Any) -> httpx.Response:
    body = {"model": "scripted", "messages": [USER], **more}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)


def streamed(text: str) -> list[dict[str, Any]]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    return [json.loads(line)["choices"][0] for line in lines]


def test_a_call_of_a_tool_that_is_not_allowed_is_text(scripted: Build, serve: Any) -> None:
    with serve(scripted(CALL.replace("NAME", "add"))) as server:
        choice = spellings("auto", ["sub"])[0]
        got = post(server, tools=TOOLS, tool_choice=choice).json()["choices"][0]
        assert got["finish_reason"] == "stop" and "<tool_call>" in got["message"]["content"]
        assert got["finish_details"]["type"] == "malformed_tool_call"


FUNCTIONS = [{"name": name, "parameters": {"type": "object"}} for name in NAMES]


def test_functions_are_answered_by_one_function_call(scripted: Build, serve: Any) -> None:
    with serve(scripted(CALL.replace("NAME", "add") * 2)) as server:
        whole = post(server, functions=FUNCTIONS, function_call="auto").json()["choices"][0]
        assert whole["finish_reason"] == "function_call"
        function = whole["message"]["function_call"]
        assert function["name"] == "add" and json.loads(function["arguments"]) == {"x": 1}
        assert "tool_calls" not in whole["message"] and whole["message"]["content"] is None

        chunks = streamed(post(server, functions=FUNCTIONS, stream=True).text)
        assert chunks[-1]["finish_reason"] == "function_call"
        deltas = [
            c["delta"]["function_call"] for c in chunks if "function_call" in c["delta"]
        ]
        assert deltas[0]["name"] == "add"
        assert "".join(delta["arguments"] for delta in deltas) == function["arguments"]
        assert not any("tool_calls" in chunk["delta"] for chunk in chunks)


@pytest.mark.parametrize(
    ("choice", "forced"), [("none", set()), ("auto", None), ({"name": "sub"}, {"sub"})]
)
def test_a_function_call_is_a_tool_choice(
    scripted: Build, serve: Any, choice: Any, forced: set[str] | None
) -> None:
    with serve(scripted("so</think>\n\nyes")) as server:
        assert post(server, functions=FUNCTIONS, function_call=choice).status_code == 200
        prompt_ids, params = server.model.generate.asked[-1]
        shows = "# Tools" in server.model.tokenizer.decode(prompt_ids)
        assert shows == (choice != "none") and bool(params.grammar) == bool(forced)
        if forced:
            assert '\\"sub\\"' in params.grammar and '\\"add\\"' not in params.grammar


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"functions": FUNCTIONS, "tools": TOOLS}, "functions"),
        ({"function_call": "auto", "tool_choice": "auto"}, "function_call"),
        ({"functions": FUNCTIONS, "function_call": {"name": "div"}}, "tool_choice"),
        ({"function_call": {"name": "add"}}, "tool_choice"),
    ],
)
def test_functions_that_do_not_fit_are_refused(
    scripted: Build, serve: Any, more: dict[str, Any], param: str
) -> None:
    with serve(scripted("so")) as server:
        answer = post(server, **more)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_a_history_of_functions_is_read(scripted: Build, serve: Any) -> None:
    called = {"name": "add", "arguments": '{"x": 2}'}
    history = [
        USER,
        {"role": "assistant", "content": None, "function_call": called},
        {"role": "function", "name": "add", "content": "seven"},
    ]
    with serve(scripted("so</think>\n\nyes")) as server:
        answer = post(server, messages=history, functions=FUNCTIONS)
        assert answer.status_code == 200, answer.text
        prompt = server.model.tokenizer.decode(server.model.generate.prompts[-1])
        assert '{"name": "add", "arguments": {"x": 2}}' in prompt
        assert "<tool_response>\nseven\n</tool_response>" in prompt

"""Tools that the server runs itself: their steps stream, their results reach the model."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

import httpx
import jsonschema_rs
import pytest

from openqwq.engine.open import OpenedModel
from openqwq.serve.protocol import document
from openqwq.serve.server import ServerOptions
from openqwq.serve.tool_steps import ServerTools
from openqwq.types import OpenQwQError, PromptTooLongError, Tool

Build = Callable[..., OpenedModel]
CHAT = "/v1/chat/completions"
ASKED = [{"role": "user", "content": "what is 6 times 7?"}]
CALL = (
    '<tool_call>\n{"name": "calculator", "arguments": {"expression": "6*7"}}\n</tool_call>'
)
FIRST = f"I compute</think>\n\nLet me see.\n{CALL}"
LAST = "got it</think>\n\nIt is 42."


@pytest.fixture(scope="module")
def tools() -> ServerTools:
    return ServerTools.opened(["calculator"], [])


def fits(value: Any, schema: str) -> bool:
    root = {
        "$ref": f"#/components/schemas/{schema}",
        "components": document()["components"],
    }
    jsonschema_rs.validate(root, value)
    return True


def post(server: Any, **more: Any) -> httpx.Response:
    body = {"model": "scripted", "messages": ASKED, **more}
    return httpx.post(server.url + CHAT, json=body, timeout=60)


def test_the_server_runs_the_call_and_the_model_answers(
    scripted: Build, serve: Any, tools: ServerTools
) -> None:
    model = scripted(FIRST, LAST)
    with serve(model, ServerOptions(tools=tools)) as server:
        got = post(server).json()
        listed = httpx.get(server.url + "/v1/models").json()["data"][0]["tools"]
    assert fits(got, "ChatCompletion") and listed == ["calculator"]
    message = got["choices"][0]["message"]
    assert message["content"] == "Let me see.\n\nIt is 42."
    assert message["reasoning_content"] == "I compute\n\ngot it"
    (step,) = message["tool_steps"]
    assert (step["name"], step["arguments"]) == ("calculator", {"expression": "6*7"})
    assert (step["result"], step["error"]) == ("42", False) and step["seconds"] >= 0
    assert got["choices"][0]["finish_reason"] == "stop" and "tool_calls" not in message
    first, second = (prompt for prompt, _ in model.generate.asked)  # type: ignore[attr-defined]
    text = model.tokenizer.decode(second)
    assert "# Tools" in text and "<tool_response>\n42\n</tool_response>" in text
    assert got["usage"]["prompt_tokens"] == len(first) + len(second)
    assert got["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


@pytest.mark.parametrize(
    "wanted",
    [
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"enable_thinking": False},
        {"reasoning_effort": "none"},
    ],
)
def test_every_step_is_asked_as_the_request_asks(
    scripted: Build,
    serve: Any,
    tools: ServerTools,
    wanted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = scripted(f"Let me see.\n{CALL}", "It is 42.")
    own = model.tokenizer
    template = "{{ persona }} {{ enable_thinking }}" + own.template().source
    monkeypatch.setattr(own, "chat_template", template)
    options = {**wanted.get("chat_template_kwargs", {}), "persona": "a pirate"}
    with serve(model, ServerOptions(tools=tools)) as server:
        got = post(server, **{**wanted, "chat_template_kwargs": options}).json()
    assert got["choices"][0]["message"]["content"] == "Let me see.\n\nIt is 42."
    prompts = [prompt for prompt, _ in model.generate.asked]  # type: ignore[attr-defined]
    assert len(prompts) == 2
    for prompt in prompts:
        text = own.decode(prompt)
        assert text.startswith("a pirate False") and text.rstrip().endswith("</think>")


def test_steps_stream_before_and_after_they_run_and_fold_to_the_same(
    scripted: Build, serve: Any, tools: ServerTools
) -> None:
    with serve(scripted(FIRST, LAST), ServerOptions(tools=tools)) as server:
        whole = post(server).json()["choices"][0]["message"]
        lines = post(server, stream=True).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert all(fits(chunk, "ChatChunk") for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    steps = [step for delta in deltas for step in delta.get("tool_steps", [])]
    assert [step["result"] for step in steps] == [None, "42"]
    assert steps[0]["id"] == steps[1]["id"]
    assert "".join(delta.get("content", "") for delta in deltas) == whole["content"]


def test_what_goes_wrong_is_told_to_the_model_and_shown(
    scripted: Build, serve: Any, tools: ServerTools
) -> None:
    bad = "</think><tool_call>{oops</tool_call>\n" + CALL.replace("6*7", "6/0")
    with serve(scripted(bad, LAST), ServerOptions(tools=tools)) as server:
        steps = post(server).json()["choices"][0]["message"]["tool_steps"]
    assert {step["name"] for step in steps} == {"malformed call", "calculator"}
    assert all(step["error"] and "error" in step["result"] for step in steps)


def test_a_tool_may_be_called_what_malformed_calls_are_shown_as(
    scripted: Build, serve: Any, tools: ServerTools
) -> None:
    odd = CALL.replace('"calculator"', '"malformed call"')
    first = f"</think><tool_call>{{oops</tool_call>\n{odd}"
    with serve(scripted(first, LAST), ServerOptions(tools=tools)) as server:
        steps = post(server).json()["choices"][0]["message"]["tool_steps"]
    broken, called = sorted(steps, key=lambda step: step["id"])
    assert "not JSON" in broken["result"] and "no tool 'malformed call'" in called["result"]


def test_waiting_for_the_engine_does_not_end_a_run(
    scripted: Build, serve: Any, tools: ServerTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=count(0, 10_000).__next__)
    monkeypatch.setattr("openqwq.agent.loop.time", clock)
    with serve(scripted(FIRST, LAST), ServerOptions(tools=tools)) as server:
        message = post(server).json()["choices"][0]["message"]
    assert message["content"] == "Let me see.\n\nIt is 42."


def test_replies_that_wait_for_a_slot_open_no_tools(
    scripted: Build, serve: Any, tools: ServerTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = [0]

    @asynccontextmanager
    async def counted(*_: Any) -> AsyncIterator[Mapping[str, Tool]]:
        opened.append(opened[-1] + 1)
        yield {}
        opened.append(opened[-1] - 1)

    monkeypatch.setattr("openqwq.serve.tool_steps.toolbox", counted)
    options = ServerOptions(slots=2, tools=tools)
    with serve(scripted(LAST, delay=0.001), options) as server:
        assert len(post(server, n=6).json()["choices"]) == 6
    assert opened.count(0) >= 2 and max(opened) == 2


def test_a_run_without_end_is_cut_with_a_detail(
    scripted: Build, serve: Any, tools: ServerTools
) -> None:
    with serve(scripted(FIRST), ServerOptions(tools=tools)) as server:
        choice = post(server).json()["choices"][0]
    assert (
        choice["finish_reason"] == "length" and choice["finish_details"]["type"] == "loop"
    )
    assert 1 < len(choice["message"]["tool_steps"]) <= 16


def test_results_that_outgrow_the_context_cut_the_run_with_a_detail(
    scripted: Build, serve: Any, tools: ServerTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = scripted(FIRST)
    say, engine = model.generate.stream, model.generate

    async def stream(*asked: Any) -> AsyncIterator[Any]:
        if engine.asked:  # type: ignore[attr-defined]
            raise PromptTooLongError("5000 tokens, 904 too many for a context of 4096")
        async for event in say(*asked):
            yield event

    monkeypatch.setattr(engine, "stream", stream)
    with serve(model, ServerOptions(tools=tools)) as server:
        (choice,) = post(server).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_steps"][0]["result"] == "42"
    assert choice["finish_details"]["type"] == "tool_steps"
    assert "outgrew the model's context" in json.dumps(choice["finish_details"])


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "calculator"}}]},
        {"tool_choice": "none"},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_a_request_with_tools_of_its_own_or_none_is_left_to_the_client(
    scripted: Build, serve: Any, tools: ServerTools, more: dict[str, Any]
) -> None:
    model = scripted(FIRST.replace("6*7", "1+1"))
    with serve(model, ServerOptions(tools=tools)) as server:
        message = post(server, **more).json()["choices"][0]["message"]
    assert "tool_steps" not in message and ("tool_calls" in message) == ("tools" in more)
    assert len(model.generate.asked) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("more", [{"stop": ["x"]}, {"logprobs": True}])
def test_what_a_run_cannot_have_is_refused(
    scripted: Build, serve: Any, tools: ServerTools, more: dict[str, Any]
) -> None:
    with serve(scripted(FIRST), ServerOptions(tools=tools)) as server:
        answer = post(server, **more)
    assert answer.status_code == 400 and answer.json()["error"]["param"] in more


def test_a_client_that_leaves_ends_the_run(
    scripted: Build, serve: Any, tools: ServerTools
) -> None:
    model = scripted("long " * 500, delay=0.01)
    with serve(model, ServerOptions(tools=tools)) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                server.url + CHAT,
                json={"model": "scripted", "messages": ASKED},
                timeout=0.3,
            )
        server.wait_until_idle(2)
        assert model.generate.open == 0  # type: ignore[attr-defined]


def test_an_unknown_tool_is_named_at_the_start() -> None:
    with pytest.raises(OpenQwQError, match="unknown tool 'frobnicate'"):
        ServerTools.opened(["frobnicate"], [])

"""A model that writes in channels, as gpt-oss does, behind every API."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from scripted import Scripted

from openqwq.engine.open import OpenedModel
from openqwq.serve.asking import ask_chat
from openqwq.serve.server import ServerOptions
from openqwq.serve.tool_steps import ServerTools
from openqwq.text.tokenizer import Tokenizer

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
USER = {"role": "user", "content": "the fox?"}
ADD = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
TOOL = {"type": "function", "function": {"name": "add", "parameters": ADD}}
NEXT = "<|end|><|start|>assistant"
THINKS = f"<|channel|>analysis<|message|>hm, so{NEXT}"
PLANS = f"<|channel|>commentary<|message|>I look.{NEXT}"
SAYS = "<|channel|>final<|message|>the fox"
CALLS = (
    '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"x": 12}<|call|>'
)
Build = Callable[..., OpenedModel]


@pytest.fixture
def scripted_channels(channelled: Tokenizer) -> Build:
    def build(*texts: str, context: int = 4096) -> OpenedModel:
        engine = Scripted(channelled, texts)
        return OpenedModel("scripted", engine, channelled, context, "torch", "a test")

    return build


@pytest.fixture
def say(scripted_channels: Build, serve: Any) -> Iterator[Callable[..., httpx.Response]]:
    """Answers a request with a prepared text: `say(text, path, **body)`."""

    def say(text: str, path: str = CHAT, **more: Any) -> httpx.Response:
        body: dict[str, Any] = {"model": "scripted", **more}
        body.setdefault("input" if path == RESPONSES else "messages", [USER])
        with serve(scripted_channels(text)) as server:
            return httpx.post(server.url + path, json=body, timeout=60)

    yield say


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_a_chat_parts_thinking_answer_and_counts(say: Any, channelled: Tokenizer) -> None:
    answer = say(THINKS + SAYS, logprobs=True).json()
    (choice,) = answer["choices"]
    assert choice["message"]["reasoning_content"] == "hm, so"
    assert choice["message"]["content"] == "the fox"
    assert choice["finish_reason"] == "stop"
    details = answer["usage"]["completion_tokens_details"]
    assert details["reasoning_tokens"] == len(channelled.encode("hm, so"))
    logged = "".join(entry["token"] for entry in choice["logprobs"]["content"])
    assert logged == "the fox"


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_hands_out_calls(say: Any, stream: bool) -> None:
    answer = say(THINKS + PLANS + CALLS, tools=[TOOL], stream=stream)
    if stream:
        choices = [c for event in events(answer) for c in event["choices"]]
        deltas = [choice["delta"] for choice in choices]
        content = "".join(delta.get("content") or "" for delta in deltas)
        calls = [c["function"] for d in deltas for c in d.get("tool_calls", ())]
        assert len(calls) > 3
        name = calls[0]["name"]
        arguments = "".join(call.get("arguments", "") for call in calls)
        reason = choices[-1]["finish_reason"]
    else:
        (choice,) = answer.json()["choices"]
        content = choice["message"]["content"]
        (call,) = choice["message"]["tool_calls"]
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        reason = choice["finish_reason"]
    assert (content, name, arguments, reason) == (
        "I look.",
        "add",
        '{"x": 12}',
        "tool_calls",
    )


@pytest.mark.parametrize("stream", [False, True])
def test_responses_have_an_item_for_each_part_in_order(say: Any, stream: bool) -> None:
    answer = say(PLANS + THINKS + SAYS, RESPONSES, stream=stream)
    response = events(answer)[-1]["response"] if stream else answer.json()
    told = [(item["type"], item["content"][0]["text"]) for item in response["output"]]
    assert told == [
        ("message", "I look."),
        ("reasoning", "hm, so"),
        ("message", "\n\nthe fox"),
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_messages_have_a_block_for_each_part_in_order(say: Any, stream: bool) -> None:
    answer = say(
        PLANS + THINKS + CALLS,
        MESSAGES,
        stream=stream,
        max_tokens=2000,
        thinking={"type": "adaptive"},
        tools=[{"name": "add", "input_schema": ADD}],
    )
    if stream:
        kinds = [
            event["content_block"]["type"]
            for event in events(answer)
            if event["type"] == "content_block_start"
        ]
    else:
        kinds = [block["type"] for block in answer.json()["content"]]
    assert kinds == ["text", "thinking", "tool_use"]


def test_a_reply_that_ends_in_its_thinking_says_so(say: Any) -> None:
    answer = say("<|channel|>analysis<|message|>hm").json()
    (choice,) = answer["choices"]
    assert choice["finish_details"]["type"] == "no_answer"
    assert choice["message"]["content"] in (None, "")


def test_a_broken_call_is_content_and_named(say: Any) -> None:
    text = CALLS.replace("add", "sub")
    (choice,) = say(text, tools=[TOOL]).json()["choices"]
    assert choice["finish_details"]["type"] == "malformed_tool_call"
    assert choice["message"]["content"] == text


def test_the_server_runs_its_own_tools(scripted_channels: Build, serve: Any) -> None:
    call = CALLS.replace("add", "calculator").replace('"x": 12', '"expression": "3 * 4"')
    model = scripted_channels(THINKS + call, SAYS)
    options = ServerOptions(slots=1, tools=ServerTools.opened(["calculator"], []))
    with serve(model, options) as server:
        body = {"model": "scripted", "messages": [USER]}
        answer = httpx.post(server.url + CHAT, json=body, timeout=60).json()
        shown = server.model.tokenizer.decode(server.model.generate.prompts[-1])
    message = answer["choices"][0]["message"]
    assert message["content"] == "the fox"
    assert [step["result"] for step in message["tool_steps"]] == ["12"]
    assert "analysis<|message|>hm, so<|end|><|start|>assistant to=functions.calc" in shown


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "medium"),
        ({"reasoning_effort": "high"}, "high"),
        ({"reasoning": {"effort": "minimal"}}, "low"),
        ({"enable_thinking": False}, "low"),
        ({"chat_template_kwargs": {"reasoning_effort": "odd"}}, "odd"),
    ],
)
def test_the_effort_reaches_the_template_in_its_words(
    scripted_channels: Build, more: dict[str, Any], words: str
) -> None:
    model = scripted_channels()
    ask = ask_chat(model, {"messages": [USER], **more})
    text = model.tokenizer.decode(ask.prompt_ids)
    assert f"Reasoning: {words}<|end|>" in text and text.endswith("<|start|>assistant")

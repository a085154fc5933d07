"""OpenAI's behaviour in its other APIs, and Anthropic's, as published tests of servers ask for it.

The tests are llama.cpp's and vLLM's; inputs and right answers are theirs, by idea, tried on two
engines. docs/serving.md says where we differ on purpose.
"""

import base64
import json
import struct
import time
from typing import Any

import httpx
import jsonschema_rs
import openai
import pytest

PROMPT = "the quick brown fox"
IDS = [0, 0, 0, 0, 0]
# A bias against " ", "\n" and "\n\n", which a random model would write on for ever.
NO_BLANKS = {"220": -100, "198": -100, "271": -100}
WEATHER: Any = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def complete(client: openai.OpenAI, prompt: Any = PROMPT, **more: Any) -> Any:
    body = {"max_tokens": 5, "temperature": 0, "extra_body": {"stop_loops": False}, **more}
    return client.completions.create(model="tiny", prompt=prompt, **body)


def texts(stream: Any, count: int = 1) -> list[str]:
    found = [""] * count
    for chunk in stream:
        for choice in chunk.choices:
            found[choice.index] += choice.text
    return found


@pytest.mark.parametrize("prompt", [PROMPT, IDS], ids=["text", "ids"])
def test_a_completion_has_its_form_and_its_counts(
    either: openai.OpenAI, prompt: Any
) -> None:
    got = complete(either, prompt)
    (choice,) = got.choices
    assert got.id.startswith("cmpl-") and got.object == "text_completion"
    assert choice.text and choice.finish_reason == "length" and choice.logprobs is None
    assert got.usage.completion_tokens == 5
    assert got.usage.total_tokens == got.usage.prompt_tokens + 5
    if prompt is IDS:
        assert got.usage.prompt_tokens == 5


def test_a_completion_has_16_tokens_unless_it_asks_for_others(
    either: openai.OpenAI,
) -> None:
    assert complete(either, max_tokens=None).usage.completion_tokens == 16


def test_a_streamed_completion_is_the_whole_one(either: openai.OpenAI) -> None:
    options = {"include_usage": True}
    chunks = list(complete(either, stream=True, stream_options=options))
    assert texts(chunks) == [complete(either).choices[0].text]
    ended = [c for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert [choice.finish_reason for choice in ended] == ["length"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 5
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("prompts", [[PROMPT] * 2, [IDS] * 2], ids=["texts", "ids"])
def test_several_prompts_are_answered_in_their_order(
    either: openai.OpenAI, prompts: Any
) -> None:
    got = complete(either, prompts)
    assert [choice.index for choice in got.choices] == [0, 1]
    assert got.choices[0].text == got.choices[1].text
    both = complete(either, prompts, n=2, temperature=1.5, seed=5)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    words = [choice.text for choice in both.choices]
    assert words[0] != words[1] and words[:2] == words[2:]
    first, second = texts(complete(either, prompts, stream=True), 2)
    assert first == second == got.choices[0].text


@pytest.mark.parametrize("count", [0, 1, 5])
def test_log_probs_of_a_completion_name_the_drawn_token_too(
    either: openai.OpenAI, count: int
) -> None:
    found = complete(either, logprobs=count).choices[0].logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset) == 5
    for token, value, others in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, strict=True
    ):
        assert value <= 0 and others[token] >= value
        assert 1 <= len(others) <= count + 1  # halves of characters share one name


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("prompt", [PROMPT, IDS], ids=["text", "ids"])
def test_an_echo_begins_with_the_prompt_and_its_log_probs(
    either: openai.OpenAI, prompt: Any, count: int
) -> None:
    got = complete(either, prompt, echo=True, logprobs=count)
    own = PROMPT if prompt is PROMPT else "!!!!!"
    assert got.choices[0].text.startswith(own)
    found = got.choices[0].logprobs
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    assert len(found.tokens) == got.usage.prompt_tokens + 5
    assert all(value <= 0 for value in found.token_logprobs[1:])
    assert all(1 <= len(others) <= count + 1 for others in found.top_logprobs[1:])


def test_a_seed_repeats_a_completion_and_others_differ(either: openai.OpenAI) -> None:
    drawn = [
        complete(either, temperature=1, seed=seed, max_tokens=12).choices[0].text
        for seed in (1, 1, 2, 3)
    ]
    assert drawn[0] == drawn[1] and len(set(drawn)) == 3


def test_a_stop_text_is_left_out_of_a_completion(either: openai.OpenAI) -> None:
    text = complete(either, max_tokens=12).choices[0].text
    stop = text[3:5]
    got = complete(either, max_tokens=12, stop=[stop, "never said"]).choices[0]
    assert (got.text, got.finish_reason) == (text[: text.index(stop)], "stop")
    assert texts(complete(either, max_tokens=12, stop=stop, stream=True)) == [got.text]


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": None},
        {"prompt": {"text": "x"}},
        {"prompt": [0] * 3000},
        {"prompt": [10**9]},
        {"prompt": [-1]},
        {"logprobs": 21},
        {"logprobs": 30, "stream": True},
        {"logprobs": -1},
        {"stream_options": {"include_usage": True}},
        {"n": 0},
        {"temperature": 3},
        {"suffix": "unsupported"},
        {"best_of": 3},
    ],
    ids=lambda more: json.dumps(more)[:40],
)
def test_a_completion_that_cannot_be_is_refused(
    either: openai.OpenAI, more: dict[str, Any]
) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 3, **more}
    with pytest.raises(openai.BadRequestError):
        either.post("/completions", body=body, cast_to=dict)  # type: ignore[type-var]


def test_as_many_candidates_as_replies_are_no_ranking(either: openai.OpenAI) -> None:
    body: Any = {"model": "tiny", "prompt": PROMPT, "max_tokens": 3, "n": 2}
    ranked = either.completions.create(**body, best_of=2)
    assert len(ranked.choices) == 2
    with pytest.raises(openai.BadRequestError, match="best_of is 1 and n is 2"):
        either.completions.create(**body, best_of=1)


# --------------------------------------------------------------------------------- responses


def respond(client: openai.OpenAI, **more: Any) -> Any:
    body: Any = {"input": PROMPT, "max_output_tokens": 8, "temperature": 0, **more}
    extra = {"stop_loops": False, "thinking_budget": 0, "logit_bias": body.pop("bias", {})}
    return client.responses.create(model="tiny", extra_body=extra, **body)


def test_a_response_has_its_form_and_says_where_it_was_cut(either: openai.OpenAI) -> None:
    got = respond(either)
    assert (
        got.id.startswith("resp_")
        and got.output[-1].id.startswith("msg_")
        and got.output_text
    )
    assert (
        got.status == "incomplete" and got.incomplete_details.reason == "max_output_tokens"
    )
    assert got.usage.total_tokens == got.usage.input_tokens + got.usage.output_tokens


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "json_schema", "name": "x", "schema": WEATHER}, WEATHER),
        (
            {"type": "json_schema", "name": "x", "schema": {"const": "foo"}},
            {"const": "foo"},
        ),
    ],
    ids=["schema", "constant"],
)
def test_a_response_has_the_form_that_is_asked_for(
    either: openai.OpenAI, form: Any, schema: Any
) -> None:
    got = respond(either, text={"format": form}, max_output_tokens=100, bias=NO_BLANKS)
    assert got.status == "completed" and jsonschema_rs.is_valid(
        schema, json.loads(got.output_text)
    )
    with pytest.raises(openai.BadRequestError):
        respond(either, text={"format": {"type": "json_schema", "name": "x"}})


def test_the_events_of_a_response_nest_and_name_one_item(either: openai.OpenAI) -> None:
    tools = [{"type": "function", "name": "weather", "parameters": WEATHER}]
    options: Any = {"tools": tools, "tool_choice": "required", "max_output_tokens": 200}
    options |= {"parallel_tool_calls": False}
    for more in ({}, options):
        stream = list(respond(either, stream=True, **more))
        opened: list[str] = []
        for event in stream:
            kind = event.type.removeprefix("response.").rpartition(".")
            if kind[2] == "added":
                opened.append(kind[0])
            elif kind[2] == "done" and kind[0] in ("output_item", "content_part"):
                assert opened.pop() == kind[0]
        assert not opened and stream[0].type == "response.created"
        last = stream[-1].response
        written = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        assert written == last.output_text
        names = {e.item_id for e in stream if hasattr(e, "item_id")}
        assert names == {last.output[-1].id}


def test_a_demanded_call_of_a_response_follows_its_schema(either: openai.OpenAI) -> None:
    tools: Any = [
        {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
    ]
    named: Any = {"type": "function", "name": "weather"}
    for choice in ("required", named):
        got = respond(either, tools=tools, tool_choice=choice, max_output_tokens=400)
        call = next(item for item in got.output if item.type == "function_call")
        assert call.name == "weather"
        assert jsonschema_rs.is_valid(WEATHER, json.loads(call.arguments))
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    again = respond(
        either, input=[{"role": "user", "content": PROMPT}, call.to_dict(), result]
    )
    assert again.output_text
    cut = respond(either, tools=tools, tool_choice="required", max_output_tokens=3)
    assert all(item.type != "function_call" for item in cut.output)
    assert cut.incomplete_details.reason == "max_output_tokens"


HISTORIES: list[list[Any]] = [
    [
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "a"}],
        },
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [{"type": "output_text", "text": "b", "annotations": []}],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "encrypted_content": None,
            "status": "completed",
        },
        {"role": "user", "content": "c"},
    ],
    [
        {"role": "user", "content": "a"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "b"}],
        },
        {"type": "reasoning", "summary": [], "encrypted_content": None},
        {"role": "user", "content": "c"},
    ],
    [
        {"type": "message", "content": "Hello.", "role": "user"},
        {
            "type": "reasoning",
            "id": "mine",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "a greeting"}],
        },
    ],
]


@pytest.mark.parametrize(
    "history", HISTORIES, ids=["with ids", "without", "open reasoning"]
)
def test_a_history_of_items_is_read(either: openai.OpenAI, history: Any) -> None:
    assert respond(either, input=history).output_text


def test_a_response_is_stored_unless_it_says_not_to(either: openai.OpenAI) -> None:
    kept = respond(either)
    assert either.responses.retrieve(kept.id).output_text == kept.output_text
    forks = [
        respond(either, input=text, previous_response_id=kept.id) for text in ("a", "b")
    ]
    assert all(each.usage.input_tokens > kept.usage.input_tokens for each in forks)
    with pytest.raises(openai.NotFoundError):
        either.responses.retrieve(respond(either, store=False).id)
    with pytest.raises(openai.BadRequestError):
        respond(either, store=False, background=True)
    with pytest.raises(openai.BadRequestError):
        either.responses.cancel(kept.id)


def test_a_background_response_is_queued_then_read(either: openai.OpenAI) -> None:
    queued = respond(either, background=True)
    assert queued.status == "queued"
    got = either.responses.retrieve(queued.id)
    while got.status in ("queued", "in_progress"):
        time.sleep(0.02)
        got = either.responses.retrieve(queued.id)
    assert got.output_text == respond(either).output_text


# ------------------------------------------------------------------- messages and embeddings


def message(server: Any, path: str = "", **more: Any) -> httpx.Response:
    said = {"role": "user", "content": "Say hello"}
    body = {"model": "tiny", "max_tokens": 30, "messages": [said], **more}
    body = {name: value for name, value in body.items() if value is not None}
    return httpx.post(f"{server.url}/v1/messages{path}", json=body, timeout=60)


USED = [
    {"role": "user", "content": "the weather?"},
    {
        "role": "assistant",
        "content": [
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}
        ],
    },
]
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "sunny, 25°C"}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"system": "You are helpful."},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "What"}] * 2}]},
        {"messages": [*USED, {"role": "user", "content": [RESULT]}]},
        {
            "messages": [
                *USED,
                {"role": "user", "content": [{"type": "text", "text": "so"}, RESULT]},
            ]
        },
        {"messages": [*USED, {"role": "user", "content": [{**RESULT, "is_error": True}]}]},
        {"stop_sequences": ["\n", "END"]},
        {"temperature": 0.5},
        {"top_p": 0.9},
        {"top_k": 40},
        {"metadata": {"user_id": "test_user_123"}},
        {"thinking": {"type": "enabled", "budget_tokens": 50}, "max_tokens": 100},
        {"tools": [{"name": "weather", "description": "", "input_schema": WEATHER}]},
    ],
    ids=lambda more: json.dumps(more)[:50],
)
def test_a_message_has_anthropics_form(either_server: Any, more: dict[str, Any]) -> None:
    answer = message(either_server, **more)
    got = answer.json()
    assert answer.status_code == 200 and (got["type"], got["role"]) == (
        "message",
        "assistant",
    )
    assert {block["type"] for block in got["content"]} <= {"text", "thinking"}
    assert got["stop_reason"] in ("end_turn", "max_tokens", "stop_sequence")
    usage = got["usage"]
    assert usage["input_tokens"] > 0 and usage["output_tokens"] > 0
    assert usage["cache_read_input_tokens"] == 0 and "choices" not in got
    stream = message(either_server, stream=True, **more)
    lines = [line[6:] for line in stream.text.splitlines() if line.startswith("data: ")]
    kinds = [json.loads(line)["type"] for line in lines]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")


def test_a_demanded_call_is_a_block_of_tool_use(either_server: Any) -> None:
    tools = [{"name": "weather", "input_schema": WEATHER}]
    choice = {"type": "any", "disable_parallel_tool_use": True}
    options = {"thinking": {"type": "disabled"}, "temperature": 0, "max_tokens": 200}
    got = message(either_server, tools=tools, tool_choice=choice, **options).json()
    (block,) = got["content"]
    assert (block["type"], block["name"], got["stop_reason"]) == (
        "tool_use",
        "weather",
        "tool_use",
    )
    assert jsonschema_rs.is_valid(WEATHER, block["input"])


def test_counting_needs_no_limit_and_says_nothing_else(either_server: Any) -> None:
    plain = message(either_server, "/count_tokens", max_tokens=None)
    told = message(
        either_server, "/count_tokens", max_tokens=None, system="You are helpful."
    )
    assert plain.json().keys() == {"input_tokens"}
    assert told.json()["input_tokens"] > plain.json()["input_tokens"] > 0


@pytest.mark.parametrize(
    "more", [{"messages": None}, {"messages": []}, {"max_tokens": None}]
)
def test_a_message_without_what_it_needs_is_refused(
    either_server: Any, more: dict[str, Any]
) -> None:
    answer = message(either_server, **more)
    assert answer.status_code == 400 and answer.json()["type"] == "error"


def test_embeddings_have_length_one_and_come_as_numbers_or_base64(
    either_server: Any, either: openai.OpenAI
) -> None:
    url = f"{either_server.url}/v1/embeddings"
    if either_server.model.engine != "torch":
        with pytest.raises(openai.NotFoundError, match="engine"):
            either.embeddings.create(model="tiny", input="a")
        return
    several = either.embeddings.create(
        model="tiny", input=["the fox", "the dog", "the fox"]
    )
    first, second, third = (each.embedding for each in several.data)
    assert first == pytest.approx(third) and first != pytest.approx(second)
    assert sum(value**2 for value in first) == pytest.approx(1, abs=1e-3)
    assert several.usage.prompt_tokens == several.usage.total_tokens > 0
    given: Any = {"model": "tiny", "input": "the fox", "encoding_format": "base64"}
    data = base64.b64decode(httpx.post(url, json=given).json()["data"][0]["embedding"])
    assert struct.unpack(f"<{len(data) // 4}f", data) == pytest.approx(first, abs=1e-5)
    for wrong in ([], {"content": "x"}, "the fox " * 2000):
        refused = httpx.post(url, json={"model": "tiny", "input": wrong})
        assert refused.status_code == 400, wrong

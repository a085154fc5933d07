"""OpenAI's behaviour in chats, as llama.cpp's and vLLM's published tests ask for it.

Inputs and right answers are theirs, by idea, tried on two engines. docs/serving.md says where we
differ on purpose.
"""

import json
from typing import Any

import jsonschema_rs
import openai
import pytest

USER: Any = [{"role": "user", "content": "the quick brown fox"}]
PLAIN = {"reasoning_effort": "none", "stop_loops": False}  # the answer begins at once
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Rome"]},
        "unit": {"$ref": "#/$defs/Unit"},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
    "$defs": {"Unit": {"enum": ["celsius", "fahrenheit"]}},
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
# A bias against " ", "\n" and "\n\n", which a random model would write on for ever.
NO_BLANKS = {"220": -100, "198": -100, "271": -100}
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


def ask(client: openai.OpenAI, **more: Any) -> Any:
    body = {"messages": USER, "max_tokens": 8, "temperature": 0, **more}
    extra = {**PLAIN, **body.pop("extra_body", {})}
    return client.chat.completions.create(model="tiny", extra_body=extra, **body)


def streamed(client: openai.OpenAI, **more: Any) -> list[Any]:
    return list(ask(client, stream=True, **more))


def content(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return "".join(c.delta.content or "" for c in choices if c.index == index)


def test_a_reply_has_its_form_and_its_counts(either: openai.OpenAI) -> None:
    got = ask(either)
    assert got.id.startswith("chatcmpl-") and got.object == "chat.completion"
    assert got.model == "tiny" and got.system_fingerprint
    (choice,) = got.choices
    assert (choice.index, choice.message.role, choice.finish_reason) == (
        0,
        "assistant",
        "length",
    )
    assert choice.logprobs is None and choice.message.content
    counts = got.usage
    assert counts.prompt_tokens > 4 and counts.completion_tokens == 8
    assert counts.total_tokens == counts.prompt_tokens + 8


def test_a_content_of_parts_is_their_text(either: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "the quick "}, {"type": "text", "text": "brown fox"}]
    whole, apart = ask(either), ask(either, messages=[{"role": "user", "content": parts}])
    assert apart.choices[0].message.content == whole.choices[0].message.content
    assert apart.usage.prompt_tokens == whole.usage.prompt_tokens


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_come_as_system_or_developer(either: openai.OpenAI, role: str) -> None:
    told = [
        {"role": role, "content": "Book"},
        *USER,
        {"role": "assistant", "content": "a"},
        *USER,
    ]
    assert ask(either, messages=told).usage.prompt_tokens > ask(either).usage.prompt_tokens


def test_a_stream_is_the_whole_reply(either: openai.OpenAI) -> None:
    chunks = streamed(either)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert not any(chunk.choices[0].delta.role for chunk in chunks[1:])
    assert len({chunk.id for chunk in chunks}) == 1
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason]
    assert reasons == ["length"] == [chunks[-1].choices[0].finish_reason]
    assert content(chunks) == ask(either).choices[0].message.content


def test_a_stream_tells_its_usage_where_it_is_asked_to(either: openai.OpenAI) -> None:
    chunks = streamed(either, stream_options={"include_usage": True})
    assert all(chunk.usage is None and chunk.choices for chunk in chunks[:-1])
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 8
    for options in ({}, {"include_usage": False}):
        assert all(
            chunk.usage is None for chunk in streamed(either, stream_options=options)
        )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("count", [0, 5, 20])
def test_log_probs_are_those_of_the_text(
    either: openai.OpenAI, count: int, stream: bool
) -> None:
    options = {"logprobs": True, "top_logprobs": count}
    if stream:
        chunks = streamed(either, **options)
        text = content(chunks)
        logged = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
        entries = [entry for each in logged for entry in each.content]
    else:
        choice = ask(either, **options).choices[0]
        text, entries = choice.message.content, choice.logprobs.content
    data = b"".join(bytes(entry.bytes) for entry in entries)
    assert data.decode(errors="replace").strip("\n") == text.strip("\n") and entries
    for entry in entries:
        assert -9999 <= entry.logprob <= 0 and entry.bytes is not None
        # 0: the engine tells none of half characters
        assert len(entry.top_logprobs) in (count, 0)
    assert any(len(entry.top_logprobs) == count for entry in entries)


def test_the_likeliest_token_is_first_and_drawn_where_draws_are_greedy(
    either: openai.OpenAI,
) -> None:
    entries = ask(either, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    for entry in entries:
        if entry.top_logprobs:
            assert entry.top_logprobs[0].bytes == entry.bytes
            values = [other.logprob for other in entry.top_logprobs]
            assert values == sorted(values, reverse=True)


def test_a_bias_forbids_tokens_and_forces_them(either: openai.OpenAI) -> None:
    first = ask(either, logprobs=True, top_logprobs=1).choices[0].logprobs.content[0]
    names = either.post("/../tokenize", body={"text": first.token}, cast_to=dict)  # type: ignore[type-var]
    (token_id,) = names["tokens"]  # type: ignore[index]
    without = ask(either, logprobs=True, logit_bias={token_id: -100})
    assert all(entry.bytes != first.bytes for entry in without.choices[0].logprobs.content)
    forced = ask(either, logit_bias={token_id: 100}).choices[0].message.content
    assert forced == (first.token * 8).strip("\n")


@pytest.mark.parametrize("stream", [False, True])
def test_several_replies_have_indices_and_differ(
    either: openai.OpenAI, stream: bool
) -> None:
    options: Any = {"n": 3, "temperature": 1.5, "seed": 7, "max_tokens": 12}
    if stream:
        chunks = streamed(either, **options)
        texts = [content(chunks, index) for index in range(3)]
        ended = [c.index for chunk in chunks for c in chunk.choices if c.finish_reason]
        assert sorted(ended) == [0, 1, 2]
    else:
        choices = ask(either, **options).choices
        assert [choice.index for choice in choices] == [0, 1, 2]
        texts = [choice.message.content for choice in choices]
    assert len(set(texts)) == 3


def test_the_same_seed_draws_the_same_and_another_does_not(either: openai.OpenAI) -> None:
    options: Any = {"temperature": 1, "max_tokens": 16}
    texts = [
        ask(either, seed=seed, **options).choices[0].message.content
        for seed in (42, 42, 43, 44)
    ]
    assert texts[0] == texts[1] and len(set(texts)) == 3


def test_a_stop_text_ends_the_reply_and_is_left_out(either: openai.OpenAI) -> None:
    text = ask(either, max_tokens=12).choices[0].message.content
    stop = text[3:5]
    got = ask(either, max_tokens=12, stop=[stop, "never said"]).choices[0]
    assert got.message.content == text[: text.index(stop)] and got.finish_reason == "stop"
    assert content(streamed(either, max_tokens=12, stop=stop)) == got.message.content


JSON_SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": WEATHER}}


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        (JSON_SCHEMA, WEATHER),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"const": "foo"}},
            },
            {},
        ),
        ({"type": "json_object"}, {"type": "object"}),
    ],
    ids=["schema", "constant", "object"],
)
def test_an_answer_has_the_form_that_is_asked_for(
    either: openai.OpenAI, form: Any, schema: Any
) -> None:
    bias = {**NO_BLANKS}
    if form["type"] == "json_object":
        bias["92"] = 30  # "}": where any object will do, it would write on for ever, too
    got = ask(either, response_format=form, max_tokens=200, logit_bias=bias).choices[0]
    assert got.finish_reason == "stop"
    value = json.loads(got.message.content)
    assert jsonschema_rs.is_valid(schema, value)
    assert ask(either, response_format={"type": "text"}).choices[0].message.content


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_demanded_call_is_made_and_follows_its_schema(
    either: openai.OpenAI, choice: Any, stream: bool
) -> None:
    options: Any = {"tools": TOOLS[:1], "tool_choice": choice, "parallel_tool_calls": False}
    options["max_tokens"] = 200
    if stream:
        chunks = streamed(either, **options)
        calls = [call for c in chunks for call in c.choices[0].delta.tool_calls or []]
        assert calls[0].id and calls[0].type == "function"
        assert {call.index for call in calls} == {0} and not content(chunks)
        name = calls[0].function.name
        arguments = "".join(call.function.arguments for call in calls)
        assert len(calls) > 1 and chunks[-1].choices[0].finish_reason == "tool_calls"
    else:
        got = ask(either, **options).choices[0]
        (call,) = got.message.tool_calls
        assert call.id and got.finish_reason == "tool_calls" and not got.message.content
        name, arguments = call.function.name, call.function.arguments
    assert name == "weather"
    assert jsonschema_rs.is_valid(WEATHER, json.loads(arguments))


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_demanded_call_without_room_is_no_call(
    either: openai.OpenAI, choice: Any
) -> None:
    got = ask(either, tools=TOOLS, tool_choice=choice, max_tokens=1).choices[0]
    assert got.finish_reason == "length" and not got.message.tool_calls
    assert got.message.content in ("", "<tool_call>")


@pytest.mark.parametrize(
    ("tools", "choice"),
    [([], None), (TOOLS, None), (TOOLS, "none")],
    ids=["no", "auto", "none"],
)
def test_a_call_that_nobody_demands_is_the_models_choice(
    either: openai.OpenAI, tools: Any, choice: Any
) -> None:
    got = ask(either, tools=tools, tool_choice=choice).choices[0]
    assert got.message.tool_calls is None and got.message.content


@pytest.mark.parametrize("arguments", ["{}", "", '{"city": "Oslo"}'])
def test_a_result_is_read_with_its_call(either: openai.OpenAI, arguments: str) -> None:
    function = {"name": "weather", "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    made = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {
        "role": "tool",
        "name": "weather",
        "tool_call_id": "call_1",
        "content": "rain",
    }
    got = ask(either, messages=[*USER, made, result], tools=TOOLS)
    assert got.choices[0].message.content
    assert ask(either, messages=[*USER, made, result]).choices  # without tools as well


def test_unknown_fields_of_a_history_are_read_over(either: openai.OpenAI) -> None:
    got = ask(either, messages=[{**USER[0], "extra_field": "0", "name": "Ada"}])
    assert got.choices[0].message.content == ask(either).choices[0].message.content


def test_a_reply_is_answered_as_it_came(either: openai.OpenAI) -> None:
    first = ask(either).choices[0].message
    assert (
        ask(either, messages=[*USER, first, *USER]).choices[0].message.content is not None
    )


REFUSED: list[dict[str, Any]] = [
    {"messages": None},
    {"messages": "text"},
    {"messages": []},
    {"messages": [123]},
    {"messages": [{}]},
    {"messages": [{"role": 123}]},
    {"messages": [{"content": "hello"}]},
    {"messages": [{"role": "system", "content": 123}]},
    {"messages": [{"role": "system", "content": "test"}, {}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
        ]
    },
    {"messages": USER * 1000},
    {"messages": USER * 1000, "stream": True},
    {"stream_options": {"include_usage": True}},
    {"stream_options": {}},
    {"logprobs": True, "top_logprobs": 21},
    {"top_logprobs": 1},
    {"logprobs": True, "top_logprobs": 21, "stream": True},
    {"logit_bias": {"not a number": 1}},
    {"logit_bias": {"1": 101}},
    {"logit_bias": {"999999": 1}},
    {"seed": 2**63},
    {"seed": -(2**63) - 1},
    {"n": 0},
    {"max_tokens": 0},
    {"max_tokens": -2},
    {"temperature": 2.1},
    {"temperature": -0.1},
    {"top_p": 1.1},
    {"presence_penalty": 3},
    {"stop": ""},
    {"response_format": {"type": "sound"}},
    {"response_format": {"type": "json_schema"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "hiccup"}},
        }
    },
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"properties": {"foo": "bar"}}},
        }
    },
    {"tool_choice": "required"},
    {"tool_choice": NAMED},
    {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}},
    {"tools": TOOLS, "tool_choice": {}},
    {"tools": TOOLS, "tool_choice": "perhaps"},
    {"tools": [{"type": "function"}]},
    {"tools": [{"type": "function", "function": {"parameters": {}}}]},
    {"tools": [{"function": {"name": "no_type"}}]},
    {"messages": [*USER, {"role": "tool", "tool_call_id": "never made", "content": "x"}]},
]


@pytest.mark.parametrize("more", REFUSED, ids=lambda more: json.dumps(more)[:60])
def test_what_openai_refuses_is_refused_before_anything_is_sent(
    either: openai.OpenAI, more: dict[str, Any]
) -> None:
    body = {"model": "tiny", "messages": USER, "max_tokens": 4, **PLAIN, **more}
    with pytest.raises(openai.BadRequestError) as refused:
        either.post("/chat/completions", body=body, cast_to=dict)  # type: ignore[type-var]
    assert refused.value.type == "invalid_request_error" and refused.value.message


def test_models_are_listed_and_read_and_others_are_not_found(either: openai.OpenAI) -> None:
    (listed,) = either.models.list().data
    assert listed.id == "tiny" and listed.object == "model" and listed.created
    assert either.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        either.models.retrieve("other")

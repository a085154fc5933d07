"""OpenAI's own Python client against our server: streaming, tools, structured, async, errors."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pydantic
import pytest

from openqwq.engine.open import OpenedModel
from openqwq.serve.guard import Access
from openqwq.serve.server import ServerOptions

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ASKED: list[Any] = [{"role": "user", "content": "the quick brown fox"}]


@pytest.fixture
def scripted_client(
    scripted: Callable[..., OpenedModel], serve: Any
) -> Iterator[Callable[..., openai.OpenAI]]:
    servers = []

    def start(*texts: str) -> openai.OpenAI:
        context = serve(scripted(*texts), ServerOptions(Access("k"), slots=4))
        server = context.__enter__()
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0)
        servers.append((context, client))
        return client

    yield start
    for context, client in servers:
        client.close()
        context.__exit__(None, None, None)


@pytest.fixture
def client(tiny: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0) as own:
        yield own


def test_a_reply_with_its_thinking_and_counts(
    scripted_client: Callable[..., openai.OpenAI],
) -> None:
    client = scripted_client("let me see</think>\n\nIt is 4.")
    got = client.chat.completions.create(model="scripted", messages=ASKED)
    message = got.choices[0].message
    assert (message.content, got.choices[0].finish_reason) == ("It is 4.", "stop")
    assert message.reasoning_content == "let me see"  # type: ignore[attr-defined]
    assert got.usage and got.usage.completion_tokens_details
    assert (
        0
        < got.usage.completion_tokens_details.reasoning_tokens
        < got.usage.completion_tokens
    )
    again = [*ASKED, message.model_dump(), *ASKED]  # what clients send back is accepted
    assert client.chat.completions.create(model="scripted", messages=again).choices


def test_a_stream_with_usage_is_the_same_reply(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "tiny",
        "messages": ASKED,
        "seed": 3,
        "max_tokens": 60,
    }
    options["reasoning_effort"] = "low"
    whole = client.chat.completions.create(**options)
    text, usage = "", None
    stream = client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content and usage == whole.usage


def test_the_clients_own_stream_helper_folds_to_the_whole_reply(
    scripted_client: Callable[..., openai.OpenAI],
) -> None:
    client = scripted_client(f"hm</think>\n\nLook:\n{CALL}\n{CALL}")
    tools: list[Any] = [
        {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    ]  # type: ignore[dict-item]
    with client.chat.completions.stream(
        model="scripted", messages=ASKED, tools=tools
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.content == "Look:" and message.tool_calls
    assert [c.function.parsed_arguments for c in message.tool_calls] == [
        {"city": "Oslo"}
    ] * 2


def test_a_tool_is_called_and_its_result_answered(
    scripted_client: Callable[..., openai.OpenAI],
) -> None:
    client = scripted_client(f"I ask</think>\n\n{CALL}", "so</think>\n\nRain.")
    first = client.chat.completions.create(
        model="scripted", messages=ASKED, tools=[WEATHER]
    )  # type: ignore[list-item]
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls" and message.tool_calls
    (call,) = message.tool_calls
    assert call.type == "function" and json.loads(call.function.arguments) == {
        "city": "Oslo"
    }
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    more: Any = [*ASKED, message, result]
    last = client.chat.completions.create(model="scripted", messages=more, tools=[WEATHER])  # type: ignore[list-item]
    assert last.choices[0].message.content == "Rain."


@pytest.mark.parametrize("named", [True, False])
def test_a_required_call_follows_its_schema_on_a_random_model(
    client: openai.OpenAI, named: bool
) -> None:
    choice: Any = (
        {"type": "function", "function": {"name": "weather"}} if named else "required"
    )
    tool: Any = {**WEATHER, "function": {**WEATHER["function"]}}  # type: ignore[dict-item]
    tool["function"].pop("description")
    got = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": ""}],
        tools=[tool],
        tool_choice=choice,
        reasoning_effort="none",
        parallel_tool_calls=False,
        seed=1,
    )
    (call,) = got.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
    assert got.choices[0].finish_reason == "tool_calls"


class Verdict(pydantic.BaseModel):
    """A small answer."""

    good: bool
    word: str = pydantic.Field(pattern="^(yes|no)$")


def test_structured_output_parses_on_a_random_model(client: openai.OpenAI) -> None:
    got = client.chat.completions.parse(
        model="tiny",
        messages=ASKED,
        response_format=Verdict,
        reasoning_effort="low",
        seed=2,
    )
    assert isinstance(got.choices[0].message.parsed, Verdict)
    assert got.choices[0].message.reasoning_content  # type: ignore[attr-defined]


def test_with_tools_and_a_schema_the_model_calls_or_answers_in_it(
    client: openai.OpenAI,
) -> None:
    tool: Any = {**WEATHER, "function": {**WEATHER["function"]}}  # type: ignore[dict-item]
    tool["function"].pop("description")
    form: Any = {"name": "verdict", "schema": Verdict.model_json_schema()}
    got = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": ""}],
        tools=[tool],
        response_format={"type": "json_schema", "json_schema": form},
        reasoning_effort="none",
        parallel_tool_calls=False,
        temperature=2,
        extra_body={"top_k": 0},
        n=16,
        seed=0,
        max_tokens=300,
    )
    kinds = [choice.finish_reason for choice in got.choices]
    assert {"tool_calls", "stop"} <= {*kinds}
    for choice in got.choices:
        if choice.finish_reason == "stop":
            assert Verdict.model_validate_json(choice.message.content or "")
        for call in choice.message.tool_calls or []:
            assert call.type == "function"
            assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")


async def test_many_async_requests_at_once(tiny: Any) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{tiny.url}/v1", api_key="x", max_retries=0
    ) as client:

        async def ask(seed: int) -> tuple[str, str]:
            stream = await client.chat.completions.create(
                model="tiny", messages=ASKED, seed=seed, max_tokens=20, stream=True
            )
            deltas = [chunk.choices[0].delta async for chunk in stream]
            thinking = "".join(getattr(d, "reasoning_content", None) or "" for d in deltas)
            return thinking, "".join(d.content or "" for d in deltas)

        first = await asyncio.gather(*[ask(seed) for seed in range(12)])
        assert len(set(first)) == 12
        assert first == await asyncio.gather(*[ask(seed) for seed in range(12)])
    tiny.wait_until_idle()


def test_log_probs_and_several_replies(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(
        model="tiny", messages=ASKED, n=3, seed=0, max_tokens=24, logprobs=True, top_logprobs=3,
        reasoning_effort="none", temperature=1.0, top_p=1.0, extra_body={"top_k": 0},
    )  # fmt: skip
    assert [choice.index for choice in got.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in got.choices}) == 3
    for choice in got.choices:
        assert choice.logprobs and choice.logprobs.content
        for token in choice.logprobs.content[1:]:
            assert token.logprob <= 0 and len(token.top_logprobs) == 3


def test_raw_completions(client: openai.OpenAI) -> None:
    got = client.completions.create(
        model="tiny", prompt=["the", "fox"], max_tokens=5, seed=1
    )
    assert [choice.index for choice in got.choices] == [0, 1]
    stream = client.completions.create(
        model="tiny", prompt="the", max_tokens=5, seed=1, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == got.choices[0].text


def test_the_responses_api(scripted_client: Callable[..., openai.OpenAI]) -> None:
    client = scripted_client(f"I ask</think>\n\nLook:\n{CALL}", "so</think>\n\nRain.")
    tool: Any = {"type": "function", **WEATHER["function"]}  # type: ignore[dict-item]
    first = client.responses.create(model="scripted", input="weather?", tools=[tool])
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    assert first.output_text == "Look:" and first.usage
    assert (
        0 < first.usage.output_tokens_details.reasoning_tokens < first.usage.output_tokens
    )
    call = first.output[2].to_dict()
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    history: Any = [{"role": "user", "content": "weather?"}]
    history += [item.to_dict() for item in first.output] + [result]
    with client.responses.stream(model="scripted", input=history, tools=[tool]) as stream:
        kinds = [event.type for event in stream]
        last = stream.get_final_response()
    assert last.output_text == "Rain." and last.status == "completed"
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert kinds.count("response.output_item.added") == kinds.count(
        "response.output_item.done"
    )


def test_mistakes_raise_the_clients_own_errors(client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="not served"):
        create(model="gpt-4", messages=ASKED)
    with pytest.raises(openai.BadRequestError, match="frequency_penalty") as got:
        create(model="tiny", messages=ASKED, frequency_penalty=3)
    assert got.value.param == "frequency_penalty"
    with pytest.raises(openai.BadRequestError, match="tokens too many") as long:
        create(model="tiny", messages=[{"role": "user", "content": "x" * 3000}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="best_of"):
        create(model="tiny", messages=ASKED, extra_body={"best_of": 2})
    with openai.OpenAI(base_url=str(client.base_url), api_key="x") as other:
        assert other.models.list().data[0].id == "tiny"


def test_a_wrong_key_is_an_authentication_error(
    scripted_client: Callable[..., openai.OpenAI],
) -> None:
    client = scripted_client("x").with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError):
        client.models.list()

"""Models that write in channels, as gpt-oss does: budgets, "answer now" and grammars."""

import json
from collections.abc import Callable, Iterator

import pytest

from openqwq.engine import llamacpp
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.engine.open import OpenedModel, open_model
from openqwq.model import gguf
from openqwq.model.qwen2 import Qwen2
from openqwq.text.gguf import to_metadata
from openqwq.text.grammar import json_grammar, tool_call_grammar
from openqwq.text.stream import parse_reply, starts_in_thinking
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, SamplingParams, Steering

pytestmark = pytest.mark.usefixtures("no_test_hangs")
Plain = Callable[..., SamplingParams]
ASKED: list[Message] = [{"role": "user", "content": "the fox?"}]
POINT = {
    "type": "object",
    "properties": {"x": {"type": "boolean"}},
    "required": ["x"],
    "additionalProperties": False,
}
TOOLS = [{"name": "set", "parameters": POINT}]


@pytest.fixture(scope="module", params=["torch", "llamacpp", "llamacpp, its tokenizer"])
def model(
    request: pytest.FixtureRequest,
    channelled: Tokenizer,
    build: Callable[..., Qwen2],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OpenedModel]:
    """The same random weights on every engine, and with a tokenizer that only llama.cpp knows."""
    if request.param == "torch":
        engine = Engine(build(), channelled, EngineLimits(4, 512))
        opened = OpenedModel("tiny", engine, channelled, 512, "torch", "a test")
    elif not llamacpp.installed():
        pytest.skip("needs llama.cpp: pip install xllamacpp")
    else:
        path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
        metadata = to_metadata(channelled, 300)
        if "its" in request.param:
            metadata["tokenizer.ggml.pre"] = "gpt-4o"
        gguf.save(build(), path, "F32", metadata)
        opened = open_model(str(path), "llamacpp", slots=4, context_length=512)
    yield opened
    opened.close()


def thinking_prompt(tokenizer: Tokenizer) -> list[int]:
    text = "<|start|>assistant<|channel|>analysis<|message|>"
    return tokenizer.encode(text, allow_special=True)


def no_early_end(tokenizer: Tokenizer) -> tuple[tuple[int, float], ...]:
    """Random weights would end their replies inside of the thinking."""
    return tuple((token_id, -100.0) for token_id in tokenizer.eos_ids)


async def test_a_spent_budget_opens_the_channel_final(
    model: OpenedModel, plain: Plain
) -> None:
    own = model.tokenizer
    prompt = thinking_prompt(own)
    assert starts_in_thinking(own, prompt)
    bias = tuple((token_id, -100.0) for token_id in own.added_ids)
    params = plain(60, 3, thinking_budget=10, logit_bias=bias)
    (completion,) = await model.generate.generate(prompt, params)
    reply = parse_reply(own, completion.token_ids, True)
    assert reply.reasoning_tokens == completion.reasoning_tokens == 10
    closing = "<|end|><|start|>assistant<|channel|>final<|message|>"
    forced = completion.token_ids[10 : 10 + completion.sampled_mask.count(False)]
    assert own.decode(forced) == closing and reply.content


async def test_behind_a_spent_budget_a_call_may_come_where_tools_are_offered(
    model: OpenedModel, plain: Plain
) -> None:
    own = model.tokenizer
    bias = tuple((token_id, -100.0) for token_id in own.added_ids)
    params = plain(60, 1, thinking_budget=5, logit_bias=bias, may_call=True)
    completions = await model.generate.generate(thinking_prompt(own), params, 16)
    kinds: set[str] = set()
    for completion in completions:
        assert completion.reasoning_tokens == 5
        assert completion.sampled_mask.count(False) == 1
        header = own.decode(completion.token_ids[5:])
        assert header.startswith("<|end|><|start|>assistant<|channel|>")
        kind = header.split("<|channel|>")[1]
        assert kind.startswith(("final<|message|>", "commentary to=functions."))
        kinds.add(kind[:5])
    assert kinds == {"final", "comme"}


async def test_answer_now_opens_the_channel_final(model: OpenedModel, plain: Plain) -> None:
    own = model.tokenizer
    steering = Steering(answer_now=True)
    ids: list[int] = []
    stream = model.generate.stream(thinking_prompt(own), plain(40, 1), steering)
    async for event in stream:
        ids.append(event.token_id)
    assert own.decode(ids).startswith(
        "<|end|><|start|>assistant<|channel|>final<|message|>"
    )


def ruled(
    plain: Plain, own: Tokenizer, grammar: str, tokens: int, seed: int
) -> SamplingParams:
    """Up to 20 tokens of thinking, then what the grammar allows, to the model's own end."""
    return plain(
        tokens,
        seed,
        grammar=grammar,
        thinking_budget=20,
        stop_token_ids=own.eos_ids,
        logit_bias=no_early_end(own),
    )


async def test_a_schema_rules_the_answer_behind_any_thinking(
    model: OpenedModel, plain: Plain
) -> None:
    own = model.tokenizer
    params = ruled(plain, own, json_grammar(POINT), 200, 1)
    completions = await model.generate.generate(encode_chat(own, ASKED), params, 12)
    thought = 0
    for completion in completions:
        reply = parse_reply(own, completion.token_ids, False)
        assert completion.finish_reason == "stop"
        assert isinstance(json.loads(reply.content)["x"], bool)
        assert own.decode(completion.token_ids).count("<|channel|>final<|message|>") == 1
        thought += bool(reply.reasoning_tokens)
    assert 0 < thought < 12


async def test_a_demanded_call_follows_any_thinking(
    model: OpenedModel, plain: Plain
) -> None:
    own = model.tokenizer
    params = ruled(plain, own, tool_call_grammar(own, TOOLS), 250, 2)
    for completion in await model.generate.generate(encode_chat(own, ASKED), params, 6):
        reply = parse_reply(own, completion.token_ids, False, TOOLS)
        assert [call["name"] for call in reply.tool_calls] == ["set"]
        assert not reply.content and completion.finish_reason == "stop"


async def test_a_budget_of_nothing_leaves_no_thinking_before_a_schema(
    model: OpenedModel, plain: Plain
) -> None:
    own = model.tokenizer
    grammar = json_grammar(POINT)
    params = plain(120, 1, grammar=grammar, thinking_budget=0, stop_token_ids=own.eos_ids)
    for completion in await model.generate.generate(encode_chat(own, ASKED), params, 4):
        assert own.decode(completion.token_ids).startswith("<|channel|>final<|message|>")

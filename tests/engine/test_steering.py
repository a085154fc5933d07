"""What bends a reply: grammars, loops, "answer now", alternatives, weights that change under it."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from openqwq.engine import drawing, sequence
from openqwq.engine.engine import Engine
from openqwq.engine.sampler import log_distribution
from openqwq.engine.sequence import LOOP_TOKENS, THINKING_LOOP_TOKENS, repeats_itself
from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.qwen2 import Qwen2
from openqwq.text.grammar import AnswerGrammar, json_grammar, tool_call_grammar
from openqwq.text.stream import parse_reply
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Completion, OpenQwQError, SamplingParams, Steering, TokenEvent

Build = Callable[..., Qwen2]
Start = Callable[..., Engine]
Plain = Callable[..., SamplingParams]
Prompt = Callable[..., list[int]]
pytestmark = pytest.mark.usefixtures("no_test_hangs")
POINT = {"type": "object", "properties": {"x": {"type": "boolean"}, "y": {"enum": [1, "two"]}},
         "required": ["x", "y"], "additionalProperties": False}  # fmt: skip


def draw_by(monkeypatch: pytest.MonkeyPatch, choose: Callable[[int], int]) -> None:
    """Make the engine draw `choose(step)`, whatever the model says."""

    def scripted(
        logits: Tensor, params: Any, seeds: Any, steps: list[int], plainly: object = None
    ) -> Any:
        return torch.tensor([choose(step) for step in steps]), torch.full(
            (len(steps),), -1.5
        )

    monkeypatch.setattr(drawing, "sample", scripted)


def logits_after(model: Qwen2, prompt_ids: list[int], token_ids: list[int]) -> Tensor:
    """The logits that predict each of `token_ids`, by one forward without a cache."""
    ids = prompt_ids + token_ids
    with torch.inference_mode():
        hidden = model(
            torch.tensor(ids), positions([len(ids)]), RaggedAttention([len(ids)])
        )
        return model.logits(hidden[len(prompt_ids) - 1 : -1])


def answers(tokenizer: Tokenizer, completions: Sequence[Completion]) -> list[Any]:
    parsed = [
        parse_reply(tokenizer, c.token_ids, starts_in_thinking=False) for c in completions
    ]
    return [json.loads(reply.content) for reply in parsed]


async def test_every_sampled_answer_obeys_its_grammar_and_ends_itself(
    start: Start, plain: Plain, prompt: Prompt, tokenizer: Tokenizer
) -> None:
    engine, params = (
        start(slots=16, max_length=400),
        plain(300, grammar=json_grammar(POINT)),
    )
    completions = await engine.generate(prompt(5, 0), params, 30)
    for value in answers(tokenizer, completions):
        assert list(value) == ["x", "y"] and isinstance(value["x"], bool)
        assert value["y"] in (1, "two")
    assert {c.finish_reason for c in completions} == {"stop"}
    assert {c.token_ids[-1] for c in completions} <= set(tokenizer.eos_ids)
    assert all(all(c.sampled_mask) for c in completions)


async def test_log_probs_under_a_grammar_are_those_of_the_masked_distribution(
    start: Start, build: Build, plain: Plain, prompt: Prompt, tokenizer: Tokenizer
) -> None:
    engine, ids, schema = start(max_length=400), prompt(5, 1), json_grammar(POINT)
    params = plain(300, 3, grammar=schema, temperature=0.7, top_k=5)
    (completion,) = await engine.generate(ids, params)
    logits = logits_after(build(), ids, completion.token_ids)
    grammar, expected = AnswerGrammar(tokenizer, schema), []
    for row, token_id in zip(logits, completion.token_ids, strict=True):
        allowed = torch.tensor(list(grammar.allowed()) + [0] * 2).bool()[: len(row)]
        masked = row.masked_fill(~allowed, float("-inf"))
        expected.append(float(log_distribution(masked[None], [params])[0, token_id]))
        grammar.accept(token_id)
    assert completion.log_probs == pytest.approx(expected, abs=1e-5)
    assert min(completion.log_probs) < 0


async def test_a_model_may_open_its_own_thinking_before_a_grammar(
    start: Start, plain: Plain, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt leaves the thinking to the model: `<think>` may come first, then the grammar."""
    engine = start(max_length=900)
    monkeypatch.setattr(tokenizer, "leaves_thinking_open", True)
    prompt_ids = tokenizer.encode("why?", allow_special=True)
    opening, closing = tokenizer.think_open_id, tokenizer.think_close_id
    params = plain(600, 5, grammar=json_grammar(POINT), thinking_budget=20)
    replies = await engine.generate(
        prompt_ids, replace(params, logit_bias=((opening, 60.0),))
    )
    ids = replies[0].token_ids
    assert ids[0] == opening and closing in ids and replies[0].reasoning_tokens == 21
    answer = tokenizer.decode(ids[ids.index(closing) + 1 :], skip_special=True)
    assert set(json.loads(answer)) == set(POINT["properties"])
    silent = [*prompt_ids, *tokenizer.encode("<think>\n\n</think>\n\n", allow_special=True)]
    (asked,) = await engine.generate(silent, replace(params, logit_bias=((opening, 60.0),)))
    assert opening not in asked.token_ids


async def test_the_thinking_is_free_and_only_the_answer_obeys(
    start: Start, plain: Plain, tokenizer: Tokenizer
) -> None:
    engine = start(slots=8, max_length=400)
    tools = [{"name": "set", "parameters": POINT}]
    prompt_ids = tokenizer.encode("why?<think>\n", allow_special=True)
    params = plain(
        350,
        5,
        grammar=tool_call_grammar(tokenizer, tools, parallel=False),
        thinking_budget=30,
    )
    (free,) = await engine.generate(prompt_ids, plain(30, 5))
    group = await engine.generate(prompt_ids, params, 8)
    assert group[0].token_ids[:30] == free.token_ids[:30]
    for completion in group:
        reply = parse_reply(tokenizer, completion.token_ids)
        assert reply.reasoning_tokens >= 30 or not all(completion.sampled_mask[:30])
        assert [call["name"] for call in reply.tool_calls] == ["set"]
        assert not reply.malformed_calls and not reply.content
        assert completion.finish_reason == "stop"


async def test_grammars_rule_their_own_sequence_alone(
    start: Start, plain: Plain, prompt: Prompt, tokenizer: Tokenizer
) -> None:
    engine, ids = start(max_length=400), prompt(6, 2)
    (alone,) = await engine.generate(ids, plain(40, 1))
    ruled = [plain(300, seed, grammar=json_grammar(POINT)) for seed in range(3)]
    results = await asyncio.gather(
        *(engine.generate(ids, p) for p in [*ruled, plain(40, 1)])
    )
    assert results[3][0].token_ids == alone.token_ids
    assert len(answers(tokenizer, [c for (c,) in results[:3]])) == 3


async def test_a_grammar_that_cannot_be_read_is_refused_at_once(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    with pytest.raises(OpenQwQError, match="grammar or schema is not usable"):
        await start().generate(prompt(3, 0), plain(9, grammar="start: missing"))


async def test_a_grammar_that_breaks_ends_its_own_sequence_alone(
    start: Start, plain: Plain, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, ids = start(), prompt(3, 0)
    broken, message = AnswerGrammar.allowed, "the grammar cannot go on: too complex"

    def allowed(self: AnswerGrammar) -> bytes:
        if engine.scheduler.running:
            raise OpenQwQError(message)
        return broken(self)

    monkeypatch.setattr(AnswerGrammar, "allowed", allowed)
    ruled = asyncio.create_task(
        engine.generate(ids, plain(20, grammar=json_grammar(POINT)))
    )
    (free,) = await engine.generate(ids, plain(20))
    with pytest.raises(OpenQwQError, match="too complex"):
        await ruled
    assert (len(free.token_ids), free.finish_reason) == (20, "length")


async def test_a_token_that_the_grammar_refuses_ends_its_own_sequence_alone(
    start: Start, plain: Plain, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_by(monkeypatch, lambda step: 7)
    engine, ids = start(), prompt(3, 0)
    ruled = asyncio.create_task(
        engine.generate(ids, plain(20, grammar=json_grammar(POINT)))
    )
    (free,) = await engine.generate(ids, plain(20))
    with pytest.raises(OpenQwQError, match="the grammar refuses token 7"):
        await ruled
    assert free.token_ids == [7] * 20
    with pytest.raises(OpenQwQError, match="the grammar refuses token 7"):
        async for _ in engine.stream(ids, plain(20, grammar=json_grammar(POINT))):
            pass


@pytest.mark.parametrize(
    ("ids", "loops"),
    [
        ([7] * 192, True),
        ([7] * 191, False),
        ([*range(100, 150), *[1, 2, 3] * 65], True),
        ([*range(100, 150), *[1, 2, 3] * 50], False),
        (list(range(64)) * 3, True),
        ((list(range(64)) * 3)[1:], False),
        (list(range(65)) * 9, False),
        ([*[7] * 300, 8], False),
        ([5, *[7] * 96, 5, *[7] * 96], False),
        (list(range(1000)), False),
        ([], False),
    ],
)
def test_only_long_exact_cycles_count_as_loops(ids: list[int], loops: bool) -> None:
    assert repeats_itself(ids, 0, 192) == loops
    assert not repeats_itself([9] * 500 + ids[:100], 500, 192)


@pytest.mark.parametrize("entry", ["0, ", "0 & ", "0 "])
def test_an_honest_repetition_is_no_loop(tokenizer: Tokenizer, entry: str) -> None:
    """A matrix of 16 by 16 zeros, and one of 32 by 32, by a tokenizer that merges nothing."""
    for size in (16, 32):
        ids = tokenizer.encode(("[" + entry * size + "],\n") * size)
        assert not repeats_itself(ids, 0, LOOP_TOKENS) or len(ids) > LOOP_TOKENS
        if size == 16:
            assert 16 * 16 < len(ids) < THINKING_LOOP_TOKENS
    assert repeats_itself(tokenizer.encode("again ") * 4096, 0, LOOP_TOKENS)


@pytest.fixture
def short_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "LOOP_TOKENS", 192)
    monkeypatch.setattr(sequence, "THINKING_LOOP_TOKENS", 192)


@pytest.mark.usefixtures("short_loops")
async def test_a_looping_answer_ends_as_a_loop_only_where_asked(
    start: Start, plain: Plain, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, ids = start(max_length=500), prompt(5, 0)
    draw_by(monkeypatch, lambda step: 65 + step % 4)
    (caught,) = await engine.generate(ids, plain(400, stop_loops=True))
    (free,) = await engine.generate(ids, plain(400))
    assert (caught.finish_reason, len(caught.token_ids)) == ("loop", 192)
    assert (free.finish_reason, len(free.token_ids)) == ("length", 400)


@pytest.mark.usefixtures("short_loops")
async def test_a_looping_thinking_is_closed_and_the_answer_gets_its_own_chance(
    start: Start, plain: Plain, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, eos = start(max_length=900), tokenizer.eos_ids[0]
    ids = tokenizer.encode("why?<think>\n", allow_special=True)
    params = plain(800, stop_loops=True, stop_token_ids=(eos,))
    closed = 192 + len(engine.closing_ids)
    draw_by(monkeypatch, lambda step: 65 if step < closed + 20 else eos)
    (saved,) = await engine.generate(ids, params)
    assert saved.token_ids == [65] * 192 + engine.closing_ids + [65] * 20 + [eos]
    assert saved.finish_reason == "stop"
    assert [i for i, drawn in enumerate(saved.sampled_mask) if not drawn] == list(
        range(192, closed)
    )
    draw_by(monkeypatch, lambda step: 65)
    (lost,) = await engine.generate(ids, params)
    # The forced newlines after the marker are the answer's first tokens.
    assert (lost.finish_reason, len(lost.token_ids)) == ("loop", closed + 192)


async def test_answer_now_closes_the_thinking_in_the_middle_of_a_stream(
    start: Start, plain: Plain, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, steering = start(max_length=3000), Steering()
    ids = tokenizer.encode("why?<think>\n", allow_special=True)
    draw_by(monkeypatch, lambda step: 65)
    events: list[TokenEvent] = []
    stream = engine.stream(ids, plain(2500), steering)
    async for event in stream:
        events.append(event)
        steering.answer_now = len(events) >= 5
        forced = [e.token_id for e in events if not e.sampled]
        if len(forced) == len(engine.closing_ids) and len(events) > 60 + len(forced):
            break
    await stream.aclose()  # type: ignore[attr-defined]
    assert forced == engine.closing_ids
    first = next(i for i, event in enumerate(events) if not event.sampled)
    assert first >= 5
    assert all(e.sampled for e in events[first + len(forced) :])


async def test_answer_now_without_thinking_changes_nothing(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    engine, ids = start(), prompt(5, 0)
    (expected,) = await engine.generate(ids, plain(20))
    events = [e async for e in engine.stream(ids, plain(20), Steering(answer_now=True))]
    assert [e.token_id for e in events] == expected.token_ids


async def test_alternatives_are_the_likeliest_tokens_of_the_distribution_drawn_from(
    start: Start, build: Build, plain: Plain, prompt: Prompt
) -> None:
    engine, ids = start(max_length=200), prompt(9, 0)
    params = plain(30, 3, temperature=0.8, top_k=4, top_log_probs=6)
    events = [event async for event in engine.stream(ids, params)]
    logits = logits_after(build(), ids, [e.token_id for e in events])
    for event, row in zip(events, logits, strict=True):
        expected = log_distribution(row[None], [params])[0].topk(4)
        assert [token_id for token_id, _ in event.alternatives] == expected.indices.tolist()
        assert [p for _, p in event.alternatives] == pytest.approx(
            expected.values.tolist(), abs=1e-5
        )
        assert (event.token_id, event.log_prob) in [
            (token_id, pytest.approx(p, abs=1e-6)) for token_id, p in event.alternatives
        ]
    plain_events = [event async for event in engine.stream(ids, plain(5, 3))]
    assert all(event.alternatives == () for event in plain_events)


@pytest.mark.parametrize(
    ("max_tokens", "budget", "room", "thinking"),
    [(30, 20, 100, 20), (30, 29 - 3, 100, 26), (1000, 900, 40, 30), (1000, 995, 40, 35),
     (1000, 10, 40, 10), (1000, 900, 4, 0)],
)  # fmt: skip
async def test_a_budget_leaves_the_answer_its_tokens_where_the_context_ends_early(
    start: Start, plain: Plain, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch,
    max_tokens: int, budget: int, room: int, thinking: int,
) -> None:  # fmt: skip
    ids = tokenizer.encode("why?<think>\n", allow_special=True)
    engine = start(max_length=len(ids) + room)
    assert len(engine.closing_ids) == 3
    draw_by(monkeypatch, lambda step: 65)
    (completion,) = await engine.generate(ids, plain(max_tokens, thinking_budget=budget))
    assert completion.sampled_mask.index(False) == thinking
    assert completion.token_ids[thinking : thinking + 3] == engine.closing_ids
    assert len(completion.token_ids) == min(max_tokens, room)


async def test_a_budget_that_leaves_no_answer_is_refused(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    with pytest.raises(
        OpenQwQError, match="budget is 17 of max_tokens 20: leave at least 4"
    ):
        await start().generate(prompt(3, 0), plain(20, thinking_budget=17))


async def test_weights_pushed_in_flight_take_over_between_two_tokens(
    start: Start, build: Build, plain: Plain, prompt: Prompt
) -> None:
    engine, ids = start(max_length=3000), prompt(9, 0)
    stream = engine.stream(ids, plain(2500))
    events = [await anext(stream) for _ in range(5)]
    (sequence,) = engine.scheduler.unfinished()
    engine.push(build(1).named_parameters(), 7, in_flight=True)
    at = len(sequence.token_ids)
    keys = engine.scheduler.cache.keys[:, 0, :, :9].clone()
    while len(sequence.token_ids) < at + 20:
        events.append(await anext(stream))
    versions = list(sequence.weight_version)
    assert torch.equal(engine.scheduler.cache.keys[:, 0, :, :9], keys)
    await stream.aclose()  # type: ignore[attr-defined]
    assert versions == sorted(versions) and set(versions) == {0, 7}
    assert versions[:5] == [0] * 5 and versions[at + 1 :] == [7] * len(versions[at + 1 :])
    assert torch.equal(engine.model.embedding, build(1).model.embed_tokens.weight)
    assert engine.version == 7

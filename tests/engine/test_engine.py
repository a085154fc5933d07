"""What one caller gets: tokens, log-probs, ends, budgets, versions."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from openqwq.engine import drawing
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.engine.sampler import log_distribution
from openqwq.engine.threads import CallersThread, on_a_thread
from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.qwen2 import Qwen2
from openqwq.text.stream import parse_reply
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Completion, OpenQwQError, SamplingParams

Build = Callable[..., Qwen2]
Start = Callable[..., Engine]
Plain = Callable[..., SamplingParams]
Prompt = Callable[..., list[int]]
pytestmark = pytest.mark.usefixtures("no_test_hangs")


def assert_same(one: Completion, other: Completion) -> None:
    assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
    assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


def learner_log_probs(model: Qwen2, prompt_ids: list[int], completion: Completion,
                      params: SamplingParams) -> list[float]:  # fmt: skip
    """The log-probs of a completion by one forward over it, without a cache."""
    ids, first = prompt_ids + completion.token_ids, len(prompt_ids)
    with torch.inference_mode():
        hidden = model(
            torch.tensor(ids), positions([len(ids)]), RaggedAttention([len(ids)])
        )
        logits = model.logits(hidden[first - 1 : -1])
    log_probs = log_distribution(logits, [params] * len(logits))
    drawn: list[float] = log_probs.gather(1, torch.tensor(ids[first:])[:, None])[
        :, 0
    ].tolist()
    return drawn


def count_forward_tokens(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    forward = engine.model.forward

    def counting(token_ids: Tensor, *rest: Any) -> Tensor:
        counts.append(len(token_ids))
        return forward(token_ids, *rest)

    monkeypatch.setattr(engine.model, "forward", counting)
    return counts


def script(monkeypatch: pytest.MonkeyPatch, token_ids: list[int]) -> None:
    """Make the engine draw `token_ids[step]`, whatever the model says."""

    def scripted(
        logits: Tensor, params: Any, seeds: Any, steps: list[int], plainly: object = None
    ) -> tuple[Tensor, Tensor]:
        return torch.tensor([token_ids[step] for step in steps]), torch.full(
            (len(steps),), -1.5
        )

    monkeypatch.setattr(drawing, "sample", scripted)


@pytest.mark.parametrize("prefill_tokens", [3, 64])
async def test_seeded_results_are_the_same_alone_and_in_any_company(
    start: Start, plain: Plain, prompt: Prompt, prefill_tokens: int
) -> None:
    filtered = {"temperature": 0.7, "top_p": 0.9, "top_k": 40}
    requests = [
        (
            prompt(1 + 3 * i % 17, i),
            plain(3 + 5 * i % 23, 10 * i, **(filtered if i % 3 else {})),
        )
        for i in range(12)
    ]
    requests.append((prompt(5, 99), plain(9, temperature=0.0)))
    alone, together = start(), start(slots=7, prefill_tokens=prefill_tokens, lanes=3)
    singles = [await alone.generate(ids, params) for ids, params in requests]
    crowd = await asyncio.gather(
        *(together.generate(ids, p, 1 + p.seed % 3) for ids, p in requests)
    )
    for (single,), (first, *_) in zip(singles, crowd, strict=True):
        assert_same(first, single)


async def test_a_group_shares_one_prefill_and_member_i_draws_with_seed_plus_i(
    start: Start, plain: Plain, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, ids = start(slots=4), prompt(30, 0)
    singles = [(await engine.generate(ids, plain(6, 5 + i)))[0] for i in range(4)]
    counts = count_forward_tokens(engine, monkeypatch)
    group = await engine.generate(ids, plain(6, 5), 4)
    assert sum(counts) == 30 + 4 * 5
    for member, single in zip(group, singles, strict=True):
        assert_same(member, single)
    assert len({tuple(member.token_ids) for member in group}) == 4


async def test_a_group_larger_than_the_slots_completes_in_order(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    engine, ids = start(slots=2), prompt(8, 0)
    group = await engine.generate(ids, plain(5, 5), 7)
    for i, member in enumerate(group):
        assert_same(member, (await engine.generate(ids, plain(5, 5 + i)))[0])
    assert await engine.generate(ids, plain(5), 0) == []


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6, "top_k": 20, "top_p": 0.9}])
async def test_log_probs_are_those_of_the_learner_s_forward(
    start: Start, build: Build, plain: Plain, prompt: Prompt, options: dict[str, float]
) -> None:
    engine, ids, params = start(max_length=200), prompt(20, 0), plain(150, 3, **options)
    for completion in await engine.generate(ids, params, 2):
        expected = learner_log_probs(build(), ids, completion, params)
        assert completion.log_probs == pytest.approx(expected, abs=1e-5)
        assert len(completion.log_probs) == len(completion.token_ids) == 150


async def test_a_stop_token_ends_a_completion_and_belongs_to_it(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    engine, ids = start(), prompt(6, 0)
    (whole,) = await engine.generate(ids, plain(20))
    stop = whole.token_ids[7]
    (cut,) = await engine.generate(ids, plain(20, stop_token_ids=(299, stop)))
    assert cut.token_ids == whole.token_ids[: whole.token_ids.index(stop) + 1]
    assert (whole.finish_reason, cut.finish_reason) == ("length", "stop")
    assert (cut.prompt_tokens, cut.reasoning_tokens) == (6, 0)
    (last,) = await engine.generate(ids, plain(len(cut.token_ids), stop_token_ids=(stop,)))
    assert last.finish_reason == "stop"


@pytest.mark.parametrize(
    ("prompt_tokens", "limit", "tokens"), [(7, 2, 2), (7, 9, 3), (9, 9, 1)]
)
async def test_max_tokens_and_the_end_of_the_context_finish_by_length(
    start: Start, plain: Plain, prompt: Prompt, prompt_tokens: int, limit: int, tokens: int
) -> None:
    (completion,) = await start(max_length=10).generate(
        prompt(prompt_tokens, 0), plain(limit)
    )
    assert (len(completion.token_ids), completion.finish_reason) == (tokens, "length")


@pytest.mark.parametrize(
    ("prompt_ids", "message"),
    [
        ([], "the prompt is empty"),
        ([1] * 10, "10 tokens, 1 too many for a context of 10: .*raise the context length"),
        ([1] * 13, "13 tokens, 4 too many"),
        ([1, 300, 2], "from 1 to 300, but the model knows 0 to 299"),
        ([1, -1], "from -1 to 1"),
    ],
    ids=["empty", "full", "long", "unknown", "negative"],
)
async def test_a_prompt_that_cannot_run_is_refused_and_disturbs_nobody(
    start: Start, plain: Plain, prompt: Prompt, prompt_ids: list[int], message: str
) -> None:
    engine = start(max_length=10)
    running = asyncio.create_task(engine.generate(prompt(3, 0), plain(6)))
    await asyncio.sleep(0)
    with pytest.raises(OpenQwQError, match=message):
        await engine.generate(prompt_ids, plain(1))
    with pytest.raises(OpenQwQError, match=message):
        await anext(engine.stream(prompt_ids, plain(1)))
    assert len((await running)[0].token_ids) == 6


@pytest.mark.parametrize("budget", [0, 1, 5])
async def test_a_spent_thinking_budget_forces_the_closing_ids_exactly_once(
    start: Start,
    plain: Plain,
    tokenizer: Tokenizer,
    budget: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = start()
    script(monkeypatch, [65 + step for step in range(30)])
    prompt_ids = tokenizer.encode("why?<think>\n", allow_special=True)
    (completion,) = await engine.generate(prompt_ids, plain(20, thinking_budget=budget))
    ids, closing = completion.token_ids, engine.closing_ids
    end = budget + len(closing)
    assert tokenizer.decode(closing) == "\n</think>\n\n"
    assert ids == [*range(65, 65 + budget), *closing, *range(65 + end, 85)]
    forced = [budget <= step < end for step in range(20)]
    assert completion.sampled_mask == [not f for f in forced]
    assert completion.log_probs == [0.0 if f else -1.5 for f in forced]
    assert tokenizer.think_close_id is not None
    assert completion.reasoning_tokens == budget + closing.index(tokenizer.think_close_id)
    assert completion.reasoning_tokens == parse_reply(tokenizer, ids).reasoning_tokens


async def test_a_thinking_budget_leaves_alone_who_closes_in_time_or_does_not_think(
    start: Start, plain: Plain, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, close_id, open_id = start(), tokenizer.think_close_id, tokenizer.think_open_id
    assert close_id is not None and open_id is not None
    thinking, params = [65, open_id], plain(9, thinking_budget=4)
    drawn = [70, 71, 72, close_id, 73, close_id, open_id, 74, 75]
    script(monkeypatch, drawn)
    (in_time,) = await engine.generate(thinking, params)
    (without,) = await engine.generate([*thinking, close_id, 65], params)
    assert in_time.token_ids == without.token_ids == drawn
    assert all(in_time.sampled_mask + without.sampled_mask)
    assert (in_time.reasoning_tokens, without.reasoning_tokens) == (3, 0)
    script(monkeypatch, [open_id, *range(70, 80)])  # the reply opens the thinking itself
    (opened,) = await engine.generate([65], params)
    assert opened.token_ids[:5] == [open_id, 70, 71, 72, 73]
    assert opened.token_ids[5:8] == engine.closing_ids


async def test_pushed_weights_speak_next_and_sign_their_tokens(
    start: Start, build: Build, plain: Plain, prompt: Prompt
) -> None:
    engine, other, ids = start(seed=0), start(seed=1), prompt(9, 0)
    (old,) = await engine.generate(ids, plain(12))
    (new,) = await other.generate(ids, plain(12))
    learner = build(1)
    engine.push(learner.named_parameters(), 7)
    learner.model.embed_tokens.weight.data.zero_()  # the engine has copies
    (pushed,) = await engine.generate(ids, plain(12))
    assert (old.weight_version, pushed.weight_version) == ([0] * 12, [7] * 12)
    assert old.token_ids != pushed.token_ids
    assert_same(pushed, new)


async def test_a_first_token_is_out_before_the_next_is_computed(
    start: Callable[..., Engine],
    prompt: Prompt,
    plain: Callable[..., SamplingParams],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = start()
    may_go_on = threading.Event()
    decode = engine._decode

    def decode_later() -> None:
        assert may_go_on.wait(10), "nobody had the first token"
        decode()

    monkeypatch.setattr(engine, "_decode", decode_later)
    tokens = 0
    async for _ in engine.stream(prompt(5, 0), plain(3)):
        may_go_on.set()
        tokens += 1
    assert tokens == 3


async def test_a_push_is_refused_while_sequences_run_and_accepted_once_they_are_cancelled(
    start: Start, build: Build, plain: Plain, prompt: Prompt
) -> None:
    engine, ids = start(slots=1, max_length=5000), prompt(9, 0)
    tasks = [asyncio.create_task(engine.generate(ids, plain(4900, i))) for i in range(3)]
    await asyncio.sleep(0.01)
    before = engine.model.layers
    with pytest.raises(RuntimeError, match="while sequences are running"):
        engine.push(build(1).named_parameters(), 1)
    assert engine.model.layers is before and engine.version == 0
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    engine.push(build(1).named_parameters(), 1)
    (completion,) = await engine.generate(ids, plain(5))
    (expected,) = await start(seed=1).generate(ids, plain(5))
    assert_same(completion, expected)


def test_limits_that_would_never_run_anything_are_refused(tokenizer: Tokenizer) -> None:
    for name in ("slots", "max_length", "prefill_tokens", "lanes"):
        with pytest.raises(OpenQwQError, match=f"engine.{name} is 0"):
            EngineLimits(**{name: 0})


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(build: Build) -> None:
    with pytest.raises(OpenQwQError, match="vocab_size is 300"):
        words = [f"{first}{second} " for first in "abcdefgh" for second in "stuvwxyz"]
        Engine(build(), Tokenizer.train(words * 2, 310))


async def test_an_engine_on_the_callers_thread_computes_there_and_answers_the_same(
    build: Build, tokenizer: Tokenizer, start: Start, plain: Plain, prompt: Prompt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    own = Engine(build(), tokenizer, EngineLimits(8, 128), thread=CallersThread())
    threads, forward = set(), own.model.forward

    def noting(*arguments: Any) -> Tensor:
        threads.add(threading.get_ident())
        return forward(*arguments)

    monkeypatch.setattr(own.model, "forward", noting)
    asked = [(prompt(n, n), plain(9, seed=n)) for n in (4, 7)]
    there = await asyncio.gather(*[own.generate(ids, params, 2) for ids, params in asked])
    assert threads == {threading.get_ident()}
    other = start()
    for (ids, params), completions in zip(asked, there, strict=True):
        for mine, theirs in zip(
            completions, await other.generate(ids, params, 2), strict=True
        ):
            assert_same(mine, theirs)
    monkeypatch.setattr(own.model, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a failed step reaches who waits for it
        await own.generate(*asked[0])
    own.close()
    with pytest.raises(RuntimeError, match="closed"):
        await own.generate(*asked[0])


def test_a_thread_that_ends_brings_back_values_and_errors() -> None:
    assert on_a_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        on_a_thread(lambda: 1 / 0)


async def test_penalties_and_a_bias_change_what_is_drawn_and_its_log_probs(
    start: Start, plain: Plain, prompt: Prompt
) -> None:
    engine = start()
    forced = plain(5, temperature=0.0, logit_bias=((7, 100.0),))
    (biased,) = await engine.generate(prompt(3, 0), forced)
    assert biased.token_ids == [7] * 5 and max(biased.log_probs) == pytest.approx(
        0, abs=1e-3
    )
    fair = {"logit_bias": ((7, 100.0), (8, 99.0)), "frequency_penalty": 2.0}
    (turns,) = await engine.generate(prompt(3, 0), plain(6, temperature=0.0, **fair))
    assert turns.token_ids.count(7) == 3 and turns.token_ids.count(8) == 3
    with pytest.raises(OpenQwQError, match="logit_bias names token 99999"):
        await engine.generate(prompt(3, 0), plain(5, logit_bias=((99_999, 1.0),)))


@pytest.mark.parametrize("budget", [None, 3])
async def test_an_interrupted_completion_goes_on_as_if_it_had_not_been(
    budget: int | None, start: Start, build: Build, tokenizer: Tokenizer
) -> None:
    thinking = tokenizer.think_open_id
    assert thinking is not None
    prompt = [50, 51, 52, thinking]
    params = SamplingParams(1.0, 1.0, 0, 0.0, max_tokens=40, seed=5, thinking_budget=budget)
    (whole,) = await start().generate(prompt, params)
    assert len(whole.token_ids) == 40
    engine = Engine(build(), tokenizer, EngineLimits(4, 64), thread=CallersThread())
    asked = asyncio.ensure_future(engine.generate(prompt, params))
    while engine.statistics().drawn_tokens < 9:
        await asyncio.sleep(0)
    engine.interrupt()
    (part,) = await asked
    assert part.finish_reason == "cancelled" and 9 <= len(part.token_ids) < 40
    assert part.token_ids == whole.token_ids[: len(part.token_ids)]
    engine.push(build().named_parameters(), 7)
    (rest,) = await engine.generate(prompt, params, begun=part)
    assert rest.token_ids == whole.token_ids
    assert rest.sampled_mask == whole.sampled_mask
    assert rest.log_probs == pytest.approx(whole.log_probs, abs=1e-4)
    assert rest.weight_version == [0] * len(part.token_ids) + [7] * (
        40 - len(part.token_ids)
    )
    with pytest.raises(OpenQwQError, match="one completion was begun, but 2 are asked for"):
        await engine.generate(prompt, params, 2, begun=part)


@pytest.mark.parametrize("prefill_tokens", [5, 64])
async def test_a_text_is_scored_as_the_learner_scores_it(
    start: Start, build: Build, plain: Plain, prompt: Prompt, prefill_tokens: int
) -> None:
    engine, ids = start(prefill_tokens=prefill_tokens), prompt(23, 0)
    await engine.generate(ids, plain(2))  # what the cache holds is scored all the same
    scored, other = await asyncio.gather(engine.score(ids, 3), engine.score(ids[:7]))
    with torch.inference_mode():
        model = build()
        hidden = model(
            torch.tensor(ids), positions([len(ids)]), RaggedAttention([len(ids)])
        )
        expected = model.logits(hidden).log_softmax(-1)
    assert [event.token_id for event in scored] == ids[1:]
    for place, event in enumerate(scored):
        assert event.log_prob == pytest.approx(
            float(expected[place, ids[place + 1]]), abs=1e-4
        )
        best = expected[place].topk(3)
        assert [token_id for token_id, _ in event.alternatives] == best.indices.tolist()
    assert [event.log_prob for event in other] == pytest.approx(
        [event.log_prob for event in scored[:6]], abs=1e-4
    )
    assert not engine.scheduler.unfinished()

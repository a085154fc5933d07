"""llama.cpp behind our protocol, on a real file and on a tiny one with random weights."""

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from gguf.constants import GGMLQuantizationType

from openqwq.engine import llamacpp, llamacpp_messages
from openqwq.engine.open import OpenedModel, open_model
from openqwq.engine.sampler import log_distribution
from openqwq.engine.scoring import Scores
from openqwq.model import gguf
from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.gguf_header import GgufFile, GgufTensor
from openqwq.model.qwen2 import Qwen2
from openqwq.text.gguf import to_metadata
from openqwq.text.grammar import json_grammar, tool_call_grammar
from openqwq.text.stream import parse_reply
from openqwq.text.template import encode_chat
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import OpenQwQError, SamplingParams, Steering, TokenEvent

pytestmark = pytest.mark.usefixtures("no_test_hangs")
if not llamacpp.installed():
    pytest.skip("needs llama.cpp: pip install xllamacpp", allow_module_level=True)


@pytest.fixture(scope="module")
def real(smollm2: Path) -> Iterator[OpenedModel]:
    model = open_model(str(smollm2), slots=4, context_length=512)
    yield model
    model.close()


@pytest.fixture(scope="module")
def tiny(
    build: Callable[..., Qwen2],
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A tiny Qwen2 whose replies are noise: half characters, markers, early ends."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    gguf.save(build(), path, "F32", to_metadata(tokenizer, 300))
    return path


@pytest.fixture(scope="module")
def random_model(tiny: Path) -> Iterator[OpenedModel]:
    model = open_model(str(tiny), "llamacpp", slots=4, context_length=256)
    yield model
    model.close()


@pytest.fixture(scope="module")
def question(real: OpenedModel) -> list[int]:
    content = "What is the capital of France? Answer briefly."
    return encode_chat(real.tokenizer, [{"role": "user", "content": content}])


async def collect(
    model: OpenedModel, ids: list[int], params: SamplingParams
) -> list[TokenEvent]:
    return [event async for event in model.generate.stream(ids, params)]


def thinking_prompt(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode("<|im_start|>assistant\n<think>\n", allow_special=True)


def test_quantised_files_are_its_own_by_choice(real: OpenedModel) -> None:
    assert real.engine == "llamacpp"
    assert real.why == "llamacpp: it runs weights in Q4_1, Q8_0 as they are"
    assert real.context_length == 512


async def test_a_real_model_answers_and_stops(
    real: OpenedModel, question: list[int]
) -> None:
    params = SamplingParams(0.0, max_tokens=30, stop_token_ids=real.tokenizer.eos_ids)
    (completion,) = await real.generate.generate(question, params)
    text = real.tokenizer.decode(completion.token_ids)
    assert text == "The capital of France is Paris.<|im_end|>"
    assert completion.finish_reason == "stop" and completion.prompt_tokens == len(question)
    assert all(completion.sampled_mask) and all(p <= 0 for p in completion.log_probs)
    assert [
        e.token_id for e in await collect(real, question, params)
    ] == completion.token_ids


async def test_members_have_seeds_of_their_own_and_repeat(
    real: OpenedModel, question: list[int], plain: Callable[..., SamplingParams]
) -> None:
    three = await real.generate.generate(question, plain(6, seed=5), 3)
    assert len({tuple(c.token_ids) for c in three}) == 3
    again = [
        (await real.generate.generate(question, plain(6, seed=5 + i)))[0] for i in range(3)
    ]
    assert [c.token_ids for c in again] == [c.token_ids for c in three]


async def test_more_members_than_slots_all_answer(
    real: OpenedModel, question: list[int], plain: Callable[..., SamplingParams]
) -> None:
    completions = await real.generate.generate(question, plain(2), 6)
    assert [len(c.token_ids) for c in completions] == [2] * 6


async def test_log_probs_are_of_the_filtered_distribution(
    real: OpenedModel, question: list[int]
) -> None:
    params = SamplingParams(0.7, 0.9, 3, 0.05, max_tokens=6, top_log_probs=5, seed=1)
    for event in await collect(real, question, params):
        shown = dict(event.alternatives)
        assert len(shown) <= 3 and shown[event.token_id] == event.log_prob
        assert sum(map(math.exp, shown.values())) == pytest.approx(1, abs=1e-4)


async def test_penalties_and_a_bias_change_what_is_drawn(
    real: OpenedModel, question: list[int]
) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=24)
    plain = [event.token_id for event in await collect(real, question, greedy)]
    banned = replace(greedy, logit_bias=((plain[0], -100.0),))
    forced = replace(greedy, logit_bias=((1000, 100.0),), max_tokens=4)
    scarce = replace(greedy, frequency_penalty=2.0, presence_penalty=2.0)
    assert plain[0] not in [
        event.token_id for event in await collect(real, question, banned)
    ]
    assert [event.token_id for event in await collect(real, question, forced)] == [1000] * 4
    varied = [event.token_id for event in await collect(real, question, scarce)]
    assert len(set(varied)) > len(set(plain)) or varied != plain


async def test_nobody_pays_for_log_probs_that_nobody_wants(
    real: OpenedModel, question: list[int]
) -> None:
    """Greedy, llama.cpp would sort the vocabulary for them; the tokens stay the same."""
    params = SamplingParams(temperature=0, max_tokens=12)
    wanted = await collect(real, question, params)
    unwanted = await collect(real, question, replace(params, log_probs=False))
    assert [e.token_id for e in unwanted] == [e.token_id for e in wanted]
    assert all(e.log_prob < 0 for e in wanted) and all(
        math.isnan(e.log_prob) for e in unwanted
    )


async def test_tokens_that_come_close_wake_the_loop_once(
    real: OpenedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, wakings = asyncio.get_running_loop(), 0
    call = loop.call_soon_threadsafe

    def counted(callback: Any, *arguments: Any) -> asyncio.Handle:
        nonlocal wakings
        wakings += 1
        return call(callback, *arguments)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    found = []
    for seconds in (0.0, 3600.0):
        wakings = 0
        monkeypatch.setattr(llamacpp, "TOGETHER_SECONDS", seconds)
        events = await collect(real, [*range(1000, 1016)], SamplingParams(0, max_tokens=20))
        found.append(([event.token_id for event in events], wakings))
    (apart, many), (together, few) = found
    assert apart == together and many > len(apart) == 20
    assert few <= 5  # the prompt's, the first token's, the rest's, the end's


async def test_what_is_drawn_has_our_own_distribution(
    random_model: OpenedModel,
    build: Callable[..., Qwen2],
    plain: Callable[..., SamplingParams],
) -> None:
    """Temperature and filters apply in our order; the weights are the same, up to fp16's error."""
    prompt = [70, 80, 90]
    weights = build()
    with torch.no_grad():
        hidden = weights(torch.tensor(prompt), positions([3]), RaggedAttention([3]))
        logits = weights.logits(hidden)[-1:]
    for params in (plain(1), SamplingParams(0.7, 0.8, 20, 0.01, 1)):
        expected = log_distribution(logits, [params])[0]
        seen = 0
        for seed in range(8):
            (event,) = await collect(random_model, prompt, replace(params, seed=seed))
            if not math.isnan(event.log_prob):
                seen += 1
                assert event.log_prob == pytest.approx(
                    expected[event.token_id].item(), abs=0.02
                )
        assert seen > 2


async def test_a_spent_budget_closes_the_thinking(
    random_model: OpenedModel, plain: Callable[..., SamplingParams]
) -> None:
    tokenizer = random_model.tokenizer
    closing = tokenizer.encode("\n</think>\n\n", allow_special=True)
    prompt = thinking_prompt(tokenizer)
    three = await random_model.generate.generate(prompt, plain(24, thinking_budget=8), 3)
    for completion in three:
        ids, mask = completion.token_ids, completion.sampled_mask
        if tokenizer.think_close_id in ids[:8]:
            continue
        assert ids[8 : 8 + len(closing)] == closing
        assert mask == [True] * 8 + [False] * len(closing) + [True] * (
            24 - 8 - len(closing)
        )
        assert completion.reasoning_tokens == 9 and completion.finish_reason == "length"
    assert len({tuple(c.token_ids) for c in three}) == 3


async def test_answer_now_closes_the_thinking(
    random_model: OpenedModel, plain: Callable[..., SamplingParams]
) -> None:
    tokenizer, steering = random_model.tokenizer, Steering()
    events = []
    stream = random_model.generate.stream(
        thinking_prompt(tokenizer), plain(40, seed=2), steering
    )
    async for event in stream:
        events.append(event)
        steering.answer_now = len(events) >= 5
    ids = [event.token_id for event in events]
    assert tokenizer.think_close_id in ids[5:12] and len(ids) == 40
    assert events[-1].finish_reason == "length"


async def test_only_the_callers_stop_ids_end_a_reply(
    random_model: OpenedModel, plain: Callable[..., SamplingParams]
) -> None:
    """llama.cpp stops at its own end tokens: the reply goes on behind them unless asked to stop."""
    prompt, end = [70, 80, 90], random_model.tokenizer.eos_ids[0]
    replies = await random_model.generate.generate(prompt, plain(120, seed=3), 4)
    assert [len(c.token_ids) for c in replies] == [120] * 4
    assert any(end in c.token_ids for c in replies)
    stops = tuple(range(60, 100))
    stopped = await random_model.generate.generate(
        prompt, plain(120, 3, stop_token_ids=stops), 4
    )
    for completion in stopped:
        assert completion.finish_reason == "stop" and completion.token_ids[-1] in stops
        assert not set(completion.token_ids[:-1]) & set(stops)


def test_tokens_held_back_are_those_of_their_text(real: OpenedModel) -> None:
    """A reply of emoji: the ids between shown ones are what the tokenizer makes of the text."""
    tokenizer = real.tokenizer
    first, *_, last = tokenizer.encode("a😀")
    reader = llamacpp_messages.TokenReader(tokenizer, 1, True)

    def event(
        text: str, token_id: int | None, count: int, reason: str | None = None
    ) -> str:
        token = (
            [{"id": token_id, "token": text, "prob": 0.5}] if token_id is not None else None
        )
        choice = {"text": text, "index": 0, "logprobs": token and {"content": token}}
        return json.dumps(
            {
                "choices": [choice | {"finish_reason": reason}],
                "timings": {"predicted_n": count},
            }
        )

    total = len(tokenizer.encode("a😀"))
    events = [event("", None, 0), event("a", first, 1), event("😀", last, total)]
    events.append(event("", None, total + 2, "length"))
    drawn = [token for text in events for token in reader.tokens(json.loads(text))]
    ids = [token.token_id for token in drawn]
    assert tokenizer.decode(ids[:total]) == "a😀" or total == 2
    assert ids[0] == first and ids[total - 1] == last
    assert all(math.isnan(token.log_prob) for token in drawn[1 : total - 1])
    assert tokenizer.decode(ids[total:]).strip("\ufffd") == ""


def test_a_character_of_several_tokens_is_drawn_once(tokenizer: Tokenizer) -> None:
    """llama.cpp shows the last token alone, with the text of all."""
    for text in ("é", "😀", "the é", "fox 😀😀"):
        ids = tokenizer.encode(text)
        token = {"id": ids[-1], "token": "", "prob": 0.5}
        choice = {"text": text, "index": 0, "logprobs": {"content": [token]}}
        choice["finish_reason"] = None
        event = {"choices": [choice], "timings": {"predicted_n": len(ids)}}
        reader = llamacpp_messages.TokenReader(tokenizer, 1, True)
        assert [drawn.token_id for drawn in reader.tokens(event)] == ids


def test_the_port_that_llamacpp_opens_refuses_everybody(real: OpenedModel) -> None:
    """Its server listens wherever it runs; only we, in its process, may ask it anything."""
    server = real.generate._draw.__self__._server  # type: ignore[attr-defined]
    address = server.listening_address
    assert httpx.post(f"{address}/completion", json={"prompt": "a"}).status_code == 401
    assert httpx.get(f"{address}/slots").status_code == 401
    assert httpx.get(f"{address}/").status_code == 404  # no page


async def test_closing_a_stream_frees_its_slot(
    real: OpenedModel, question: list[int], plain: Callable[..., SamplingParams]
) -> None:
    streams = [real.generate.stream(question, plain(400, seed)) for seed in range(4)]
    for stream in streams:
        await anext(stream)
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    completions = await asyncio.wait_for(real.generate.generate(question, plain(1), 4), 60)
    assert len(completions) == 4


async def test_cancelling_a_call_frees_its_slots(
    real: OpenedModel, question: list[int], plain: Callable[..., SamplingParams]
) -> None:
    task = asyncio.create_task(real.generate.generate(question, plain(400), 4))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    completions = await asyncio.wait_for(real.generate.generate(question, plain(1), 4), 60)
    assert len(completions) == 4


def test_one_model_serves_several_event_loops(
    real: OpenedModel, question: list[int], plain: Callable[..., SamplingParams]
) -> None:
    for seed in range(2):
        (completion,) = asyncio.run(real.generate.generate(question, plain(2, seed)))
        assert len(completion.token_ids) == 2


async def test_what_it_cannot_do_is_said(
    real: OpenedModel, plain: Callable[..., SamplingParams]
) -> None:
    with pytest.raises(OpenQwQError, match="the prompt is empty"):
        await real.generate.generate([], plain(2))
    with pytest.raises(
        OpenQwQError, match="has 600 tokens, 89 too many for a context of 512"
    ):
        await real.generate.generate([5] * 600, plain(2))
    with pytest.raises(
        OpenQwQError, match=r"llama.cpp refuses the request: .*invalid tokens"
    ):
        await real.generate.generate([999_999], plain(2))


async def test_a_reply_ends_where_the_context_does(
    random_model: OpenedModel, plain: Callable[..., SamplingParams]
) -> None:
    (completion,) = await random_model.generate.generate([70] * 250, plain(100))
    assert len(completion.token_ids) == 6 and completion.finish_reason == "length"


async def test_who_waits_at_the_close_gets_an_error(
    smollm2: Path, plain: Callable[..., SamplingParams]
) -> None:
    again = open_model(str(smollm2), "llamacpp", slots=1, context_length=4096)
    task = asyncio.create_task(again.generate.generate([70], plain(4000)))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(again.close)
    with pytest.raises(RuntimeError, match="closed"):
        await task
    with pytest.raises(RuntimeError, match=r"closed|shutdown"):
        await again.generate.generate([70], plain(2))


def test_a_file_that_it_cannot_load_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(
        OpenQwQError, match=f"llama.cpp cannot load {path} with room for 256"
    ):
        llamacpp.open_llamacpp(
            GgufFile(path, {}, {}, (path,)), lambda _: tokenizer, 1, 256, 256
        )


@pytest.mark.parametrize(
    ("gigabytes", "tokens"), [(0.09, 512), (0.3, 128), (0.5, 64), (18, 64)]
)
def test_a_large_model_reads_a_prompt_in_smaller_batches(
    gigabytes: float, tokens: int
) -> None:
    weights = GgufTensor(GGMLQuantizationType.F32, (int(gigabytes * 1e9) // 4,), 0)
    file = GgufFile(Path("m.gguf"), {}, {"w": weights}, (Path("m.gguf"),))
    assert llamacpp.prompt_batch(file) == tokens


async def test_a_text_is_scored_by_the_model_alone(
    random_model: OpenedModel, build: Any
) -> None:
    assert isinstance(random_model.generate, Scores)
    ids = [5, 60, 61, 62, 7, 8]
    scored = await random_model.generate.score(ids, 2)
    model = build()
    with torch.inference_mode():
        hidden = model(
            torch.tensor(ids), positions([len(ids)]), RaggedAttention([len(ids)])
        )
        expected = model.logits(hidden).log_softmax(-1)
    for place, event in enumerate(scored):
        if not math.isnan(event.log_prob):  # held back inside a character
            wanted = float(expected[place, ids[place + 1]])
            assert event.log_prob == pytest.approx(wanted, abs=2e-2)
    assert sum(not math.isnan(event.log_prob) for event in scored) >= 3


POINT = {
    "type": "object",
    "properties": {"x": {"type": "boolean"}, "y": {"enum": [1, "two"]}},
    "required": ["x", "y"],
    "additionalProperties": False,
}


async def test_an_answer_follows_its_grammar(
    real: OpenedModel, question: list[int]
) -> None:
    params = SamplingParams(
        max_tokens=60,
        stop_token_ids=real.tokenizer.eos_ids,
        grammar=json_grammar(POINT),
        seed=3,
    )
    for completion in await real.generate.generate(question, params, 2):
        assert completion.finish_reason == "stop"
        answer = json.loads(real.tokenizer.decode(completion.token_ids, skip_special=True))
        assert list(answer) == ["x", "y"] and answer["y"] in (1, "two")


async def test_a_call_is_forced_in_the_models_own_form(
    real: OpenedModel, question: list[int]
) -> None:
    tools = [{"name": "find", "parameters": POINT}]
    grammar = tool_call_grammar(real.tokenizer, tools, parallel=False)
    params = SamplingParams(
        max_tokens=80, stop_token_ids=real.tokenizer.eos_ids, grammar=grammar, seed=1
    )
    (completion,) = await real.generate.generate(question, params)
    reply = parse_reply(real.tokenizer, completion.token_ids, False, tools)
    assert [call["name"] for call in reply.tool_calls] == ["find"] and not reply.content


async def test_the_grammar_begins_behind_the_thinking(
    random_model: OpenedModel, plain: Callable[..., SamplingParams]
) -> None:
    own = random_model.tokenizer
    params = plain(
        120, 5, grammar=json_grammar(POINT), thinking_budget=20, stop_token_ids=own.eos_ids
    )
    for completion in await random_model.generate.generate(thinking_prompt(own), params, 3):
        ids = completion.token_ids
        closing = own.think_close_id
        assert closing in ids
        answer = own.decode(ids[ids.index(closing) + 1 :], skip_special=True)
        assert set(json.loads(answer)) == {"x", "y"}


async def test_a_bad_grammar_is_refused_before_anything_is_drawn(
    random_model: OpenedModel, plain: Callable[..., SamplingParams]
) -> None:
    with pytest.raises(OpenQwQError, match="not usable"):
        await random_model.generate.generate([70], plain(5, grammar="start: <nothing>"))

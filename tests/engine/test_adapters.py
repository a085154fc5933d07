"""Adapters in the engine: several in one step, each as if it were alone."""

import asyncio
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openqwq.cli import main
from openqwq.engine.cache import DecodeAttention, SlotCache
from openqwq.engine.engine import Engine
from openqwq.engine.graphs import DecodeGraphs, DecodeStep
from openqwq.engine.limits import EngineLimits
from openqwq.engine.open import open_model
from openqwq.engine.packed import PackedModel
from openqwq.engine.verbs import adapters_named, chosen_adapter
from openqwq.model import checkpoint, gguf, lora
from openqwq.model.lora import Adapter, AdapterShape
from openqwq.model.qwen2 import Qwen2
from openqwq.text.gguf import to_metadata
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Completion, Generate, OpenQwQError, SamplingParams

PROMPT = list(range(40, 80))  # long enough for the cache to be worth using
LIMITS = EngineLimits(8, 96, 64, 2)
Start = Callable[..., Engine]


def filled(model: Qwen2, seed: int, rank: int = 2) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    adapter = lora.fresh(model, AdapterShape(rank, 4.0), generator)
    with torch.no_grad():
        for layer in adapter.layers.values():
            layer.b.normal_(0, 0.3, generator=generator)
    return adapter


def greedy(adapter: str = "") -> SamplingParams:
    return SamplingParams(0.0, max_tokens=6, adapter=adapter)


def run(engine: Engine, *names: str) -> list[Completion]:
    async def both() -> list[list[Completion]]:
        return await asyncio.gather(
            *(engine.generate(PROMPT, greedy(name)) for name in names)
        )

    return [completions[0] for completions in asyncio.run(both())]


@pytest.fixture
def opened(tokenizer: Tokenizer) -> Iterator[Start]:
    engines: list[Engine] = []

    def start(model: Qwen2, **adapters: Adapter) -> Engine:
        engine = Engine(model, tokenizer, LIMITS)
        engines.append(engine)
        for name, adapter in adapters.items():
            engine.add_adapter(name, adapter)
        return engine

    yield start
    for engine in engines:
        engine.close()


def close(one: Completion, other: Completion) -> bool:
    gap = max(abs(a - b) for a, b in zip(one.log_probs, other.log_probs, strict=True))
    return one.token_ids == other.token_ids and gap < 1e-4


def test_adapters_in_one_batch_answer_as_their_merged_models_alone(
    build: Callable[..., Qwen2], opened: Start
) -> None:
    adapters = {"a": filled(build(), 1), "b": filled(build(), 2, rank=3)}
    engine = opened(build(), **adapters)
    together = dict(zip(("", "a", "b"), run(engine, "", "a", "b"), strict=True))
    # from the cache
    again = dict(zip(("", "a", "b"), run(engine, "", "a", "b"), strict=True))
    for name, completion in together.items():
        model = build()
        if name:
            lora.merge(model, adapters[name])
        (alone,) = run(opened(model), "")
        assert close(completion, alone), name
        assert close(again[name], alone), name
    assert len({tuple(c.token_ids) for c in together.values()}) == 3
    assert engine.statistics().reused_prompt_tokens > 0


def test_one_adapter_never_starts_from_what_another_computed(
    build: Callable[..., Qwen2], opened: Start
) -> None:
    engine = opened(build(), a=filled(build(), 1), b=filled(build(), 2))
    run(engine, "a")
    run(engine, "b")
    assert engine.statistics().reused_prompt_tokens == 0
    run(engine, "a")
    assert engine.statistics().reused_prompt_tokens == len(PROMPT) - 1


def test_a_model_with_an_adapter_shares_its_base_and_takes_pushed_adapters(
    build: Callable[..., Qwen2], opened: Start
) -> None:
    model, adapter = build(), filled(build(), 1)
    lora.attach(model, adapter)
    engine = opened(model)
    packed = engine.model
    assert isinstance(packed, PackedModel)
    down = model.get_parameter("model.layers.0.mlp.down_proj.weight")
    value = model.get_parameter("model.layers.0.self_attn.v_proj.weight")
    qkv = packed.layers[0].qkv.weight
    assert packed.layers[0].down.weight.data_ptr() == down.data_ptr()
    assert qkv.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()

    other = filled(build(), 2)
    for current in (adapter, other):
        engine.push(current.named_parameters(), 1)
        merged = build()
        lora.merge(merged, current)
        assert close(run(engine, "")[0], run(opened(merged), "")[0])
    with pytest.raises(OpenQwQError, match="frozen and shared with the learner"):
        engine.push(model.named_parameters(), 2)
    with pytest.raises(OpenQwQError, match="weights do not match it"):
        engine.push(filled(build(), 3, rank=5).named_parameters(), 2)


def test_an_unknown_adapter_and_a_name_taken_twice_are_refused(
    build: Callable[..., Qwen2], opened: Start
) -> None:
    engine = opened(build(), a=filled(build(), 1))
    with pytest.raises(OpenQwQError, match="adapter 'c' is unknown: the engine has a"):
        run(engine, "c")
    with pytest.raises(OpenQwQError, match="two adapters have the name 'a'"):
        engine.add_adapter("a", filled(build(), 2))


def test_a_default_adapter_answers_requests_that_name_none(
    build: Callable[..., Qwen2], opened: Start
) -> None:
    engine = opened(build())
    engine.add_adapter("a", filled(build(), 1), default=True)
    unnamed, named = run(engine, "", "a")
    assert close(unnamed, named)


def test_deterministic_mode_samples_with_the_models_own_adapter(
    build: Callable[..., Qwen2], opened: Start
) -> None:
    model, adapter = build(), filled(build(), 1)
    lora.attach(model, adapter)
    model.make_invariant()
    engine = opened(model)
    merged = build()
    lora.merge(merged, adapter)
    assert close(run(engine, "")[0], run(opened(merged), "")[0])
    with pytest.raises(OpenQwQError, match="deterministic mode cannot serve"):
        engine.add_adapter("b", filled(build(), 2))


def test_a_step_of_fixed_shapes_serves_any_mixture_of_adapters(
    build: Callable[..., Qwen2],
) -> None:
    model = PackedModel(build())
    numbers = [
        model.adapters.add(str(seed), filled(build(), seed).layers) for seed in (1, 2)
    ]
    cache = SlotCache(model.config, 9, 64)
    captured: list[DecodeStep] = []

    def record(step: DecodeStep) -> DecodeStep:
        captured.append(step)
        return step

    graphs = DecodeGraphs(model, cache, 8, lambda: record)
    ids, starts = [20, 21, 22, 23, 24], [0] * 5
    slots = torch.arange(5)
    for wanted in ([*numbers, -1, *numbers], [-1] * 5):
        with torch.inference_mode():
            found = graphs.logits(ids, starts, wanted).clone()
            attend = DecodeAttention(
                SlotCache(model.config, 9, 64), slots, torch.tensor(starts), 1
            )
            tensors = torch.tensor(ids), torch.tensor(starts)
            hidden = model.forward(*tensors, attend, torch.tensor(wanted))
            expected = model.logits(hidden)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert len(captured) == 1


def test_a_directory_opens_with_adapters_by_name_and_one_as_default(
    build: Callable[..., Qwen2], tokenizer: Tokenizer, opened: Start, tmp_path: Path
) -> None:
    checkpoint.save(build(), tmp_path / "base", tokenizer)
    for name, seed in (("a", 1), ("b", 2)):
        lora.save(filled(build(), seed), tmp_path / name)
    given = chosen_adapter([f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}"])
    model = open_model(str(tmp_path / "base"), slots=2, context_length=96, **given)
    try:
        assert model.adapters == ("a", "b")
        engine = model.generate
        assert isinstance(engine, Engine)
        unnamed, second = run(engine, "", "b")
        assert close(unnamed, second)
    finally:
        model.close()


def test_a_merged_checkpoint_answers_as_base_and_adapter(
    build: Callable[..., Qwen2], tokenizer: Tokenizer, opened: Start, tmp_path: Path
) -> None:
    checkpoint.save(build(), tmp_path / "base", tokenizer)
    adapter = filled(build(), 1)
    lora.save(adapter, tmp_path / "adapter")
    words = [
        "merge",
        str(tmp_path / "base"),
        str(tmp_path / "adapter"),
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    lora.merge(model := build(), adapter)
    assert close(
        run(opened(checkpoint.load(tmp_path / "out")), "")[0], run(opened(model), "")[0]
    )
    assert main(words) == 2  # the directory is taken
    assert main([*words[:1], str(tmp_path / "adapter"), *words[2:]]) == 2


@pytest.mark.parametrize("text", ["maths", "=dir", "maths="])
def test_an_adapter_option_without_name_or_directory_is_refused(text: str) -> None:
    with pytest.raises(OpenQwQError, match="write NAME=DIR"):
        adapters_named([text])
    with pytest.raises(OpenQwQError, match="names 'a' twice"):
        adapters_named(["a=x", "a=y"])


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_llama_cpp_answers_with_the_adapter_that_a_request_names(
    family: str,
    build: Callable[..., Qwen2],
    tokenizer: Tokenizer,
    opened: Start,
    tmp_path: Path,
) -> None:
    pytest.importorskip("xllamacpp", reason="needs llama.cpp, from xllamacpp")
    base = build()
    if family == "llama":
        base = Qwen2(replace(base.config, attention_bias=False))
        base.initialise(torch.Generator().manual_seed(0), std=0.2)
    gguf.save(base, tmp_path / "m.gguf", "F32", to_metadata(tokenizer, 300))
    folders = {}
    for name, seed in (("a", 1), ("b", 11)):
        folders[name] = tmp_path / name
        lora.save(filled(base, seed), folders[name])
    model = open_model(
        str(tmp_path / "m.gguf"),
        "llamacpp",
        context_length=96,
        adapters=folders,
        default_adapter="b",
    )
    try:
        found = {name: first(model.generate, name) for name in ("a", "b", "")}
        with pytest.raises(OpenQwQError, match="llamacpp has no adapter 'c'"):
            first(model.generate, "c")
    finally:
        model.close()
    for name, answer in found.items():
        merged = deepcopy(base)
        lora.merge(merged, lora.load(folders[name or "b"], merged))
        engine = opened(merged)
        alone = first(engine, "")
        assert answer.token_ids == alone.token_ids, name
        assert answer.log_probs == pytest.approx(alone.log_probs, abs=5e-3), name
    assert found["a"].log_probs != found["b"].log_probs


def first(generate: Generate, adapter: str) -> Completion:
    """One token: of those that end inside a character llama.cpp tells neither id nor log-prob."""
    params = replace(greedy(adapter), max_tokens=1)
    return asyncio.run(generate.generate(PROMPT, params))[0]


def test_an_adapter_for_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OpenQwQError, match="adapter a is for the engine torch"):
        open_model("http://127.0.0.1:9", adapters={"a": tmp_path})


def test_an_engine_that_packs_the_base_answers_as_one_that_shares_it(
    build: Callable[..., Qwen2], opened: Start, tokenizer: Tokenizer
) -> None:
    model, adapter = build(), filled(build(), 1)
    lora.attach(model, adapter)
    packing = Engine(model, tokenizer, LIMITS, packs=True)
    try:
        assert isinstance(packing.model, PackedModel)
        assert packing.model.head.packed and not packing.model.shared
        packing.push(adapter.named_parameters(), 1)
        assert close(run(packing, "")[0], run(opened(model), "")[0])
    finally:
        packing.close()

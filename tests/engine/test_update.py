"""Weights that reach an engine piece by piece: never half of them."""

import asyncio
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.engine.update import WeightUpdate
from openqwq.model import lora
from openqwq.model.lora import AdapterShape
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Completion, OpenQwQError, SamplingParams

TOKENIZER = Tokenizer.train([], 280)
SHAPE = ModelConfig(TOKENIZER.vocab_size, 32, 48, 2, 4, 2, 8)
PARAMS = SamplingParams(temperature=0, max_tokens=12)


def build(seed: int = 0, tied: bool = False) -> Qwen2:
    fields = {**vars(SHAPE), "tie_word_embeddings": tied}
    model = Qwen2(ModelConfig(**fields))
    model.initialise(torch.Generator().manual_seed(seed), std=0.3)
    return model


def shapes(named: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in named.items()}


def engine_of(model: Qwen2) -> Engine:
    return Engine(model, TOKENIZER, EngineLimits(4, 64))


async def drawn(engine: Engine) -> Completion:
    (completion,) = await engine.generate([5, 6, 7], PARAMS)
    return completion


def alone(model: Qwen2) -> Completion:
    engine = engine_of(model)
    try:
        return asyncio.run(drawn(engine))
    finally:
        engine.close()


@pytest.mark.parametrize("tied", [False, True])
async def test_an_update_that_broke_off_keeps_the_engine_waiting_for_a_whole_one(
    tied: bool,
) -> None:
    engine = engine_of(build(0, tied))
    update = WeightUpdate(engine)
    old = await drawn(engine)
    new = dict(build(1, tied).named_parameters())

    def breaking() -> Iterator[tuple[str, Tensor]]:
        yield from list(new.items())[:9]
        raise ConnectionError

    update.begin(1, shapes(new))
    with pytest.raises(ConnectionError):
        update.take(breaking())
    with pytest.raises(OpenQwQError, match=r"update to 1 is not whole"):
        update.commit(1)
    waiting = asyncio.create_task(drawn(engine))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done

    update.begin(1, shapes(new))
    update.take(new.items())
    update.finish()
    update.commit(1)
    found = await waiting
    engine.close()
    expected = await asyncio.to_thread(alone, build(1, tied))
    assert found.token_ids == expected.token_ids != old.token_ids
    assert found.log_probs == expected.log_probs
    assert set(found.weight_version) == {1}


async def test_what_is_not_the_engines_is_refused_and_changes_nothing() -> None:
    engine = engine_of(build())
    update = WeightUpdate(engine)
    new = shapes(dict(build(1).named_parameters()))
    missing = {name: shape for name, shape in new.items() if "layers.1" not in name}
    wider = {**new, "model.norm.weight": (64,)}
    adapter = {"model.layers.0.self_attn.q_proj.lora_A.weight": (2, 32)}
    for wrong, named in (
        (missing, r"differ in model\.layers\.1"),
        (wider, r"model\.norm\.weight \[64\] for \[32\]"),
        (adapter, "lora_A"),
    ):
        with pytest.raises(OpenQwQError, match=named):
            update.begin(1, wrong)
    with pytest.raises(OpenQwQError, match="has not begun"):
        update.take([])
    assert set((await drawn(engine)).weight_version) == {0}
    engine.close()


async def test_a_version_is_committed_only_if_it_is_the_one_that_came() -> None:
    engine = engine_of(build())
    update = WeightUpdate(engine)
    new = dict(build(1).named_parameters())
    update.begin(2, shapes(new))
    update.take(new.items())
    with pytest.raises(OpenQwQError, match=r"update to 2 is another, not version 3"):
        update.commit(3)
    update.commit(2)
    assert engine.version == 2
    engine.close()


async def test_an_adapter_comes_alone_and_is_kept_aside_until_the_commit() -> None:
    model = build()
    adapter = lora.fresh(model, AdapterShape(2, 4.0), torch.Generator().manual_seed(0))
    lora.attach(model, adapter)
    engine = engine_of(model)
    update = WeightUpdate(engine)
    old = await drawn(engine)
    generator = torch.Generator().manual_seed(1)
    new: dict[str, Tensor] = {}
    for name, value in adapter.named_parameters():
        new[name] = torch.randn(value.shape, generator=generator)
    update.begin(1, shapes(new))
    update.take(new.items())
    update.commit(1)
    found = await drawn(engine)
    engine.close()

    adapter.load(new)
    expected = await asyncio.to_thread(alone, model)
    assert found.token_ids == expected.token_ids != old.token_ids
    assert found.log_probs == pytest.approx(expected.log_probs, abs=1e-5)

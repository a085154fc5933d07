"""What a stage will need, counted from the shape: it grows and shrinks with the settings."""

from dataclasses import replace

import pytest

from openqwq.model import precision
from openqwq.model.qwen2 import ModelConfig
from openqwq.train.plan import (
    StagePlan,
    Work,
    advice,
    describe,
    micro_batch_tokens,
    plan_stage,
    useful_tokens,
)
from openqwq.types import OpenQwQError

GIB = 2**30
SHAPE = ModelConfig(151936, 896, 4864, 24, 14, 2, 64, tie_word_embeddings=True)
WORK = Work(
    completions=64,
    group_size=8,
    prompt_tokens=100,
    completion_tokens=150,
    slots=64,
    lanes=16,
    max_length=500,
    prefill_tokens=4096,
    micro_batch_tokens=1024,
    products="bf16",
    rank=16,
)


@pytest.fixture(autouse=True)
def rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's products, so that nothing is measured."""
    monkeypatch.setattr("openqwq.train.plan.product_rate", lambda config, rows, dtype: 4e11)


def planned(**changes: object) -> StagePlan:
    return plan_stage(SHAPE, replace(WORK, **changes), GIB // 2)  # type: ignore[arg-type]


def test_full_weights_cost_sixteen_bytes_a_parameter_and_an_adapter_next_to_none() -> None:
    full, adapter = planned(rank=0, products="fp32"), planned()
    parameters = 494_032_768
    assert full.memory["weights"] == full.memory["gradients"] == 4 * parameters
    assert full.memory["optimiser"] == 8 * parameters
    assert adapter.memory["weights"] < 1.05 * 2 * parameters
    assert adapter.memory["gradients"] == 4 * 8_798_208  # as PEFT counts rank 16
    assert adapter.memory["engine"] == 0


def test_the_peak_is_what_is_held_and_the_larger_phase() -> None:
    plan = StagePlan({"process": 1, "weights": 2, "sampling": 30, "learning": 4}, {})
    assert plan.peak == 33


def test_an_evaluation_after_sft_counts_where_it_takes_more_than_the_update() -> None:
    sft = {"slots": 0, "rank": 0, "evaluated_length": 500}
    alone = planned(**sft)
    few = planned(**sft, evaluation_slots=1)
    many = planned(**sft, evaluation_slots=1024)
    within = planned(**sft, evaluation_slots=1024, evaluated_within=True)
    assert few.peak == alone.peak
    learner = many.memory["gradients"] + many.memory["optimiser"]
    assert (
        many.peak
        == many.memory["process"] + many.memory["weights"] + many.memory["evaluation"]
    )
    assert within.peak == many.peak + learner


def test_recomputation_trades_memory_for_time() -> None:
    usual, less = planned(), planned(recompute=True)
    assert less.memory["learning"] < 0.4 * usual.memory["learning"]
    assert less.seconds["update"] > 1.2 * usual.seconds["update"]


def test_sft_samples_nothing() -> None:
    plan = planned(slots=0)
    assert "cache" not in plan.memory and list(plan.seconds) == ["update"]


def test_the_micro_batch_is_the_largest_that_fits() -> None:
    tokens = micro_batch_tokens(SHAPE, WORK, GIB // 2, 10 * GIB)
    fits = planned(micro_batch_tokens=tokens).peak
    beyond = planned(micro_batch_tokens=tokens + 128).peak
    assert fits <= 9 * GIB < beyond
    assert micro_batch_tokens(SHAPE, WORK, GIB // 2, 400 * GIB) == 8192
    assert micro_batch_tokens(SHAPE, WORK, GIB // 2, 400 * GIB, most=1024) == 1024


def test_on_a_cpu_more_tokens_than_products_need_must_not_take_new_memory() -> None:
    assert useful_tokens(SHAPE) == 1724
    assert useful_tokens(replace(SHAPE, intermediate_size=352)) == 8192
    assert useful_tokens(replace(SHAPE, intermediate_size=27648)) == 1024


def test_what_does_not_fit_says_what_would() -> None:
    full = replace(WORK, rank=0, products="fp32")
    with pytest.raises(
        OpenQwQError, match=r"needs .* GiB, and 6.00 GiB are free: recompute act"
    ):
        micro_batch_tokens(SHAPE, full, GIB // 2, 6 * GIB)
    hint = advice(SHAPE, full, GIB // 2, 6 * GIB)
    assert "lora" in hint
    assert "smaller model" in advice(SHAPE, full, GIB // 2, GIB)
    text = describe("rl", plan_stage(SHAPE, full, GIB // 2), 6 * GIB, hint)
    assert "does not fit: recompute activations" in text and "optimiser" in text


def test_the_rate_of_products_is_measured_in_operations_a_second() -> None:
    rate = precision.product_rate(
        ModelConfig(9, 64, 64, 1, 2, 2, 32), 16, precision.DTYPES["fp32"]
    )
    assert 1e6 < rate < 1e14


def test_another_policy_to_compare_with_takes_its_own_bytes() -> None:
    assert planned(teacher=3 * GIB).peak == planned().peak + 3 * GIB

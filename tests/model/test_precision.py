"""What "auto" chooses, and what stays in fp32 when products do not."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from openqwq.model import precision
from openqwq.model.attention import RaggedAttention, positions
from openqwq.model.precision import chosen_products, has_bf16, prepare
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.types import OpenQwQError, Products

CPU = torch.device("cpu")
LARGE = ModelConfig(1000, 896, 4864, 24, 14, 2, 64)
NEEDS_BF16 = pytest.mark.skipif(
    not has_bf16(), reason="needs a CPU that multiplies in bf16"
)


@pytest.fixture
def timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., list[torch.dtype]]:
    """Pretends that products take these seconds; what was measured, in order."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "has_bf16", lambda: True)

    def pretend(fp32: float, bf16: float) -> list[torch.dtype]:
        asked: list[torch.dtype] = []

        def seconds(shapes: object, rows: int, dtype: torch.dtype) -> float:
            asked.append(dtype)
            return fp32 if dtype == torch.float32 else bf16

        monkeypatch.setattr(precision, "_seconds", seconds)
        return asked

    return pretend


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"),
    [(2.0, 1.0, "bf16"), (1.0, 2.0, "fp32"), (1.05, 1.0, "fp32")],
)
def test_auto_is_what_is_faster_here_and_is_measured_once(
    fp32: float, bf16: float, expected: Products, timed: Callable[..., list[torch.dtype]]
) -> None:
    asked = timed(fp32, bf16)
    assert chosen_products("auto", LARGE, CPU) == expected
    assert chosen_products("auto", LARGE, CPU) == expected
    assert asked == [torch.float32, torch.bfloat16]


def test_a_small_model_stays_in_fp32_unmeasured(
    make_model: Callable[..., Qwen2], timed: Callable[..., list[torch.dtype]]
) -> None:
    asked = timed(2.0, 1.0)
    assert chosen_products("auto", make_model().config, CPU) == "fp32"
    assert not asked


def test_bf16_is_refused_where_the_machine_does_not_have_it_and_auto_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    with pytest.raises(
        OpenQwQError, match=r"the precision is bf16, but this machine does not"
    ):
        chosen_products("bf16", LARGE, CPU)
    assert chosen_products("auto", LARGE, CPU) == "fp32"


def test_a_measurement_says_how_long_the_products_take() -> None:
    seconds = precision._seconds([(64, 64)], 4, torch.float32)
    assert 0 < seconds < 1


def test_a_measurement_is_of_several_calls_on_a_busy_machine_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0

    def slow(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        time.sleep(precision.SECONDS)

    monkeypatch.setattr(precision, "product", slow)
    precision._seconds([(64, 64)], 4, torch.float32)
    assert calls == 4


def logits(model: Qwen2) -> torch.Tensor:
    ids = torch.arange(12)
    return model.logits(model(ids, positions([12]), RaggedAttention([12])))


@NEEDS_BF16
@pytest.mark.parametrize("trained", [True, False])
def test_in_bf16_products_round_and_weights_that_are_trained_do_not(
    trained: bool, make_model: Callable[..., Qwen2]
) -> None:
    exact, model = make_model(), make_model()
    prepare(model, "bf16", trained)
    gap = (logits(model) - logits(exact)).abs().max()
    assert 1e-4 < gap < 0.1
    kinds = {(p.dim(), p.dtype) for p in model.parameters()}
    stored = torch.float32 if trained else torch.bfloat16
    assert kinds == {(1, torch.float32), (2, stored)}
    if trained:
        logits(model).square().mean().backward()
        logits(exact).square().mean().backward()
        for parameter, reference in zip(
            model.parameters(), exact.parameters(), strict=True
        ):
            found, expected = parameter.grad, reference.grad
            assert found is not None and expected is not None
            assert found.dtype == torch.float32
            assert (found - expected).norm() < 0.05 * expected.norm() + 1e-4

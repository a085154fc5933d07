import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openqwq.train import loss as loss_module
from openqwq.train.loss import (
    Metrics,
    cispo_loss,
    cross_entropy_loss,
    dapo_loss,
    gspo_loss,
    kl_k3,
    log_ratio,
    mean_metrics,
    mismatch_mask,
    policy_loss,
    token_log_probs,
)
from openqwq.types import OpenQwQError

TRL: dict[str, Any] = json.loads(Path(__file__).with_name("trl_reference.json").read_text())
OBJECTIVES = ("cispo", "dapo", "gspo")
GUARDS: dict[str, Any] = {"token_bounds": (0.5, 5.0), "sequence_bounds": (0.9, 1.1)}


def fp64(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss_and_gradient(
    objective: str, log_probs: Tensor, *rest: Any, **options: Any
) -> tuple[Tensor, Tensor, Metrics]:
    leaf = log_probs.detach().clone().requires_grad_()
    loss, metrics = policy_loss(objective, leaf, *rest, **options)
    loss.backward()
    assert leaf.grad is not None
    assert not any(value.requires_grad for value in metrics.values())
    return loss.detach(), leaf.grad, metrics


@pytest.mark.parametrize("name", TRL["losses"])
def test_loss_gradient_and_metrics_equal_trl(name: str) -> None:
    # "cispo" and "dapo" divide by the token count as we do. Its "grpo" is a mean over sequences of
    # means over tokens: advantages / length and the sequence count as normaliser give the same.
    case, lengths = TRL["losses"][name], torch.tensor(TRL["lengths"])
    sequence_index = torch.arange(len(lengths)).repeat_interleave(lengths)
    token_lengths = lengths[sequence_index]
    advantages = fp64(TRL["advantages"])[sequence_index]
    normaliser = len(token_lengths)
    if name in ("grpo", "gspo"):
        advantages, normaliser = advantages / token_lengths, len(lengths)
    objective = name.split("_")[0].replace("grpo", "dapo")
    options: dict[str, Any] = {f"{objective}_clip": case["clip"]}
    if objective == "cispo":
        options = {"cispo_cap": case["clip"][1]}
    if case["beta"]:
        options["reference_log_probs"] = fp64(case["reference_log_probs"])
    log_probs, sampler = fp64(case["log_probs"]), fp64(case["sampler_log_probs"])
    loss, gradient, metrics = loss_and_gradient(
        objective,
        log_probs,
        sampler,
        advantages,
        sequence_index,
        normaliser,
        kl_coefficient=case["beta"],
        **options,
    )
    assert loss.item() == pytest.approx(case["loss"], rel=1e-12)
    torch.testing.assert_close(gradient, fp64(case["gradient"]), rtol=1e-12, atol=1e-15)
    if objective == "gspo":  # TRL counts clipped sequences there, we count their tokens
        clipped = gspo_loss(log_ratio(log_probs, sampler), advantages, sequence_index)[1]
        assert (clipped / token_lengths).sum() / len(lengths) == case["clip_fraction"]
    else:
        clip_fraction = metrics["clip_fraction"] / len(token_lengths)
        assert clip_fraction == pytest.approx(case["clip_fraction"])
    if case["beta"]:
        reference_kl = mean_metrics([metrics])["reference_kl"]
        assert reference_kl == pytest.approx(case["reference_kl"], rel=1e-12)


def test_token_log_probs_and_entropy_equal_trl() -> None:
    case = TRL["log_probs"]
    hidden, weight = (
        torch.tensor(case[key], dtype=torch.float64) for key in ("hidden", "weight")
    )
    log_probs, entropy = token_log_probs(hidden, weight, torch.tensor(case["targets"]))
    torch.testing.assert_close(log_probs, fp64(case["log_probs"]), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(entropy, fp64(case["entropy"]), rtol=1e-12, atol=1e-15)


def test_cispo_weighs_log_probs_by_the_capped_ratio() -> None:
    log_probs = fp64([-1.0, -1.0, -2.0, -2.0]).requires_grad_()
    log_ratios = fp64([math.log(2), math.log(50), math.log(50), -math.log(4)])
    loss, clipped = cispo_loss(log_probs, log_ratios, fp64([3.0, 1.0, -1.0, 1.0]))
    assert loss.tolist() == pytest.approx([6.0, 5.0, -10.0, 0.5])
    assert clipped.tolist() == [False, True, False, False]
    loss.sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-6.0, -5.0, 5.0, -0.25])


def test_dapo_clips_only_the_side_that_would_move_further_away() -> None:
    log_ratios = fp64([1.5, 1.5, 0.5, 0.5, 1.1]).log().requires_grad_()
    loss, clipped = dapo_loss(log_ratios, fp64([1.0, -1.0, 1.0, -1.0, 2.0]))
    assert loss.tolist() == pytest.approx([-1.28, 1.5, -0.5, 0.8, -2.2])
    assert clipped.tolist() == [True, False, False, True, False]
    loss.sum().backward()
    assert log_ratios.grad is not None
    assert log_ratios.grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0, -2.2])


def test_gspo_uses_each_sequences_geometric_mean_ratio() -> None:
    log_ratios = fp64([1.0, 1.1, 0.9, 0.99]).log().requires_grad_()
    loss, clipped = gspo_loss(
        log_ratios,
        fp64([1.0, 1.0, 1.0, -1.0]),
        torch.tensor([0, 0, 0, 1]),
        clip=(0.02, 0.02),
    )
    ratio = (1.0 * 1.1 * 0.9) ** (1 / 3)
    assert loss.tolist() == pytest.approx([-ratio] * 3 + [0.99])
    assert not clipped.any()
    loss.sum().backward()
    assert log_ratios.grad is not None
    assert log_ratios.grad.tolist() == pytest.approx([-ratio] * 3 + [0.99])


@pytest.mark.parametrize(
    ("objective", "log_ratio_value", "advantage", "expected"),
    [
        ("cispo", 9.0, 1.0, 5.0),
        ("dapo", 1.0, 1.0, -1.28),
        ("dapo", -1.0, -1.0, 0.8),
        ("gspo", 1.0, 1.0, -1.0004),
        ("gspo", -1.0, -1.0, 0.9997),
    ],
)
def test_default_clips_are_the_published_ones(
    objective: str, log_ratio_value: float, advantage: float, expected: float
) -> None:
    log_probs, log_ratios, advantages = (
        fp64([-1.0]),
        fp64([log_ratio_value]),
        fp64([advantage]),
    )
    index = torch.tensor([0])
    alone = {
        "cispo": lambda: cispo_loss(log_probs, log_ratios, advantages),
        "dapo": lambda: dapo_loss(log_ratios, advantages),
        "gspo": lambda: gspo_loss(log_ratios, advantages, index),
    }[objective]()[0]
    dispatched = policy_loss(
        objective, log_probs, log_probs - log_ratios, advantages, index, 1
    )[0]
    assert alone.item() == dispatched.item() == expected


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_on_policy_every_objective_is_the_plain_policy_gradient(objective: str) -> None:
    log_probs, advantages = fp64([-0.1, -2.0, -3.0]), fp64([0.5, 0.5, -1.0])
    index = torch.tensor([0, 0, 1])
    _, gradient, metrics = loss_and_gradient(
        objective, log_probs, log_probs, advantages, index, 3, **GUARDS
    )
    torch.testing.assert_close(gradient, -advantages / 3)
    assert mean_metrics([metrics]) == {
        "tokens": 3.0,
        "log_prob_gap": 0.0,
        "mismatch_kl": 0.0,
        "max_ratio": 1.0,
        "clip_fraction": 0.0,
        "masked_fraction": 0.0,
    }


@pytest.mark.parametrize("objective", ["dapo", "gspo"])
def test_gradients_agree_with_finite_differences(objective: str) -> None:
    generator = torch.Generator().manual_seed(1)
    log_probs, noise, advantages, reference = torch.randn(
        4, 6, generator=generator, dtype=torch.float64
    )
    index = torch.tensor([0, 0, 1, 1, 1, 2])

    def loss(leaf: Tensor) -> Tensor:
        return policy_loss(
            objective,
            leaf,
            log_probs - 0.3 * noise,
            advantages,
            index,
            6,
            gspo_clip=(0.05, 0.05),
            reference_log_probs=reference,
            kl_coefficient=0.1,
        )[0]

    assert torch.autograd.gradcheck(loss, log_probs.requires_grad_())


def test_token_log_probs_gradient_agrees_with_finite_differences_when_chunked() -> None:
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(7, 3, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([0, 6, 2, 2, 5])
    assert torch.autograd.gradcheck(
        lambda h, w: token_log_probs(h, w, targets, max_logits=14)[0], (hidden, weight)
    )


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    cut=st.integers(0, 8),
    seed=st.integers(0, 2**16),
    objective=st.sampled_from(OBJECTIVES),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    guards=st.sampled_from([{}, GUARDS]),
)
def test_any_micro_batch_split_gives_the_same_gradient_and_metrics(
    lengths: list[int], cut: int, seed: int, objective: str, dtype: torch.dtype, guards: Any
) -> None:
    generator = torch.Generator().manual_seed(seed)
    total, cut = sum(lengths), min(cut, len(lengths))
    log_probs, noise, advantages, reference = torch.randn(
        4, total, generator=generator, dtype=dtype
    )
    sampler = log_probs - 0.2 * noise
    index = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))

    def run(tokens: slice, first_sequence: int) -> tuple[Tensor, Tensor, Metrics]:
        return loss_and_gradient(
            objective,
            log_probs[tokens],
            sampler[tokens],
            advantages[tokens],
            index[tokens] - first_sequence,
            total,
            gspo_clip=(0.05, 0.05),
            reference_log_probs=reference[tokens],
            kl_coefficient=0.01,
            **guards,
        )

    whole_loss, whole_gradient, whole_metrics = run(slice(None), 0)
    boundary = sum(lengths[:cut])
    spans = [(slice(0, boundary), 0), (slice(boundary, total), cut)]
    parts = [run(tokens, first) for tokens, first in spans if tokens.stop > tokens.start]
    gradient = torch.cat([part[1] for part in parts])
    tolerance = 1e-6 if dtype == torch.float32 else 0.0
    torch.testing.assert_close(gradient, whole_gradient, rtol=tolerance, atol=0.0)
    loss = torch.stack([part[0] for part in parts]).sum()
    torch.testing.assert_close(loss, whole_loss, rtol=1e-5, atol=1e-6)
    assert mean_metrics([part[2] for part in parts]) == pytest.approx(
        mean_metrics([whole_metrics]), rel=1e-5, abs=1e-6
    )


def test_k3_has_the_expectation_of_the_kl_divergence() -> None:
    p, q = fp64([0.7, 0.2, 0.1]), fp64([0.3, 0.3, 0.4])
    k3 = kl_k3(log_ratio(q.log(), p.log()))
    assert (k3 >= 0).all()
    assert (p * k3).sum().item() == pytest.approx(
        (p * (p / q).log()).sum().item(), rel=1e-12
    )


def test_mismatch_kl_measures_the_sampler_against_the_learner() -> None:
    learner, sampler = fp64([0.2]).log(), fp64([0.1]).log()
    metrics = policy_loss("cispo", learner, sampler, learner, torch.tensor([0]), 1)[1]
    assert metrics["mismatch_kl"].item() == pytest.approx(2 - 1 - math.log(2))
    assert metrics["log_prob_gap"].item() == pytest.approx(math.log(2))
    assert metrics["max_ratio"].item() == pytest.approx(2)


def test_token_mask_drops_ratios_outside_its_bounds() -> None:
    log_ratios = fp64([0.49, 0.51, 4.9, 5.1]).log()
    index = torch.tensor([0, 0, 1, 1])
    keep = mismatch_mask(log_ratios, index, (0.5, 5.0), None)
    assert keep.tolist() == [False, True, True, False]


def test_sequence_mask_drops_whole_sequences_by_geometric_mean() -> None:
    log_ratios = fp64([2.0, 0.5, 1.02, 1.02, 0.98]).log()
    index = torch.tensor([0, 0, 1, 1, 2])
    keep = mismatch_mask(log_ratios, index, None, (0.99, 1.01))
    assert keep.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_masked_outlier_contributes_nothing_and_stays_finite(objective: str) -> None:
    log_probs, sampler = torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -100.0])
    loss, gradient, metrics = loss_and_gradient(
        objective,
        log_probs,
        sampler,
        torch.tensor([1.0, -1.0]),
        torch.tensor([0, 1]),
        2,
        token_bounds=(0.5, 5.0),
    )
    assert torch.isfinite(loss)
    assert gradient.tolist() == [-0.5, 0.0]
    assert metrics["masked_fraction"] == 1


def test_unknown_objective_is_refused_by_name() -> None:
    one = torch.ones(1)
    with pytest.raises(OpenQwQError, match="'ppo': choose cispo, dapo or gspo"):
        policy_loss("ppo", one, one, one, torch.tensor([0]), 1)


def test_kl_without_a_reference_is_refused() -> None:
    one = torch.ones(1)
    with pytest.raises(OpenQwQError, match="reference_log_probs"):
        policy_loss("cispo", one, one, one, torch.tensor([0]), 1, kl_coefficient=0.001)


def test_reference_without_a_coefficient_is_only_measured() -> None:
    one = torch.ones(1)
    loss, metrics = policy_loss(
        "cispo", one, one, one, torch.tensor([0]), 1, reference_log_probs=one - 1
    )
    assert loss.item() == -1.0
    assert metrics["reference_kl"].item() == pytest.approx(math.exp(-1))


def test_cross_entropy_is_torchs_mean_when_the_normaliser_is_the_count() -> None:
    generator = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(9, 4, generator=generator) for _ in range(2))
    targets = torch.arange(9)
    hidden.requires_grad_()
    loss, metrics = cross_entropy_loss(token_log_probs(hidden, weight, targets)[0], 9)
    torch.testing.assert_close(
        loss, torch.nn.functional.cross_entropy(hidden @ weight.T, targets)
    )
    assert not metrics["cross_entropy"].requires_grad
    assert mean_metrics([metrics])["cross_entropy"] == pytest.approx(loss.item())


def test_mean_metrics_weighs_micro_batches_by_tokens_and_keeps_the_largest_ratio() -> None:
    parts = [
        {
            "tokens": torch.tensor(1),
            "gap": torch.tensor(4.0),
            "max_ratio": torch.tensor(3.0),
        },
        {
            "tokens": torch.tensor(3),
            "gap": torch.tensor(8.0),
            "max_ratio": torch.tensor(2.0),
        },
    ]
    assert mean_metrics(parts) == {"tokens": 4.0, "gap": 3.0, "max_ratio": 3.0}


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 13])
def test_log_probs_do_not_depend_on_the_chunk_size(rows: int) -> None:
    # Small integers make every product exact, so a difference could only come from the chunking.
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randint(-3, 4, (13, 8), generator=generator).float()
    weight = torch.randint(-3, 4, (32, 8), generator=generator).float()
    targets = torch.randint(32, (13,), generator=generator)
    whole = token_log_probs(hidden, weight, targets)
    chunked = token_log_probs(hidden, weight, targets, max_logits=rows * 32)
    assert torch.equal(chunked[0], whole[0])
    torch.testing.assert_close(chunked[1], whole[1], rtol=1e-6, atol=1e-6)


def test_no_chunk_exceeds_the_logit_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, compute = [], loss_module._chunk_log_probs

    def record(
        hidden: Tensor, weight: Tensor, targets: Tensor, product: loss_module.Product
    ) -> tuple[Tensor, Tensor]:
        sizes.append(len(targets) * len(weight))
        return compute(hidden, weight, targets, product)

    monkeypatch.setattr(loss_module, "_chunk_log_probs", record)
    token_log_probs(
        torch.ones(10, 2), torch.ones(8, 2), torch.arange(8).repeat(2)[:10], max_logits=30
    )
    assert sizes == [24, 24, 24, 8]


def test_logits_are_fp32_for_bf16_weights() -> None:
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(4, 16, generator=generator).bfloat16()
    weight = torch.randn(50, 16, generator=generator).bfloat16().requires_grad_()
    targets = torch.tensor([1, 2, 3, 49])
    log_probs, entropy = token_log_probs(hidden, weight, targets)
    exact, _ = token_log_probs(hidden.double(), weight.double(), targets)
    assert log_probs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(log_probs.double(), exact, rtol=1e-6, atol=1e-6)


def test_entropy_carries_no_graph() -> None:
    weight = torch.zeros(8, 2, requires_grad=True)
    log_probs, entropy = token_log_probs(
        torch.ones(3, 2), weight, torch.arange(3), max_logits=8
    )
    assert log_probs.requires_grad
    assert not entropy.requires_grad
    assert entropy.tolist() == pytest.approx([math.log(8)] * 3)

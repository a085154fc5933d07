"""One optimiser step: the same for every split, with the schedule and optimisers it claims."""

import copy
import math
from pathlib import Path

import pytest
import torch

from openqwq.config import OptimiserConfig
from openqwq.model import lora
from openqwq.model.lora import Adapter, AdapterShape
from openqwq.model.precision import has_bf16, prepare
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.learner import Learner
from openqwq.train.loss import cross_entropy_loss, frozen_log_probs, token_log_probs
from openqwq.train.optimiser import Muon, build_optimisers, orthogonalise
from openqwq.train.packing import pack_examples
from openqwq.types import OpenQwQError

SHAPE = ModelConfig(50, 16, 32, 2, 2, 1, 8, tie_word_embeddings=True)
EXAMPLES = [
    (list(range(1, n + 4)), [False, False, *[True] * (n + 1)])
    for n in (3, 7, 2, 9, 5, 4, 11)
]


def fresh(config: OptimiserConfig, dtype: torch.dtype = torch.float32) -> Learner:
    model = Qwen2(SHAPE)
    model.initialise(torch.Generator().manual_seed(0), std=0.2)
    return Learner(model.to(dtype), config, steps=10)


def step(learner: Learner, budget: int) -> dict[str, float]:
    batches = pack_examples(EXAMPLES, budget)
    return learner.train_step(
        batches, lambda lp, batch, tokens: cross_entropy_loss(lp, tokens)
    )


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_gradients_and_metrics_are_the_same_under_any_micro_batch_split(name: str) -> None:
    results = []
    for budget in (14, 30, 1000):
        learner = fresh(OptimiserConfig(name, lr=0.0), torch.float64)  # type: ignore[arg-type]
        gradients: list[torch.Tensor] = []
        learner.optimisers[0].register_step_pre_hook(
            lambda *_, g=gradients, m=learner.model: g.extend(
                p.grad.clone() for p in m.parameters() if p.grad is not None
            )
        )
        results.append((step(learner, budget), gradients))
    for metrics, gradients in results[1:]:
        for name_, value in results[0][0].items():
            assert math.isclose(metrics[name_], value, rel_tol=1e-6), name_
        for one, other in zip(gradients, results[0][1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_training_learns_its_examples() -> None:
    for name in ("adamw", "muon"):
        learner = fresh(OptimiserConfig(name, lr=0.02, warmup_steps=1, weight_decay=0.0))  # type: ignore[arg-type]
        losses = [step(learner, 1000)["loss"] for _ in range(40)]
        assert losses[-1] < 0.2 * losses[0], name


def test_a_restored_learner_goes_on_bit_by_bit() -> None:
    for name in ("adamw", "muon"):
        one, other = (fresh(OptimiserConfig(name, lr=0.01)) for _ in range(2))  # type: ignore[arg-type]
        for _ in range(3):
            step(one, 30)
        other.load_state(copy.deepcopy(one.state()))
        step(one, 30), step(other, 30)
        for (key, a), (_, b) in zip(one.named_params(), other.named_params(), strict=True):
            assert torch.equal(a, b), (name, key)


def test_the_rate_warms_up_holds_and_decays() -> None:
    learner = fresh(OptimiserConfig("adamw", 1.0, warmup_steps=2, decay_share=0.5))
    rates = [learner.learning_rate(i) for i in range(10)]
    assert rates == [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    learner = fresh(OptimiserConfig("adamw", 1.0, 0, decay_share=1.0, final_lr_share=0.3))
    assert learner.learning_rate(9) == 0.3


def test_gradients_are_clipped_to_the_norm() -> None:
    learner = fresh(OptimiserConfig("adamw", lr=0.0, max_grad_norm=1e-3))
    norms: list[float] = []
    learner.optimisers[0].register_step_pre_hook(
        lambda *_: norms.append(
            float(torch.stack([p.grad.norm() for p in learner.model.parameters()]).norm())  # type: ignore[union-attr]
        )
    )
    assert step(learner, 1000)["grad_norm"] > 1e-3
    assert math.isclose(norms[0], 1e-3, rel_tol=1e-3)


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_spoils_the_weights() -> None:
    learner = fresh(OptimiserConfig("adamw", lr=0.1))
    before = [p.clone() for _, p in learner.named_params()]
    with pytest.raises(OpenQwQError, match="gradient norm is nan at step 0"):
        learner.train_step(
            pack_examples(EXAMPLES, 1000),
            lambda lp, b, n: (lp.sum() * float("nan"), {"tokens": torch.tensor(1)}),
        )
    assert all(
        torch.equal(a, b) for a, (_, b) in zip(before, learner.named_params(), strict=True)
    )


def test_muon_is_torchs_muon() -> None:
    """torch.optim.Muon multiplies in bf16, so the two agree to bf16's precision."""
    torch.manual_seed(0)
    start, gradients = torch.randn(24, 16), [torch.randn(24, 16) for _ in range(3)]
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    settings = {"lr": 0.1, "momentum": 0.95, "weight_decay": 0.1}
    optimisers = [
        Muon([ours], **settings),
        torch.optim.Muon([theirs], **settings, adjust_lr_fn="match_rms_adamw"),
    ]
    for gradient in gradients:
        for parameter, optimiser in zip((ours, theirs), optimisers, strict=True):
            parameter.grad = gradient.clone()
            optimiser.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_orthogonalising_keeps_directions_and_levels_singular_values() -> None:
    matrices = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    for result, matrix in zip(orthogonalise(matrices), matrices, strict=True):
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.6 and values.max() < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        assert (
            torch.nn.functional.cosine_similarity(result.flatten(), (u @ v).flatten(), 0)
            > 0.95
        )
    transposed = orthogonalise(matrices.mT.contiguous())
    torch.testing.assert_close(transposed, orthogonalise(matrices).mT, rtol=0, atol=1e-5)


def test_muon_takes_the_layers_matrices_and_adamw_all_else() -> None:
    model = Qwen2(SHAPE)
    adamw, muon = build_optimisers(model, "muon", 0.1, (0.9, 0.95), 0.0)
    counts = [sum(len(g["params"]) for g in o.param_groups) for o in (adamw, muon)]
    # 7 matrices in each of 2 layers
    assert counts == [len(list(model.parameters())) - 14, 14]


ADAMW = OptimiserConfig("adamw", lr=0.02, warmup_steps=1, weight_decay=0.0)


def adapted(config: OptimiserConfig = ADAMW, rank: int = 4) -> tuple[Learner, Adapter]:
    model = fresh(config).model
    adapter = lora.fresh(model, AdapterShape(rank), torch.Generator().manual_seed(0))
    lora.attach(model, adapter)
    return Learner(model, config, 10, adapter), adapter


def test_an_adapter_learns_its_examples_and_its_base_stays() -> None:
    learner, _ = adapted()
    before = [p.clone() for p in learner.model.parameters()]
    losses = [step(learner, 1000)["loss"] for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(
        torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True)
    )


def test_the_reference_is_the_base_whatever_the_adapter_has_learned() -> None:
    learner, _ = adapted()
    (batch,) = pack_examples(EXAMPLES, 1000)
    before, _ = learner.reference().log_probs(batch)
    step(learner, 1000)
    after, _ = learner.reference().log_probs(batch)
    assert torch.equal(before, after) and not after.requires_grad
    assert (learner.log_probs(batch)[0] - after).abs().max() > 1e-3
    with pytest.raises(OpenQwQError, match="it has none: train with lora"):
        fresh(ADAMW).reference()


def test_a_restored_adapter_goes_on_bit_by_bit_and_its_state_holds_no_base() -> None:
    (one, _), (other, _) = adapted(), adapted()
    for _ in range(3):
        step(one, 30)
    state = copy.deepcopy(one.state())
    assert all("lora_" in name for name in state["model"])
    other.load_state(state)
    step(one, 30), step(other, 30)
    for (key, a), (_, b) in zip(one.named_params(), other.named_params(), strict=True):
        assert torch.equal(a, b), key


def test_a_learner_writes_the_adapter_alone(tmp_path: Path) -> None:
    learner, adapter = adapted()
    step(learner, 1000)
    learner.write(tmp_path / "adapter", Tokenizer.train(["a b c"], 280))
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
        lora.CONFIG,
        lora.WEIGHTS,
    ]
    found = lora.load(tmp_path / "adapter", learner.model)
    for a, b in zip(found.parameters(), adapter.parameters(), strict=True):
        assert torch.equal(a, b)


def test_muon_is_refused_for_an_adapter() -> None:
    with pytest.raises(OpenQwQError, match="'muon' for an adapter"):
        adapted(OptimiserConfig("muon"))


def test_recomputed_activations_give_the_same_gradients() -> None:
    results = []
    for recompute in (False, True):
        learner, adapter = adapted()
        learner.model.recompute = recompute
        (batch,) = pack_examples(EXAMPLES, 1000)
        learner.backward(batch, lambda lp, b, n: cross_entropy_loss(lp, n), 7.0)
        results.append([p.grad for p in adapter.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_wide_model_learns_without_padding_what_it_learns_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = []
    for width in (SHAPE.num_attention_heads * SHAPE.head_dim, 10**6):
        monkeypatch.setattr("openqwq.train.learner.WIDE", width)
        learner = fresh(OptimiserConfig("adamw", lr=0.0), torch.float64)
        (batch,) = pack_examples(EXAMPLES, 1000)
        learner.backward(batch, lambda lp, b, n: cross_entropy_loss(lp, n), 7.0)
        results.append([p.grad for p in learner.model.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("max_logits", [50, 200, 10**6])
def test_a_frozen_head_gives_the_log_probs_entropies_and_gradients_of_a_trained_one(
    max_logits: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 16, generator=generator, requires_grad=True)
    weight = torch.randn(50, 16, generator=generator)
    targets = torch.randint(50, (9,), generator=generator)
    coefficients = torch.randn(9, generator=generator)
    expected, entropy = token_log_probs(hidden, weight, targets)
    found, own_entropy = frozen_log_probs(hidden, weight, targets, max_logits=max_logits)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(own_entropy, entropy, rtol=0, atol=1e-5)
    gradients = [
        torch.autograd.grad((coefficients * x).sum(), hidden)[0] for x in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


def test_a_frozen_head_without_targets_gives_nothing() -> None:
    hidden = torch.ones(0, 16, requires_grad=True)
    found, entropy = frozen_log_probs(
        hidden, torch.ones(50, 16), torch.empty(0, dtype=torch.long)
    )
    assert found.shape == entropy.shape == (0,)


@pytest.mark.skipif(not has_bf16(), reason="needs a CPU that multiplies in bf16")
def test_a_frozen_head_in_bf16_gives_what_its_weights_give_in_fp32() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 16, generator=generator).bfloat16().float()
    weight = torch.randn(50, 16, generator=generator).bfloat16()
    targets = torch.randint(50, (9,), generator=generator)
    results = []
    for own_weight, max_logits in ((weight.float(), 10**6), (weight, 10**6), (weight, 200)):
        x = hidden.clone().requires_grad_()
        log_probs, entropy = frozen_log_probs(x, own_weight, targets, max_logits=max_logits)
        log_probs.sum().backward()
        results.append((log_probs.detach(), entropy, x.grad))
    wide, narrow, in_chunks = results
    for expected, found, again in zip(wide, narrow, in_chunks, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.05)
        torch.testing.assert_close(again, found, rtol=0, atol=0.01)


@pytest.mark.skipif(not has_bf16(), reason="needs a CPU that multiplies in bf16")
def test_training_in_bf16_learns_what_fp32_learns() -> None:
    finals = []
    for products in ("fp32", "bf16"):
        learner = fresh(ADAMW)
        prepare(learner.model, products, trained=True)  # type: ignore[arg-type]
        finals.append([step(learner, 1000)["loss"] for _ in range(40)][-1])
        assert all(p.dtype == torch.float32 for p in learner.model.parameters())
    assert finals[1] == pytest.approx(finals[0], rel=0.2)

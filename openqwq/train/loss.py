"""Objectives as pure functions of flat per-token tensors, summed and divided by one global count.

Every tensor is (loss_tokens,): the sampled tokens of one micro-batch, at least one. Because the
divisor is the optimiser step's own token count, no micro-batch split changes the gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from openqwq.model.linear import product
from openqwq.types import OpenQwQError

Bounds = tuple[float, float]
Metrics = dict[str, Tensor]
# x (tokens, inputs), W (outputs, inputs) -> x Wᵀ
Product = Callable[[Tensor, Tensor], Tensor]


def log_ratio(log_probs: Tensor, base_log_probs: Tensor) -> Tensor:
    """log(π/base), limited to ±20 so that a masked or clipped outlier cannot become inf or NaN."""
    return (log_probs - base_log_probs).clamp(-20.0, 20.0)


def sequence_mean(values: Tensor, sequence_index: Tensor) -> Tensor:
    """Each token's value replaced by its sequence's mean; indices are 0, 1, … without gaps."""
    # at most one slot a token: needs no host synchronisation
    means = torch.zeros_like(values)
    means = means.scatter_reduce(0, sequence_index, values, "mean", include_self=False)
    return means[sequence_index]


def cispo_loss(
    log_probs: Tensor, log_ratios: Tensor, advantages: Tensor, cap: float = 5.0
) -> tuple[Tensor, Tensor]:
    """-sg(min(r, cap)) · A · log π, r = exp(log_ratios) = π/μ: no token's gradient becomes zero.

    MiniMax-M1 (arXiv 2506.13585), capped on one side only as in ScaleRL (arXiv 2510.13786).
    Returns the loss and whether the cap cut a positive advantage.
    """
    ratio = log_ratios.detach().exp()
    loss = -ratio.clamp(max=cap) * advantages * log_probs
    return loss, (ratio > cap) & (advantages > 0)


def dapo_loss(
    log_ratios: Tensor, advantages: Tensor, clip: Bounds = (0.2, 0.28)
) -> tuple[Tensor, Tensor]:
    """-min(r·A, clamp(r, 1 - low, 1 + high)·A): PPO's surrogate with the upper clip raised.

    DAPO (arXiv 2503.14476, section 3.1). Returns the loss and whether the gradient was clipped.
    """
    ratio = log_ratios.exp()
    low = 1 - clip[0]
    high = 1 + clip[1]
    loss = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    too_low = (ratio < low) & (advantages < 0)
    too_high = (ratio > high) & (advantages > 0)
    return loss, too_low | too_high


def gspo_loss(
    log_ratios: Tensor,
    advantages: Tensor,
    sequence_index: Tensor,
    clip: Bounds = (3e-4, 4e-4),
) -> tuple[Tensor, Tensor]:
    """`dapo_loss` with s = exp(mean of log r over the token's sequence) in place of r.

    GSPO (arXiv 2507.18071, section 4.1). Summed over tokens, a sequence weighs as much as it is
    long, as under the other objectives; for the paper's mean over sequences give A / length as
    advantages and the number of sequences as normaliser.
    """
    return dapo_loss(sequence_mean(log_ratios, sequence_index), advantages, clip)


def kl_k3(log_ratios: Tensor) -> Tensor:
    """q/p - 1 - log(q/p) from log(q/p): Schulman's k3, estimates KL(p‖q) on tokens drawn from p."""
    return torch.expm1(log_ratios) - log_ratios


def mismatch_mask(
    log_ratios: Tensor,
    sequence_index: Tensor,
    token_bounds: Bounds | None,
    sequence_bounds: Bounds | None,
) -> Tensor:
    """True for the tokens to train on: there learner and sampler agree well enough.

    `token_bounds` limit a token's ratio (IcePop: 0.5 and 5), `sequence_bounds` the geometric mean
    over its sequence (0.99 and 1.01 are usual); None switches a limit off.
    """
    keep = torch.ones_like(log_ratios, dtype=torch.bool)
    if token_bounds is not None:
        keep &= _within(log_ratios.exp(), token_bounds)
    if sequence_bounds is not None:
        keep &= _within(sequence_mean(log_ratios, sequence_index).exp(), sequence_bounds)
    return keep


def _within(values: Tensor, bounds: Bounds) -> Tensor:
    low, high = bounds
    return (values >= low) & (values <= high)


def policy_loss(
    objective: str,
    log_probs: Tensor,
    sampler_log_probs: Tensor,
    advantages: Tensor,
    sequence_index: Tensor,
    normaliser: float | Tensor,
    *,
    cispo_cap: float = 5.0,
    dapo_clip: Bounds = (0.2, 0.28),
    gspo_clip: Bounds = (3e-4, 4e-4),
    token_bounds: Bounds | None = None,
    sequence_bounds: Bounds | None = None,
    reference_log_probs: Tensor | None = None,
    kl_coefficient: float = 0.0,
) -> tuple[Tensor, Metrics]:
    """One micro-batch's share of the step's loss (scalar), and sums for `mean_metrics`.

    `objective` is "cispo", "dapo" or "gspo"; `normaliser` is the token count of the whole optimiser
    step, masked tokens included. Only `log_probs` carries a gradient. The KL term is not masked.
    Raises OpenQwQError for an unknown objective or a KL coefficient without a reference.
    """
    log_ratios = log_ratio(log_probs, sampler_log_probs)
    if objective == "cispo":
        loss, clipped = cispo_loss(log_probs, log_ratios, advantages, cispo_cap)
    elif objective == "dapo":
        loss, clipped = dapo_loss(log_ratios, advantages, dapo_clip)
    elif objective == "gspo":
        loss, clipped = gspo_loss(log_ratios, advantages, sequence_index, gspo_clip)
    else:
        raise OpenQwQError(f"objective is {objective!r}: choose cispo, dapo or gspo")

    log_ratios = log_ratios.detach()
    keep = mismatch_mask(log_ratios, sequence_index, token_bounds, sequence_bounds)
    loss = loss.where(keep, 0.0)

    metrics = {
        "tokens": torch.tensor(log_ratios.numel()),
        "log_prob_gap": log_ratios.abs().sum(),
        "mismatch_kl": kl_k3(log_ratios).sum(),
        "max_ratio": log_ratios.exp().max(),
        "clip_fraction": clipped.sum(),
        "masked_fraction": (~keep).sum(),
    }

    if reference_log_probs is not None:
        reference_kl = kl_k3(log_ratio(reference_log_probs, log_probs))
        loss = loss + kl_coefficient * reference_kl
        metrics["reference_kl"] = reference_kl.detach().sum()
    elif kl_coefficient:
        raise OpenQwQError(
            f"kl_coefficient is {kl_coefficient!r}: give reference_log_probs too"
        )
    return loss.sum() / normaliser, metrics


def cross_entropy_loss(
    log_probs: Tensor, normaliser: float | Tensor
) -> tuple[Tensor, Metrics]:
    """-Σ log π / normaliser for SFT, and sums for `mean_metrics`."""
    loss = -log_probs.sum()
    tokens = torch.tensor(log_probs.numel())
    return loss / normaliser, {"tokens": tokens, "cross_entropy": loss.detach()}


def mean_metrics(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Token means of the micro-batches' sums; "tokens" stays a total and "max_ratio" a maximum."""
    sums = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    tokens = float(sums.pop("tokens").sum())
    metrics = {"tokens": tokens}
    for name, values in sums.items():
        if name == "max_ratio":
            metrics[name] = float(values.max())
        else:
            metrics[name] = float(values.sum() / tokens)
    return metrics


def _chunk_log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, product: Product
) -> tuple[Tensor, Tensor]:
    distribution = product(hidden, weight).log_softmax(-1)
    # only a metric: its graph would hold another (tokens, vocab) tensor
    with torch.no_grad():
        entropy = -(distribution.exp() * distribution).sum(-1)
    return distribution.gather(1, targets[:, None])[:, 0], entropy


def token_log_probs(
    hidden: Tensor,
    lm_head_weight: Tensor,
    targets: Tensor,
    *,
    max_logits: int = 2**27,
    product: Product = F.linear,
) -> tuple[Tensor, Tensor]:
    """Log-probs of `targets` and the detached entropies in nats, both (tokens,), in fp32 or wider.

    hidden (tokens, hidden), lm_head_weight (vocab, hidden), targets (tokens,). A batch of more than
    `max_logits` logits (2^27: 512 MiB) goes in chunks that the backward pass computes again.
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    hidden = hidden.to(dtype)
    weight = lm_head_weight.to(dtype)
    rows = max(1, max_logits // weight.shape[0])
    if len(targets) <= rows:
        return _chunk_log_probs(hidden, weight, targets, product)

    log_probs: list[Tensor] = []
    entropies: list[Tensor] = []
    for part, ids in zip(
        torch.split(hidden, rows), torch.split(targets, rows), strict=True
    ):
        found = checkpoint(
            _chunk_log_probs, part, weight, ids, product, use_reentrant=False
        )
        log_probs.append(found[0])
        entropies.append(found[1])
    return torch.cat(log_probs), torch.cat(entropies)


def frozen_log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, max_logits: int = 2**25
) -> tuple[Tensor, Tensor]:
    """`token_log_probs` of a head that is not trained, in the precision of its `weight`.

    The gradient of a log-prob is known as soon as the log-prob is: W[target] - Σ p W. So each chunk
    of at most `max_logits` logits (2^25: 128 MiB) leaves its gradient, (tokens, hidden), and its
    logits are never computed again.
    """
    log_probs, entropy = _FrozenHead.apply(hidden, weight, targets, max_logits)  # type: ignore[no-untyped-call]
    return log_probs, entropy


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, max_logits: int
    ) -> tuple[Tensor, Tensor]:
        vocab = len(weight)
        rows = max(1, min(max_logits // vocab, len(targets)))
        log_probs = torch.empty(len(targets), device=hidden.device)
        entropy = torch.empty_like(log_probs)
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = torch.empty_like(hidden)

        # The largest tensors of a step: every chunk uses the same ones, since new memory costs more
        # than what is done with it.
        is_wide = weight.dtype == torch.float32
        narrow_of_all = hidden.new_empty(rows, vocab, dtype=weight.dtype)
        logits_of_all = hidden.new_empty(rows, vocab, dtype=torch.float32)
        masses_of_all = torch.empty_like(logits_of_all)

        for first in range(0, len(targets), rows):
            part = slice(first, first + rows)
            wanted = targets[part]
            narrow = narrow_of_all[: len(wanted)]
            logits = logits_of_all[: len(wanted)]
            masses = masses_of_all[: len(wanted)]

            x = hidden[part].to(weight.dtype)
            if is_wide:
                logits.copy_(product(x, weight))
            else:
                logits.copy_(torch.mm(x, weight.t(), out=narrow))
            logits.sub_(logits.amax(1, keepdim=True))
            torch.exp(logits, out=masses)
            total = masses.sum(1, keepdim=True)

            log_probs[part] = (logits.gather(1, wanted[:, None]) - total.log()).squeeze(1)
            mean_logit = logits.mul_(masses).sum(1) / total.squeeze(1)
            entropy[part] = total.log().squeeze(1) - mean_logit
            if gradient is not None:
                multiplied = masses if is_wide else narrow.copy_(masses)
                mean_row = product(multiplied, weight.t()) / total
                gradient[part] = weight[wanted].to(gradient.dtype) - mean_row

        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(entropy)
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradients[0][:, None] * gradient, None, None, None

"""Drawing tokens: filters, seeded inverse-transform sampling, exact log-probs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from openqwq.types import SamplingParams


def uniforms(seeds: Sequence[int], positions: Sequence[int]) -> Tensor:
    """One number in [0, 1) per row, (rows,) fp64, that depends on its (seed, position) alone.

    SplitMix64 (Steele et al. 2014) as a counter-based generator: a request's draws are the same
    whatever shares its batch, and nothing has to be saved to resume.
    """
    with np.errstate(over="ignore"):
        z = np.array([seed % 2**64 for seed in seeds], dtype=np.uint64)
        # The seed is hashed before a position meets it: else (1, 0) and (0, 1) would be the same.
        for word in (np.uint64(0), np.array(positions, dtype=np.uint64)):
            z = (z ^ word) + np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) / 2**53)


def log_distribution(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Log-probs (rows, vocab) of what is sampled from `logits` (rows, vocab) fp32.

    Temperature, then top-k, top-p and min-p, then renormalised: transformers' order.
    Greedy rows keep temperature 1, so that their reported log-probs say something.
    """
    temperatures = [p.temperature or 1.0 for p in params]
    if any(t != 1.0 for t in temperatures):
        logits = logits / torch.tensor(temperatures, device=logits.device)[:, None]
    log_probs = logits.log_softmax(-1)
    if not any(p.temperature and (p.top_k or p.top_p < 1 or p.min_p) for p in params):
        return log_probs
    return log_probs.masked_fill(_filtered_out(log_probs, params), float("-inf")).log_softmax(-1)


def _filtered_out(log_probs: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """True (rows, vocab) where a row's filters forbid the token."""
    vocab = log_probs.shape[1]
    greedy = [p.temperature == 0 for p in params]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=log_probs.device)[:, None]  # (rows, 1)

    top_k = column(
        [vocab if g or not p.top_k else p.top_k for p, g in zip(params, greedy, strict=True)]
    )
    top_p = column(
        [2.0 if g or p.top_p == 1 else p.top_p for p, g in zip(params, greedy, strict=True)]
    )
    min_p = column([0.0 if g else p.min_p for p, g in zip(params, greedy, strict=True)])
    ranked, order = log_probs.sort(descending=True, stable=True)
    beyond_k = torch.arange(vocab, device=log_probs.device) >= top_k
    kept = ranked.masked_fill(beyond_k, float("-inf")).softmax(-1)
    mass_before = kept.cumsum(-1) - kept
    out = beyond_k | (mass_before >= top_p) | (kept < min_p * kept[:, :1])
    return torch.empty_like(out).scatter_(1, order, out)


def mask_logits(logits: Tensor, masks: Sequence[bytes | None]) -> Tensor:
    """`logits` (rows, vocab) with -inf where a row's mask, one byte per id, is 0 or has ended."""
    rows = [i for i, mask in enumerate(masks) if mask is not None]
    if not rows:
        return logits
    allowed = torch.zeros(len(rows), logits.shape[1], dtype=torch.bool)
    for i, mask in enumerate(mask for mask in masks if mask is not None):
        allowed[i, : len(mask)] = torch.frombuffer(bytearray(mask), dtype=torch.uint8) != 0
    masked = logits.clone()
    masked[rows] = logits[rows].masked_fill(~allowed.to(logits.device), float("-inf"))
    return masked


def alternatives(
    logits: Tensor, params: Sequence[SamplingParams]
) -> list[tuple[tuple[int, float], ...]]:
    """Each row's likeliest (token id, log-prob), best first, as many as its params ask for."""
    best: list[tuple[tuple[int, float], ...]] = [()] * len(params)
    rows = [i for i, p in enumerate(params) if p.top_log_probs]
    if rows:
        asked = [params[i] for i in rows]
        most = min(max(p.top_log_probs for p in asked), logits.shape[1])
        values, ids = log_distribution(logits[rows], asked).topk(most)
        for i, p, row_ids, row in zip(rows, asked, ids.tolist(), values.tolist(), strict=True):
            pairs = zip(row_ids[: p.top_log_probs], row, strict=False)
            best[i] = tuple(pair for pair in pairs if pair[1] > float("-inf"))
    return best


def sample(
    logits: Tensor, params: Sequence[SamplingParams], seeds: Sequence[int], steps: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Draw one token a row: (token_ids (rows,), their log-probs (rows,)).

    `steps` is each row's count of tokens drawn so far: with the seed it fixes the draw.
    """
    log_probs = log_distribution(logits, params)
    cumulative = log_probs.double().exp().cumsum(-1)
    draws = uniforms(seeds, steps).to(logits.device)[:, None] * cumulative[:, -1:]
    token_ids = torch.searchsorted(cumulative, draws, right=True).squeeze(1)
    greedy = [p.temperature == 0 for p in params]
    if any(greedy):
        token_ids = torch.where(
            torch.tensor(greedy, device=logits.device), logits.argmax(-1), token_ids
        )
    return token_ids, log_probs.gather(1, token_ids[:, None]).squeeze(1)

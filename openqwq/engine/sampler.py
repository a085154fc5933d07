"""Drawing tokens: filters, seeded inverse-transform sampling, exact log-probs."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
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
    logits = _tempered(logits, params)
    log_probs = logits.log_softmax(-1)
    for width in {_width(p) for p in params} - {None}:
        rows = [i for i, p in enumerate(params) if _width(p) == width]
        ranked, ids = _ranked(logits[rows], [params[i] for i in rows])
        minus = torch.full_like(log_probs[rows], float("-inf"))
        log_probs[rows] = minus.scatter_(1, ids, ranked)
    return log_probs


def _width(params: SamplingParams) -> int | None:
    """How many of the likeliest tokens the filters look at (0: all); None without filters.

    Rows of one width are treated together, so that none depends on what another asks for.
    """
    filters = params.temperature and (params.top_k or params.top_p < 1 or params.min_p)
    return params.top_k if filters else None


def _tempered(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    temperatures = [p.temperature or 1.0 for p in params]
    if all(t == 1.0 for t in temperatures):
        return logits
    return logits / torch.tensor(temperatures, device=logits.device)[:, None]


def _ranked(logits: Tensor, params: Sequence[SamplingParams]) -> tuple[Tensor, Tensor]:
    """Log-probs and ids (rows, k) of the likeliest tokens, best first; -inf where filtered out."""
    vocab = logits.shape[1]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=logits.device)[:, None]  # (rows, 1)

    top_k = column([p.top_k or vocab for p in params])
    top_p = column([2.0 if p.top_p == 1 else p.top_p for p in params])
    min_p = column([p.min_p for p in params])
    ranked, ids = _likeliest(logits, min(int(top_k.max()), vocab))
    beyond_k = torch.arange(ranked.shape[1], device=logits.device) >= top_k
    kept = ranked.masked_fill(beyond_k, float("-inf")).softmax(-1)
    mass_before = kept.cumsum(-1) - kept
    out = beyond_k | (mass_before >= top_p) | (kept < min_p * kept[:, :1])
    return ranked.masked_fill(out, float("-inf")).log_softmax(-1), ids


def _likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values and ids (rows, count), best first; among equals the lowest ids."""
    if count < logits.shape[1]:
        values, ids = logits.topk(count + 1)
        if bool((values[:, count - 1] > values[:, count]).all()):  # no tie at the last place
            ids = ids[:, :count].sort(dim=1).values
            values, order = logits.gather(1, ids).sort(dim=1, descending=True, stable=True)
            return values, ids.gather(1, order)
    values, ids = logits.sort(descending=True, stable=True)
    return values[:, :count], ids[:, :count]


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


def penalised(
    logits: Tensor,
    params: Sequence[SamplingParams],
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
) -> Tensor:
    """`logits` (rows, vocab) after each row's penalties and bias; see `SamplingParams`.

    `prompts` and `replies` are the token ids before a row's next token. The repetition penalty
    comes first, as in transformers and vLLM.
    """
    rows = [row for row, own in enumerate(params) if own.penalises]
    if not rows:
        return logits
    changed = logits.clone()
    for row in rows:
        own = params[row]
        values = changed[row]  # a view
        if own.repetition_penalty != 1:
            ids = torch.tensor(list({*prompts[row], *replies[row]}), device=logits.device)
            seen = values[ids]
            lowered = torch.where(
                seen > 0, seen / own.repetition_penalty, seen * own.repetition_penalty
            )
            values[ids] = lowered
        if (own.presence_penalty or own.frequency_penalty) and replies[row]:
            counted = Counter(replies[row])
            ids = torch.tensor(list(counted), device=logits.device)
            counts = torch.tensor(list(counted.values()), device=logits.device)
            values[ids] -= own.presence_penalty + own.frequency_penalty * counts
        for token_id, bias in own.logit_bias:
            values[token_id] += bias
    return changed


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
    logits: Tensor,
    params: Sequence[SamplingParams],
    seeds: Sequence[int],
    steps: Sequence[int],
    plainly: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw one token a row: (token_ids (rows,), their log-probs (rows,)).

    `steps` is each row's count of tokens drawn so far: with the seed it fixes the draw. `plainly`
    is a faster `draw_plainly` of these very logits, by draws (rows,) fp64 on the CPU.
    """
    draws = uniforms(seeds, steps)
    if plainly and all(p.temperature == 1 and _width(p) is None for p in params):
        return plainly(draws)
    draws = draws.to(logits.device)
    logits = _tempered(logits, params)
    widths = [_width(p) for p in params]
    if len(set(widths)) == 1:
        return _draw(logits, draws, params)
    token_ids = torch.empty(len(params), dtype=torch.long, device=logits.device)
    log_probs = torch.empty(len(params), device=logits.device)
    for width in set(widths):
        rows = [i for i, own in enumerate(widths) if own == width]
        token_ids[rows], log_probs[rows] = _draw(
            logits[rows], draws[rows], [params[i] for i in rows]
        )
    return token_ids, log_probs


def _draw(logits: Tensor, draws: Tensor, params: Sequence[SamplingParams]) -> tuple[Tensor, Tensor]:
    """`sample` for rows of one width."""
    if _width(params[0]) is None:
        return draw_plainly(logits, draws, [p.temperature == 0 for p in params])
    return _draw_ranked(logits, draws, params)


def _draw_ranked(
    logits: Tensor, draws: Tensor, params: Sequence[SamplingParams]
) -> tuple[Tensor, Tensor]:
    """By rank: the filters leave few tokens, so that few have to be looked at."""
    log_probs, ids = _ranked(logits, params)
    rank, _ = _invert(log_probs.exp(), draws)
    return ids.gather(1, rank).squeeze(1), log_probs.gather(1, rank).squeeze(1)


def draw_plainly(
    logits: Tensor, draws: Tensor, greedy: Sequence[bool] = (), exact: bool = True
) -> tuple[Tensor, Tensor]:
    """A token a row and its log-prob, without temperature and filters.

    By id: first the block of 64 tokens, then the token in it, so that running sums are short.
    `exact` log-probs are log_softmax's to the last bit; else they are read from the probabilities,
    right to a few units in the last place, which spares a second softmax.
    """
    probs = logits.softmax(-1)
    short = -probs.shape[1] % 64
    blocks = (F.pad(probs, (0, short)) if short else probs).view(len(probs), -1, 64)
    block, rest = _invert(blocks.sum(-1), draws)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, 64)).squeeze(1)
    token_ids = 64 * block + _invert(inside, rest)[0]
    if any(greedy):
        best = logits.argmax(-1, keepdim=True)
        chosen = torch.tensor(greedy, device=logits.device)[:, None]
        token_ids = torch.where(chosen, best, token_ids)
    if exact:
        log_probs = logits.log_softmax(-1).gather(1, token_ids)
    else:
        log_probs = probs.gather(1, token_ids).clamp_min(torch.finfo(probs.dtype).tiny).log()
    return token_ids.squeeze(1), log_probs.squeeze(1)


def _invert(weights: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row's running sum passes its draw from [0, 1) of the whole, in fp64.

    The index (rows, 1), and how far into its weight the draw reaches, from [0, 1) again (rows,).
    """
    total = weights.double().cumsum(-1)
    wanted = draws[:, None] * total[:, -1:]
    index = torch.searchsorted(total, wanted, right=True).clamp(max=weights.shape[1] - 1)
    width = weights.gather(1, index).double()
    rest = ((wanted - total.gather(1, index)) / width + 1).clamp(0, 1 - 2**-53)
    return index, rest.squeeze(1)

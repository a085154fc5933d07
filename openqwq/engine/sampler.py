"""Drawing tokens: filters, seeded inverse-transform sampling, exact log-probs."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.types import SamplingParams

BLOCK = 64  # tokens whose probabilities are summed first
NUCLEUS = 128  # of the likeliest tokens: top-p and min-p mostly leave fewer
SPARE = 64  # tokens looked at below the last that counts, for its equals


def uniforms(seeds: Sequence[int], positions: Sequence[int]) -> Tensor:
    """One number in [0, 1) per row, (rows,) fp64, that depends on its (seed, position) alone.

    SplitMix64 (Steele et al. 2014) as a counter-based generator: a request's draws are the same
    whatever shares its batch, and nothing has to be saved to resume.
    """
    # The seed is hashed before a position meets it: else (1, 0) and (0, 1) would be the same.
    hashed_seeds = _splitmix([seed % 2**64 for seed in seeds])
    words = _splitmix(hashed_seeds ^ np.array(positions, dtype=np.uint64))
    top_bits = words >> np.uint64(11)
    return torch.from_numpy(top_bits.astype(np.float64) / 2**53)


def _splitmix(words: Sequence[int] | np.ndarray) -> np.ndarray:
    """SplitMix64 of each 64-bit word."""
    with np.errstate(over="ignore"):
        z = np.asarray(words, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def log_distribution(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Log-probs (rows, vocab) of what is sampled from `logits` (rows, vocab) fp32.

    Temperature, then top-k, top-p and min-p, then renormalised: transformers' order.
    Greedy rows keep temperature 1, so that their reported log-probs say something.
    """
    logits = _tempered(logits, params)
    log_probs = logits.log_softmax(-1)
    for width, rows in _rows_by_width(params).items():
        if width is None:
            continue
        own = [params[row] for row in rows]
        filtered = torch.full_like(logits[rows], float("-inf"))
        for part in _ranked(logits[rows], own):
            filtered[part.rows[:, None], part.ids] = part.log_probs
        log_probs[rows] = filtered
    return log_probs


def _width(params: SamplingParams) -> int | None:
    """How many of the likeliest tokens the filters look at (0: all); None without filters."""
    has_filters = params.top_k or params.top_p < 1 or params.min_p
    if params.temperature == 0 or not has_filters:
        return None
    return params.top_k


def _rows_by_width(params: Sequence[SamplingParams]) -> dict[int | None, list[int]]:
    """Rows of one width are treated together, so that none depends on what another asks for."""
    found: dict[int | None, list[int]] = {}
    for row, own in enumerate(params):
        found.setdefault(_width(own), []).append(row)
    return found


def _tempered(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    temperatures = [own.temperature or 1.0 for own in params]
    if set(temperatures) == {1.0}:
        return logits
    return logits / torch.tensor(temperatures, device=logits.device)[:, None]


@dataclass(frozen=True)
class Ranked:
    """The likeliest tokens of some rows, best first."""

    rows: Tensor  # (rows,) their numbers
    log_probs: Tensor  # (rows, tokens) -inf where filtered out
    ids: Tensor  # (rows, tokens)


def _ranked(logits: Tensor, params: Sequence[SamplingParams]) -> list[Ranked]:
    """What the filters leave of rows of one width.

    Without top-k it is looked for among `NUCLEUS` tokens. Filters drop all that comes behind a
    token that they drop; so only a row whose last of these stays is ranked as a whole.
    """
    vocab = logits.shape[1]
    every_row = torch.arange(len(logits), device=logits.device)
    count = min(params[0].top_k or NUCLEUS, vocab)
    found = _filtered(logits, params, every_row, count)
    if params[0].top_k or count == vocab:
        return [found]
    ends = found.log_probs[:, -1].isneginf()
    if bool(ends.all()):
        return [found]
    rest = every_row[~ends]
    own = [params[row] for row in rest.tolist()]
    narrow = Ranked(every_row[ends], found.log_probs[ends], found.ids[ends])
    return [narrow, _filtered(logits[rest], own, rest, vocab)]


def _filtered(
    logits: Tensor, params: Sequence[SamplingParams], rows: Tensor, count: int
) -> Ranked:
    """The filters on the `count` likeliest tokens; with top-k these are all that there is."""
    top_ps: list[float] = []
    min_ps: list[float] = []
    for own in params:
        top_ps.append(own.top_p if own.top_p < 1 else 2.0)  # a rounded sum never reaches 2
        min_ps.append(own.min_p)
    top_p = torch.tensor(top_ps, device=logits.device)[:, None]  # (rows, 1)
    min_p = torch.tensor(min_ps, device=logits.device)[:, None]

    ranked, ids = _likeliest(logits, count)
    considered = ranked if params[0].top_k else logits
    probs = (ranked - considered.logsumexp(-1, keepdim=True)).exp()
    mass_before = probs.cumsum(-1) - probs
    beyond_p = mass_before >= top_p
    unlikely = probs < min_p * probs[:, :1]
    left = ranked.masked_fill(beyond_p | unlikely, float("-inf"))
    return Ranked(rows, left.log_softmax(-1), ids)


def _likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values and ids (rows, count), best first; among equals the lowest ids.

    Of equal values `topk` keeps any, and logits in bf16 are often equal. So it is asked for some
    more, and a row is sorted as a whole only where those do not hold all of its equals.
    """
    vocab = logits.shape[1]
    if count + SPARE >= vocab:
        values, ids = logits.sort(descending=True, stable=True)
        return values[:, :count], ids[:, :count]

    candidates, by_id = logits.topk(count + SPARE)
    by_id = by_id.sort(dim=1).values
    values, order = logits.gather(1, by_id).sort(dim=1, descending=True, stable=True)
    ids = by_id.gather(1, order)[:, :count]
    values = values[:, :count]
    last = candidates[:, count - 1]
    cut_among_equals = (last == candidates[:, -1]) & last.isfinite()
    for row in torch.nonzero(cut_among_equals).flatten():
        sorted_values, sorted_ids = logits[row].sort(descending=True, stable=True)
        values[row] = sorted_values[:count]
        ids[row] = sorted_ids[:count]
    return values, ids


def mask_logits(logits: Tensor, masks: Sequence[bytes | None]) -> Tensor:
    """`logits` (rows, vocab) with -inf where a row's mask, one byte per id, is 0 or has ended."""
    masked = logits
    for row, mask in enumerate(masks):
        if mask is None:
            continue
        if masked is logits:
            masked = logits.clone()
        forbidden = torch.ones(logits.shape[1], dtype=torch.bool)
        forbidden[: len(mask)] = torch.frombuffer(bytearray(mask), dtype=torch.uint8) == 0
        masked[row].masked_fill_(forbidden.to(logits.device), float("-inf"))
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
            used = set(prompts[row]) | set(replies[row])
            ids = torch.tensor(list(used), device=logits.device)
            seen = values[ids]
            divided = seen / own.repetition_penalty
            multiplied = seen * own.repetition_penalty
            values[ids] = torch.where(seen > 0, divided, multiplied)
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
    rows = [row for row, own in enumerate(params) if own.top_log_probs]
    if not rows:
        return best

    asked = [params[row] for row in rows]
    most = max(own.top_log_probs for own in asked)
    most = min(most, logits.shape[1])
    top = log_distribution(logits[rows], asked).topk(most)
    values = top.values.tolist()
    ids = top.indices.tolist()
    for place, row in enumerate(rows):
        pairs: list[tuple[int, float]] = []
        for token_id, value in zip(ids[place], values[place], strict=True):
            if value > float("-inf") and len(pairs) < params[row].top_log_probs:
                pairs.append((token_id, value))
        best[row] = tuple(pairs)
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
    rows_by_width = _rows_by_width(params)
    unfiltered = list(rows_by_width) == [None]
    if plainly and unfiltered and all(own.temperature == 1 for own in params):
        return plainly(draws)

    draws = draws.to(logits.device)
    logits = _tempered(logits, params)
    if len(rows_by_width) == 1:
        return _draw(logits, draws, params)
    token_ids = torch.empty(len(params), dtype=torch.long, device=logits.device)
    log_probs = torch.empty(len(params), device=logits.device)
    for rows in rows_by_width.values():
        own_params = [params[row] for row in rows]
        drawn, drawn_log_probs = _draw(logits[rows], draws[rows], own_params)
        token_ids[rows] = drawn
        log_probs[rows] = drawn_log_probs
    return token_ids, log_probs


def _draw(
    logits: Tensor, draws: Tensor, params: Sequence[SamplingParams]
) -> tuple[Tensor, Tensor]:
    """`sample` for rows of one width."""
    if _width(params[0]) is None:
        greedy = [own.temperature == 0 for own in params]
        return draw_plainly(logits, draws, greedy)
    return _draw_ranked(logits, draws, params)


def _draw_ranked(
    logits: Tensor, draws: Tensor, params: Sequence[SamplingParams]
) -> tuple[Tensor, Tensor]:
    """By rank: the filters leave few tokens, so that few have to be looked at."""
    token_ids = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    log_probs = torch.empty(len(logits), device=logits.device)
    for part in _ranked(logits, params):
        rank, _ = _invert(part.log_probs.exp(), draws[part.rows])
        token_ids[part.rows] = part.ids.gather(1, rank).squeeze(1)
        log_probs[part.rows] = part.log_probs.gather(1, rank).squeeze(1)
    return token_ids, log_probs


def draw_plainly(
    logits: Tensor, draws: Tensor, greedy: Sequence[bool] = (), exact: bool = True
) -> tuple[Tensor, Tensor]:
    """A token a row and its log-prob, without temperature and filters.

    By id: first the block of `BLOCK` tokens, then the token in it, so that running sums are short.
    `exact` log-probs are log_softmax's to the last bit; else they are read from the probabilities,
    right to a few units in the last place, which spares a second softmax.
    """
    probs = logits.softmax(-1)
    padded = probs
    missing = -probs.shape[1] % BLOCK
    if missing:
        padded = F.pad(probs, (0, missing))
    blocks = padded.view(len(probs), -1, BLOCK)
    block, rest = _invert(blocks.sum(-1), draws)
    whole_block = block[:, :, None].expand(-1, -1, BLOCK)
    inside = blocks.gather(1, whole_block).squeeze(1)
    place, _ = _invert(inside, rest)
    token_ids = BLOCK * block + place

    if any(greedy):
        best = logits.argmax(-1, keepdim=True)
        is_greedy = torch.tensor(greedy, device=logits.device)[:, None]
        token_ids = torch.where(is_greedy, best, token_ids)
    if exact:
        log_probs = logits.log_softmax(-1).gather(1, token_ids)
    else:
        chosen = probs.gather(1, token_ids)
        log_probs = chosen.clamp_min(torch.finfo(probs.dtype).tiny).log()
    return token_ids.squeeze(1), log_probs.squeeze(1)


def _invert(weights: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row's running sum passes its draw from [0, 1) of the whole, in fp64.

    The index (rows, 1), and how far into its weight the draw reaches, from [0, 1) again (rows,).
    """
    sums = weights.double().cumsum(-1)
    wanted = draws[:, None] * sums[:, -1:]
    index = torch.searchsorted(sums, wanted, right=True)
    index = index.clamp(max=weights.shape[1] - 1)

    own_weight = weights.gather(1, index).double()
    own_end = sums.gather(1, index)
    rest = (wanted - own_end) / own_weight + 1
    return index, rest.clamp(0, 1 - 2**-53).squeeze(1)

"""Scores with their uncertainty: pass@k, majority votes, clustered intervals, paired tests."""

import math
import operator
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean, stdev

EXACT = 16  # differing items up to which every assignment of signs is tried
DRAWS = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Run B minus run A on the same items; `p_value` is two-sided."""

    items: int
    difference: Interval
    p_value: float
    better: int  # items on which B scores higher
    worse: int


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of per-item scores with a 95% interval; items are the clusters.

    The standard error is that of the item means (Miller, arXiv 2411.00640). Its effective sample
    size goes into Wilson's interval, which unlike mean ± 1.96 errors stays honest at 0 and 1.
    Rewards beyond [0, 1] are no shares: theirs is mean ± 1.96 errors, NaN of fewer than two.
    """
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    mean = fmean(values)
    if min(values) < 0 or max(values) > 1:
        half = half_width(values)
        return Interval(mean, mean - half, mean + half)
    count = float(len(values))
    if len(values) > 1:
        variance = stdev(values) ** 2
        if variance > 0:
            count = mean * (1 - mean) * len(values) / variance

    z = 1.96
    shrink = 1 + z * z / count
    centre = (mean + z * z / (2 * count)) / shrink
    spread = math.sqrt(mean * (1 - mean) / count + (z / (2 * count)) ** 2)
    half = z / shrink * spread
    return Interval(mean, max(0.0, centre - half), min(1.0, centre + half))


def half_width(values: Sequence[float]) -> float:
    """Half a 95% interval of the mean of independent values; NaN of fewer than two."""
    if len(values) < 2:
        return math.nan
    return 1.96 * (stdev(values) / math.sqrt(len(values)))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that one of `k` of the samples is right, unbiased (Chen et al., 2107.03374)."""
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k}: it must be from 1 to the {samples} samples")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def consensus(answers: Sequence[str | None], values: Sequence[float]) -> float:
    """The value of the commonest answer (cons@k); ties go to the earliest, and no answer is 0.

    Replies without an answer do not vote. Equal texts are one answer, valued as its first sample.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    winner = max(votes, key=votes.__getitem__)  # a Counter keeps the order of first sight
    return values[answers.index(winner)]


def compare(a: Mapping[str, float], b: Mapping[str, float]) -> Comparison:
    """A paired permutation test and bootstrap interval over item scores of two runs.

    Under the null hypothesis an item's difference is as likely to have the other sign: every
    assignment of signs is tried where at most 16 items differ, 10,000 seeded ones otherwise.
    """
    differences = [b[name] - a[name] for name in sorted(a)]
    moved = [difference for difference in differences if difference]
    rng = random.Random(0)
    p_value = _p_value(moved, abs(sum(differences)), rng)
    means: list[float] = []
    for _ in range(DRAWS // 5):
        means.append(fmean(rng.choices(differences, k=len(differences))))
    means.sort()
    tail = len(means) // 40
    interval = Interval(fmean(differences), means[tail], means[-tail - 1])
    better = sum(difference > 0 for difference in moved)
    return Comparison(len(differences), interval, p_value, better, len(moved) - better)


def _p_value(moved: Sequence[float], observed: float, rng: random.Random) -> float:
    """How often signs drawn at random give at least the observed sum of differences."""
    exact = len(moved) <= EXACT
    if exact:
        choices: Iterable[Sequence[int]] = product((1, -1), repeat=len(moved))
    else:
        choices = ([rng.choice((1, -1)) for _ in moved] for _ in range(DRAWS))
    tried = 0
    extreme = 0
    for signs in choices:
        total = math.fsum(map(operator.mul, signs, moved))
        tried += 1
        extreme += abs(total) >= observed - 1e-9
    if exact:
        return extreme / tried
    return (1 + extreme) / (1 + tried)  # what was observed is one of the draws

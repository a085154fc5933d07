"""How a reward model does on preference pairs that it was not trained on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import correlation, mean
from typing import Any

import torch

from openqwq.text.tokenizer import Tokenizer
from openqwq.train.reward_model import RewardModel
from openqwq.types import Message, Pair

BINS = 10  # of the calibration error
LARGEST_MARGIN = 50.0  # beyond it the sigmoid is 0 or 1 to the last bit


@dataclass(frozen=True)
class PreferenceReport:
    """How a reward model does on pairs it was not trained on; NaN where there is nothing to count.

    `calibration_error` (ECE, ten bins) and `brier` are of sigmoid(margin). `length_correlation` is
    Pearson's, of reward and answer length in tokens; the last two accuracies are over the pairs
    whose chosen answer is the shorter and the longer one: a model that likes length is bad at the
    first. `bins` are (mean confidence, accuracy, pairs) of the calibration's bins that hold any.
    """

    pairs: int
    accuracy: float
    calibration_error: float
    brier: float
    length_correlation: float
    accuracy_where_shorter_is_chosen: float
    accuracy_where_longer_is_chosen: float
    bins: tuple[tuple[float, float, int], ...]


@dataclass
class Bin:
    """Pairs whose preference the model is about equally sure of."""

    confidences: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)


def judge_pairs(
    model: RewardModel, pairs: Sequence[Pair], batch_size: int = 64
) -> PreferenceReport:
    """Rate both sides of every pair and summarise."""
    rewards: list[tuple[float, float]] = []
    lengths: list[tuple[int, int]] = []
    for first in range(0, len(pairs), batch_size):
        chats: list[list[int]] = []
        for pair in pairs[first : first + batch_size]:
            chats += [model.encode(pair.chosen), model.encode(pair.rejected)]
            chosen = _length(model.tokenizer, pair.chosen)
            rejected = _length(model.tokenizer, pair.rejected)
            lengths.append((chosen, rejected))
        with torch.no_grad():
            values = model(chats).tolist()
        rewards += zip(values[::2], values[1::2], strict=True)
    return preference_report(rewards, lengths)


def preference_report(
    rewards: Sequence[tuple[float, float]], lengths: Sequence[tuple[int, int]]
) -> PreferenceReport:
    """The summary of (chosen, rejected) rewards and answer lengths in tokens."""
    bins: dict[int, Bin] = {}
    right: list[float] = []
    shorter: list[float] = []
    longer: list[float] = []
    brier: list[float] = []
    for (chosen, rejected), (length, other) in zip(rewards, lengths, strict=True):
        correct = float(chosen > rejected)
        right.append(correct)
        if length < other:
            shorter.append(correct)
        if length > other:
            longer.append(correct)

        probability = _sigmoid(chosen - rejected)
        brier.append((1 - probability) ** 2)
        confidence = max(probability, 1 - probability)
        number = min(BINS - 1, int(2 * BINS * (confidence - 0.5)))
        place = bins.setdefault(number, Bin())
        place.confidences.append(confidence)
        place.right.append(correct)

    summary: list[tuple[float, float, int]] = []
    error = 0.0
    for _, members in sorted(bins.items()):
        confidence = mean(members.confidences)
        accuracy = mean(members.right)
        summary.append((confidence, accuracy, len(members.right)))
        error += abs(confidence - accuracy) * len(members.right)
    return PreferenceReport(
        pairs=len(rewards),
        accuracy=_mean(right),
        calibration_error=error / len(rewards) if rewards else math.nan,
        brier=_mean(brier),
        length_correlation=_correlation(rewards, lengths),
        accuracy_where_shorter_is_chosen=_mean(shorter),
        accuracy_where_longer_is_chosen=_mean(longer),
        bins=tuple(summary),
    )


def report_json(report: PreferenceReport) -> Mapping[str, Any]:
    """The report as plain data; NaN becomes null, which JSON has."""
    plain = asdict(report)
    for key, value in plain.items():
        if isinstance(value, float) and math.isnan(value):
            plain[key] = None
    return plain


def _correlation(
    rewards: Sequence[tuple[float, float]], lengths: Sequence[tuple[int, int]]
) -> float:
    """Pearson's, of reward and length over both sides; NaN where one of them never varies."""
    values: list[float] = []
    sizes: list[float] = []
    for pair in rewards:
        values += pair
    for both in lengths:
        sizes += both
    if len(set(values)) < 2 or len(set(sizes)) < 2:
        return math.nan
    return correlation(values, sizes)


def _sigmoid(margin: float) -> float:
    bounded = max(-LARGEST_MARGIN, min(LARGEST_MARGIN, margin))
    return 1 / (1 + math.exp(-bounded))


def _length(tokenizer: Tokenizer, chat: Sequence[Message]) -> int:
    return len(tokenizer.encode(chat[-1]["content"]))


def _mean(values: Sequence[float]) -> float:
    return mean(values) if values else math.nan

"""From rewards to advantages: each completion against the mean of its own group."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

from openqwq.types import OpenQwQError


def _by_group(rewards: Sequence[float], group_ids: Sequence[str]) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for reward, group_id in zip(rewards, group_ids, strict=True):
        if not math.isfinite(reward):
            raise OpenQwQError(
                f"a reward of group {group_id!r} is {reward!r}: leave it out"
            )
        groups.setdefault(group_id, []).append(reward)
    return groups


def group_advantages(
    rewards: Sequence[float], group_ids: Sequence[str], *, divide_by_batch_std: bool = False
) -> list[float]:
    """Reward minus the group's mean (Dr. GRPO, arXiv 2503.20783), in the order given.

    Without the group's std, hard and easy prompts weigh alike. `divide_by_batch_std` divides by
    the whole batch's sample std + 1e-4. Groups may be interleaved and of any size; a constant
    group gets exact zeros. Raises OpenQwQError for a reward that is not finite.
    """
    means = {key: mean(values) for key, values in _by_group(rewards, group_ids).items()}
    scale = 1 / (stdev(rewards) + 1e-4) if divide_by_batch_std and len(rewards) > 1 else 1.0
    return [
        (reward - means[key]) * scale
        for reward, key in zip(rewards, group_ids, strict=True)
    ]


def informative_groups(rewards: Sequence[float], group_ids: Sequence[str]) -> list[str]:
    """Groups whose rewards differ, in order of appearance; the rest give no gradient.

    Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2) keeps these and refills the batch.
    """
    groups = _by_group(rewards, group_ids)
    return [key for key, values in groups.items() if min(values) != max(values)]


def overlong_penalty(length: int, max_length: int, buffer: int) -> float:
    """Soft overlong punishment in [-1, 0], added to the reward (DAPO section 3.4, equation 13).

    Zero up to `max_length - buffer` completion tokens, then linear down to -1 at `max_length`.
    """
    if not 0 < buffer <= max_length:
        raise OpenQwQError(f"overlong buffer is {buffer}: it must lie in 1..{max_length}")
    return -min(1.0, max(0.0, (length - max_length + buffer) / buffer))

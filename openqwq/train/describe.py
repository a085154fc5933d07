"""What a step's rollouts were like: numbers for the log, and every attempt for the reader."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from statistics import mean
from typing import Any

from openqwq.train.episodes import Attempt
from openqwq.train.rewards import VERIFIER
from openqwq.train.rollouts import by_kind
from openqwq.types import Trajectory


def describe_batch(
    attempts: Sequence[Attempt], judged: Sequence[Attempt], trained: Sequence[Trajectory]
) -> dict[str, Any]:
    """Means over all that was judged, not only over what is trained on."""
    statuses = Counter(attempt.score.status for attempt in attempts)
    groups = {record.group_id for record in trained}
    reward, reward_by_kind = _means(judged, _value)
    thinking, thinking_by_kind = _means(judged, _thinking_tokens)
    tokens, _ = _means(judged, _sampled_tokens)
    example = attempts[0]
    return {
        "reward": reward,
        "reward_by_kind": reward_by_kind,
        **_accuracies(judged),
        "thinking_tokens": thinking,
        "thinking_by_kind": thinking_by_kind,
        "completion_tokens": tokens,
        "status": dict(sorted(statuses.items())),
        "errors": statuses["error"],
        "groups_trained": len(groups),
        **_rewards(judged),
        "sample": {
            "task": example.task.id,
            "question": example.task.messages[-1]["content"],
            "completion": example.text,
            "status": example.score.status,
        },
    }


def _means(
    attempts: Sequence[Attempt], number: Callable[[Attempt], float]
) -> tuple[float, dict[str, float]]:
    """The mean of a number over all attempts, and over those of each table."""
    by_table: dict[str, float] = {}
    for kind, group in by_kind(attempts).items():
        by_table[kind] = mean(map(number, group))
    return mean(map(number, attempts)), by_table


def _value(attempt: Attempt) -> float:
    return attempt.score.value


def _thinking_tokens(attempt: Attempt) -> float:
    return attempt.reasoning_tokens


def _sampled_tokens(attempt: Attempt) -> float:
    return attempt.sampled_tokens


def _is_right(attempt: Attempt) -> float:
    return float(attempt.score.status == "correct")


def _accuracies(judged: Sequence[Attempt]) -> dict[str, Any]:
    """The share of `correct` verdicts, over all and for each table that has verdicts."""
    verdicts = [attempt for attempt in judged if attempt.score.status != "scored"]
    if not verdicts:
        return {}
    accuracy, by_table = _means(verdicts, _is_right)
    return {"accuracy": accuracy, "accuracy_by_kind": by_table}


def _rewards(judged: Sequence[Attempt]) -> dict[str, dict[str, float]]:
    """The mean of each reward where it was given, so that a learned one stands next to the gold."""
    values: dict[str, list[float]] = {}
    for attempt in judged:
        for name, value in attempt.score.parts.items():
            values.setdefault(name, []).append(value)
    if set(values) <= {VERIFIER}:
        return {}
    return {"rewards": {name: mean(found) for name, found in sorted(values.items())}}


def rollout_rows(
    step: int,
    groups: Sequence[tuple[str, Sequence[Attempt]]],
    trained: Sequence[Trajectory],
) -> Iterator[dict[str, Any]]:
    """One row for each attempt of a step, as `RUN/rollouts` keeps them."""
    trained_groups = {record.group_id for record in trained}
    for key, group in groups:
        for member, attempt in enumerate(group):
            yield {
                "step": step,
                "group": key,
                "member": member,
                "task": attempt.task.id,
                "kind": attempt.task.kind,
                "question": attempt.task.messages[-1]["content"],
                "text": attempt.text,
                "reward": attempt.score.value,
                "parts": dict(attempt.score.parts),
                "status": attempt.score.status,
                "detail": attempt.score.detail,
                "tokens": attempt.sampled_tokens,
                "thinking_tokens": attempt.reasoning_tokens,
                "trained": key in trained_groups,
            }

"""What a step's rollouts were like: numbers for the log, and every attempt for the reader."""

from collections import Counter
from collections.abc import Iterator, Sequence
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
    kinds = by_kind(judged)
    example = attempts[0]
    return {
        "reward": mean(a.score.value for a in judged),
        "reward_by_kind": {k: mean(a.score.value for a in group) for k, group in kinds.items()},
        **_accuracies(judged),
        "thinking_tokens": mean(a.reasoning_tokens for a in judged),
        "thinking_by_kind": {k: mean(a.reasoning_tokens for a in g) for k, g in kinds.items()},
        "completion_tokens": mean(a.sampled_tokens for a in judged),
        "status": dict(sorted(Counter(a.score.status for a in attempts).items())),
        "errors": sum(a.score.status == "error" for a in attempts),
        "groups_trained": len({t.group_id for t in trained}),
        **_rewards(judged),
        "sample": {
            "task": example.task.id,
            "question": example.task.messages[-1]["content"],
            "completion": example.text,
            "status": example.score.status,
        },
    }


def _accuracies(judged: Sequence[Attempt]) -> dict[str, Any]:
    """The share of `correct` verdicts, over all and for each table that has verdicts."""
    verdicts = [a for a in judged if a.score.status != "scored"]
    if not verdicts:
        return {}
    by_table: dict[str, float] = {}
    for kind, group in by_kind(verdicts).items():
        by_table[kind] = mean(a.score.status == "correct" for a in group)
    return {
        "accuracy": mean(a.score.status == "correct" for a in verdicts),
        "accuracy_by_kind": by_table,
    }


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
    step: int, groups: Sequence[tuple[str, Sequence[Attempt]]], trained: Sequence[Trajectory]
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

"""Held-out accuracy: several completions a problem, with intervals that respect the clustering."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev


@dataclass(frozen=True)
class Outcome:
    """One judged attempt at a held-out problem, in a form that can be saved.

    `completion` is all that was said, tool results included, in `replies` turns of the model.
    """

    task_id: str
    kind: str
    question: str
    completion: str
    value: float
    status: str
    thinking_tokens: int
    replies: int = 1


@dataclass(frozen=True)
class Accuracy:
    """pass@1 (mean over samples, then problems) with its 95% interval's half-width."""

    pass_at_1: float
    half_width: float
    pass_at_k: float  # share of problems solved by at least one of their samples
    thinking_tokens: float
    problems: int
    errors: int
    truncated: int


def accuracy(outcomes: Sequence[Outcome]) -> Accuracy:
    """Summary of one kind. Errors are counted apart, neither right nor wrong.

    The interval is clustered by problem (Miller, arXiv 2411.00640): 1.96 standard errors of the
    problem means.
    """
    judged = [o for o in outcomes if o.status != "error"]
    problems: dict[str, list[float]] = {}
    for outcome in judged:
        problems.setdefault(outcome.task_id, []).append(outcome.value)
    means = [mean(values) for values in problems.values()]
    spread = stdev(means) / math.sqrt(len(means)) if len(means) > 1 else float("nan")
    return Accuracy(
        pass_at_1=mean(means) if means else float("nan"),
        half_width=1.96 * spread,
        pass_at_k=mean(max(v) for v in problems.values()) if problems else float("nan"),
        thinking_tokens=mean(o.thinking_tokens for o in judged) if judged else float("nan"),
        problems=len(problems),
        errors=len(outcomes) - len(judged),
        truncated=sum(o.status == "truncated" for o in judged),
    )


def accuracies(
    outcomes: Sequence[Outcome], families: Mapping[str, Sequence[str]]
) -> dict[str, Accuracy]:
    """Summaries of every kind, then of every family of kinds ("math": all its kinds together)."""
    kinds = list(dict.fromkeys(o.kind for o in outcomes))
    groups = {kind: [kind] for kind in kinds} | {
        family: list(members) for family, members in families.items() if len(members) > 1
    }
    return {
        name: accuracy([o for o in outcomes if o.kind in members])
        for name, members in groups.items()
    }

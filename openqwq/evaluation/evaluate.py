"""Held-out accuracy: several completions a problem, with intervals that respect the clustering."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from openqwq.evaluation.statistics import half_width


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


def marked(outcomes: Iterable[Outcome]) -> list[tuple[Outcome, float]]:
    """Each outcome but errors with what it counts in the accuracy: 1 if it is correct, else 0.

    Where the rewards of a kind give no verdicts, its outcomes count their values.
    """
    judged = [outcome for outcome in outcomes if outcome.status != "error"]
    scored = {outcome.kind for outcome in judged if outcome.status == "scored"}
    verdicts = {o.kind for o in judged if o.status in ("correct", "wrong")}
    marks: list[tuple[Outcome, float]] = []
    for outcome in judged:
        if outcome.kind in scored - verdicts:
            marks.append((outcome, outcome.value))
        else:
            marks.append((outcome, float(outcome.status == "correct")))
    return marks


def accuracy(outcomes: Sequence[Outcome]) -> Accuracy:
    """Summary of one kind. Errors are counted apart, neither right nor wrong.

    The interval is clustered by problem (Miller, arXiv 2411.00640): 1.96 standard errors of the
    problem means.
    """
    marks = marked(outcomes)
    errors = len(outcomes) - len(marks)
    if not marks:
        return Accuracy(math.nan, math.nan, math.nan, math.nan, 0, errors, 0)
    problems: dict[str, list[float]] = {}
    for outcome, mark in marks:
        problems.setdefault(outcome.task_id, []).append(mark)
    means = list(map(mean, problems.values()))
    return Accuracy(
        pass_at_1=mean(means),
        half_width=half_width(means),
        pass_at_k=mean(map(max, problems.values())),
        thinking_tokens=mean(o.thinking_tokens for o, _ in marks),
        problems=len(problems),
        errors=errors,
        truncated=sum(o.status == "truncated" for o, _ in marks),
    )


def accuracies(
    outcomes: Sequence[Outcome], families: Mapping[str, Sequence[str]]
) -> dict[str, Accuracy]:
    """Summaries of every kind, then of every family of kinds ("math": all its kinds together)."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.kind, []).append(outcome)
    for family, members in families.items():
        if len(members) > 1:
            groups[family] = [outcome for outcome in outcomes if outcome.kind in members]
    return {name: accuracy(group) for name, group in groups.items()}

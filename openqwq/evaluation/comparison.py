"""Checkpoints of a run compared on held-out problems: tables, gains, problems before and after."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean

from openqwq.evaluation.evaluate import Accuracy, Outcome, accuracy, marked
from openqwq.evaluation.run_data import Families, RunData
from openqwq.evaluation.statistics import half_width

SHOWN = 4  # problems of each kind

Samples = dict[str, list[Outcome]]  # by problem


@dataclass(frozen=True)
class SummaryRow:
    """Held-out accuracy at each checkpoint, None where there is no evaluation yet.

    `gains` are the stages' changes of pass@1, in points, each with the half-width of its 95%
    interval, paired by problem; NaN unless both sides are there.
    """

    name: str
    is_family: bool  # or a kind that stands alone; its members follow it
    sides: tuple[Accuracy | None, ...]
    gains: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Sample:
    """A problem's first completion at one checkpoint, and how many of its samples are right."""

    status: str
    thinking: str
    answer: str
    thinking_tokens: int
    right: int
    of: int

    @property
    def length(self) -> int:
        """Characters of the completion."""
        return len(self.thinking) + len(self.answer)


@dataclass(frozen=True)
class Shown:
    """A problem at two checkpoints; a side is None where it was not asked."""

    question: str
    before: Sample | None
    after: Sample | None


def summary_table(run: RunData, families: Families) -> list[SummaryRow]:
    """A row for each family, its kinds after it, then kinds of no family; [] if not evaluated."""
    if not run.outcomes:
        return []
    kinds = run.kinds(families)
    rows: list[SummaryRow] = []
    grouped: set[str] = set()
    for name, members in families.items():
        seen = [kind for kind in kinds if kind in members]
        grouped |= set(members)
        if seen:
            rows.append(_row(run, name, seen, True))
        if len(seen) > 1:
            rows += [_row(run, kind, [kind], False) for kind in seen]
    for kind in kinds:
        if kind not in grouped:
            rows.append(_row(run, kind, [kind], True))
    return rows


def _row(run: RunData, name: str, kinds: Sequence[str], is_family: bool) -> SummaryRow:
    asked: list[list[Outcome]] = []
    for checkpoint in run.checkpoints:
        outcomes = run.outcomes.get(checkpoint, [])
        asked.append([outcome for outcome in outcomes if outcome.kind in kinds])
    sides = [accuracy(side) if side else None for side in asked]
    gains = [_gain(before, after) for before, after in pairwise(asked)]
    return SummaryRow(name, is_family, tuple(sides), tuple(gains))


def _gain(before: Sequence[Outcome], after: Sequence[Outcome]) -> tuple[float, float]:
    old = values_by_problem(before)
    new = values_by_problem(after)
    gains = [100 * (new[problem] - old[problem]) for problem in old if problem in new]
    if not gains:
        return math.nan, math.nan
    return mean(gains), half_width(gains)


def values_by_problem(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Each problem's accuracy over its samples, without errors of the judge."""
    values: dict[str, list[float]] = {}
    for outcome, mark in marked(outcomes):
        values.setdefault(outcome.task_id, []).append(mark)
    return {problem: mean(each) for problem, each in values.items()}


def shown_problems(run: RunData, kind: str) -> list[Shown]:
    """Problems that RL put right, largest gains first, then one that is still wrong."""
    before, after = run.compared(kind)
    old = _samples_by_problem(run.outcomes.get(before, []), kind)
    new = _samples_by_problem(run.outcomes.get(after, []), kind)
    shown: list[Shown] = []
    for problem in _chosen(old, new):
        first = (old.get(problem) or new[problem])[0]
        asked_before = _sample(old.get(problem, []))
        asked_after = _sample(new.get(problem, []))
        shown.append(Shown(first.question, asked_before, asked_after))
    return shown


def _chosen(old: Samples, new: Samples) -> list[str]:
    """The problems to show; others follow where too few were put right."""
    fixed: list[str] = []
    for problem in old:
        if problem in new and _is_right(new[problem]) and not _is_right(old[problem]):
            fixed.append(problem)
    fixed.sort(key=lambda problem: _share_right(old[problem]) - _share_right(new[problem]))
    still_wrong = [problem for problem in new if not _is_right(new[problem])]
    chosen = fixed[: SHOWN - 1] + still_wrong[:1]

    others = [problem for problem in {**old, **new} if problem not in chosen]
    return chosen + others[: SHOWN - len(chosen)]


def shortest_fixed(problems: Mapping[str, Sequence[Shown]]) -> tuple[str, Shown] | None:
    """The kind and the shortest of its problems that was wrong before and is right after."""
    best: tuple[str, Shown] | None = None
    least = math.inf
    for kind, shown in problems.items():
        for problem in shown:
            before = problem.before
            after = problem.after
            if before is None or after is None:
                continue
            if before.status == "correct" or after.status != "correct":
                continue
            length = before.length + after.length
            if length < least:
                best = kind, problem
                least = length
    return best


def _samples_by_problem(outcomes: Sequence[Outcome], kind: str) -> Samples:
    problems: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.kind == kind:
            problems.setdefault(outcome.task_id, []).append(outcome)
    return problems


def _is_right(samples: Sequence[Outcome]) -> bool:
    """Whether the first sample, which the page shows, is."""
    return samples[0].status == "correct"


def _share_right(samples: Sequence[Outcome]) -> float:
    return mean(sample.status == "correct" for sample in samples)


def _sample(samples: Sequence[Outcome]) -> Sample | None:
    if not samples:
        return None
    first = samples[0]
    right = sum(sample.status == "correct" for sample in samples)
    thinking, _, answer = first.completion.partition("</think>")
    return Sample(
        first.status,
        thinking.strip("\n"),
        answer.strip("\n"),
        first.thinking_tokens,
        right,
        len(samples),
    )

"""The first sentence of a run report: what was trained, and what it gained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from openqwq.config import Config
from openqwq.evaluation.comparison import values_by_problem
from openqwq.evaluation.evaluate import Outcome
from openqwq.evaluation.run_data import START
from openqwq.evaluation.statistics import half_width
from openqwq.evaluation.words import Words


@dataclass(frozen=True)
class Change:
    """Accuracy before and after over the problems asked both times; shares, half-width in points.

    `half` is half a 95% interval of the change, paired by problem; NaN for a single problem.
    """

    problems: int
    before: float
    after: float
    half: float

    @property
    def points(self) -> float:
        """What was gained."""
        return 100 * (self.after - self.before)


def first_sentence(
    config: Config,
    names: Sequence[str],
    outcomes: Mapping[str, Sequence[Outcome]],
    words: Words,
) -> str:
    """What was trained, on what, and what it gained on held-out problems.

    `names` are the checkpoints in order; `outcomes` those that have been evaluated.
    """
    kinds = dict.fromkeys(words["stage_kinds"][stage.kind] for stage in config.stages)
    trained = words.say(
        "trained",
        model=config.model or words["fresh_model"],
        steps=words.listed(kinds),
        tables=words.listed(config.staged_data()),
    )
    evaluated = [name for name in names if outcomes.get(name)]
    if len(evaluated) < 2:
        return words.say("not_compared", trained=trained)

    change = _change(outcomes[evaluated[0]], outcomes[evaluated[-1]])
    if change is None:
        return words.say("never_asked_twice", trained=trained)

    verdict = "unchanged"
    if abs(change.points) > change.half:
        verdict = "rose" if change.points > 0 else "fell"
    return words.say(
        verdict,
        trained=trained,
        problems=change.problems,
        before=f"{100 * change.before:.1f}",
        moment=_moment(evaluated[0], words),
        after=f"{100 * change.after:.1f}",
        change=_with_interval(change),
    )


def _moment(checkpoint: str, words: Words) -> str:
    if checkpoint == START:
        return words.say("before_training")
    return words.say("after_stage", stage=checkpoint)


def _with_interval(change: Change) -> str:
    points = f"{change.points:+.1f}".replace("-", "−")
    return f"{points} ± {change.half:.1f}" if math.isfinite(change.half) else points


def _change(first: Sequence[Outcome], last: Sequence[Outcome]) -> Change | None:
    """None where no problem was asked both times."""
    old = values_by_problem(first)
    new = values_by_problem(last)
    both = [problem for problem in old if problem in new]
    if not both:
        return None
    before = mean(old[problem] for problem in both)
    after = mean(new[problem] for problem in both)
    half = half_width([100 * (new[problem] - old[problem]) for problem in both])
    return Change(len(both), before, after, half)

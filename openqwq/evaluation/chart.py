"""Charts of an evaluation: the announcement's bars, and accuracy against thinking."""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from openqwq.evaluation.plots import LIGHT, NO_METADATA, STYLE, Chart, inline_svg
from openqwq.evaluation.published import PUBLISHED
from openqwq.evaluation.results import Record, Summary
from openqwq.evaluation.statistics import mean_interval

GREYS = ("wrong", "muted", "truncated", "correct", "grid")  # of the published models
SPREAD = 0.84  # share of a benchmark's place that its bars fill
FILLED = 0.92  # share of a bar's place that the bar fills
GROUPS = 5  # of equal size, by length


def save(figure: Figure, path: Path, title: str, note: str = "") -> Chart:
    """Write a figure as PNG and return it as inline SVG whose colours follow the page's theme."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=NO_METADATA)
    return Chart(title, note, inline_svg(stream.getvalue()))


def bars(
    model: str, names: Mapping[str, str], summaries: Mapping[str, Summary], path: Path
) -> Chart:
    """Our scores with their 95% intervals next to the published ones; `names` are the titles."""
    series: dict[str, Mapping[str, float]] = {}
    labels: list[str] = []
    for label, scores in PUBLISHED.items():
        if scores.keys() & names.keys():
            series[label] = scores
    for name, title in names.items():
        labels.append(f"{title}\n{summaries[name].items} items")

    with rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.9))
        axes = figure.add_subplot()
        width = SPREAD / (1 + len(series))
        for place, name in enumerate(names):
            first = place - SPREAD / 2 + width / 2
            _own_bar(axes, first, width * FILLED, summaries[name])
            for index, scores in enumerate(series.values()):
                if name in scores:
                    x = first + width * (index + 1)
                    colour = LIGHT[GREYS[index]]
                    _published_bar(axes, x, width * FILLED, scores[name], colour)

        axes.set_xticks(range(len(names)), labels)
        axes.set_xlim(-0.5, len(names) - 0.5)
        ends = [100 * summaries[name].headline.value for name in names]
        if min(ends) >= 0 and max(ends) <= 100:  # rewards may be anything
            axes.set_ylim(0, 108)
            axes.set_yticks(range(0, 101, 20))
        axes.set_ylabel("score, %")

        # Bars of no height, for the legend.
        axes.bar(0, 0, color=LIGHT["kind-0"], label=model)
        for label, grey in zip(series, GREYS, strict=False):
            axes.bar(0, 0, color=LIGHT[grey], label=label)
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=7.5)
        return save(figure, path, "Scores", "Bars of ours end in their 95% interval.")


def _published_bar(axes: Axes, x: float, width: float, score: float, colour: str) -> None:
    axes.bar(x, score, width, color=colour)
    axes.text(x, score + 1.5, f"{score:.1f}", ha="center", fontsize=6)


def _own_bar(axes: Axes, x: float, width: float, summary: Summary) -> None:
    score = summary.headline
    value = 100 * score.value
    below = 100 * (score.value - score.low)
    above = 100 * (score.high - score.value)
    ends = [[max(0.0, below)], [max(0.0, above)]]
    axes.bar(x, value, width, color=LIGHT["kind-0"])
    axes.errorbar(x, value, yerr=ends, color=LIGHT["ink"], capsize=2, lw=0.8)
    height = value + above + 1.5
    axes.text(x, height, f"{value:.1f}", ha="center", fontsize=7, weight="bold")


def _half_page(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """A small figure of a share in percent."""
    figure = Figure(figsize=(4.6, 2.7))
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_ylim(0, 100)
    axes.set_title(title)
    return figure, axes


def by_length(title: str, records: Sequence[Record], path: Path) -> Chart | None:
    """Accuracy of the replies in five groups of growing length of thinking, with intervals."""
    replies = [record for record in records if record.generated]
    replies.sort(key=lambda reply: reply.reasoning_tokens)
    if len(replies) < 4 * GROUPS or not replies[-1].reasoning_tokens:
        return None

    lengths: list[float] = []
    right: list[float] = []
    below: list[float] = []
    above: list[float] = []
    cuts = [len(replies) * group // GROUPS for group in range(GROUPS + 1)]
    for start, end in pairwise(cuts):
        group = replies[start:end]
        found = mean_interval([reply.value for reply in group])
        lengths.append(fmean(reply.reasoning_tokens for reply in group))
        right.append(100 * found.value)
        below.append(max(0.0, 100 * (found.value - found.low)))
        above.append(max(0.0, 100 * (found.high - found.value)))

    with rc_context(STYLE):
        name = f"{title}: accuracy against length"
        figure, axes = _half_page(name, "thinking tokens", "right, %")
        ends = [below, above]
        colour = LIGHT["kind-0"]
        axes.errorbar(lengths, right, yerr=ends, color=colour, marker="o", ms=4, capsize=2)
        return save(figure, path, f"{title}: accuracy against length of thinking")


def by_budget(title: str, records: Sequence[Record], path: Path) -> Chart | None:
    """Share of all records that are right and thought no longer than a budget, perhaps not at all.

    A reply that never came counts as wrong, so that the curve ends at the score.
    """
    replies = [record for record in records if record.generated]
    if len(replies) < 4 * GROUPS or not any(reply.reasoning_tokens for reply in replies):
        return None

    right_within: dict[int, float] = {}  # by budget: right answers that needed no more
    right = 0.0
    for reply in sorted(replies, key=lambda reply: (reply.reasoning_tokens, reply.value)):
        right += reply.value
        right_within[reply.reasoning_tokens] = right
    shares = [100 * count / len(records) for count in right_within.values()]

    with rc_context(STYLE):
        name = f"{title}: accuracy against budget"
        figure, axes = _half_page(name, "budget, thinking tokens", "right within it, %")
        axes.step(list(right_within), shares, where="post", color=LIGHT["kind-2"])
        note = "A reply that thought longer than the budget counts as wrong."
        return save(figure, path, f"{title}: accuracy against thinking budget", note)

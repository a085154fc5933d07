"""Charts of an evaluation: the announcement's bars, and accuracy against thinking."""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from matplotlib import rc_context
from matplotlib.figure import Figure

from openqwq.evaluation.plots import COLOURS, LIGHT, NO_METADATA, STYLE, Chart
from openqwq.evaluation.published import PUBLISHED
from openqwq.evaluation.results import Record, Summary
from openqwq.evaluation.statistics import mean_interval

GREYS = ("wrong", "muted", "truncated", "correct", "grid")  # of the published models
SPREAD = 0.84  # share of a benchmark's place that its bars fill
GROUPS = 5  # of equal size, by length


def save(figure: Figure, path: Path, title: str, note: str = "") -> Chart:
    """Write a figure as PNG and return it as inline SVG whose colours follow the page's theme."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=NO_METADATA)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    for role, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{role})")
    return Chart(title, note, svg)


def bars(
    model: str, names: Mapping[str, str], summaries: Mapping[str, Summary], path: Path
) -> Chart:
    """Our scores with their 95% intervals next to the published ones; `names` are the titles."""
    series = {label: rows for label, rows in PUBLISHED.items() if rows.keys() & names.keys()}
    with rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.9))
        axes = figure.add_subplot()
        width = SPREAD / (1 + len(series))
        for place, name in enumerate(names):
            left = place - SPREAD / 2 + width / 2
            score = summaries[name].headline
            value, error = 100 * score.value, [100 * (score.value - score.low)]
            error.append(100 * (score.high - score.value))
            axes.bar(left, value, width * 0.92, color=LIGHT["kind-0"])
            ends = [[max(0.0, each)] for each in error]
            axes.errorbar(left, value, yerr=ends, color=LIGHT["ink"], capsize=2, lw=0.8)
            high = value + error[1]
            axes.text(left, high + 1.5, f"{value:.1f}", ha="center", fontsize=7, weight="bold")
            for index, rows in enumerate(series.values()):
                if name in rows:
                    x = left + width * (index + 1)
                    colour = LIGHT[GREYS[index]]
                    axes.bar(x, rows[name], width * 0.92, color=colour)
                    axes.text(x, rows[name] + 1.5, f"{rows[name]:.1f}", ha="center", fontsize=6)
        labels = [f"{title}\n{summaries[name].items} items" for name, title in names.items()]
        axes.set_xticks(range(len(names)), labels)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_ylim(0, 108)
        axes.set_yticks(range(0, 101, 20))
        axes.set_ylabel("score, %")
        for label, role in [(model, "kind-0"), *zip(series, GREYS, strict=False)]:
            axes.bar(0, 0, color=LIGHT[role], label=label)
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=7.5)
        return save(figure, path, "Scores", "Bars of ours end in their 95% interval.")


def by_length(title: str, records: Sequence[Record], path: Path) -> Chart | None:
    """Accuracy of the replies in five groups of growing length of thinking, with intervals."""
    ordered = sorted((r for r in records if r.generated), key=lambda r: r.reasoning_tokens)
    if len(ordered) < 4 * GROUPS or not ordered[-1].reasoning_tokens:
        return None
    cuts = [len(ordered) * i // GROUPS for i in range(GROUPS + 1)]
    groups = [ordered[a:b] for a, b in pairwise(cuts)]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.7))
        axes = figure.add_subplot()
        xs = [fmean(r.reasoning_tokens for r in group) for group in groups]
        found = [mean_interval([r.value for r in group]) for group in groups]
        ys = [100 * each.value for each in found]
        low = [max(0.0, 100 * (each.value - each.low)) for each in found]
        high = [max(0.0, 100 * (each.high - each.value)) for each in found]
        axes.errorbar(xs, ys, yerr=[low, high], color=LIGHT["kind-0"], marker="o", ms=4, capsize=2)
        axes.set_xlabel("thinking tokens")
        axes.set_ylabel("right, %")
        axes.set_ylim(0, 100)
        axes.set_title(f"{title}: accuracy against length")
        return save(figure, path, f"{title}: accuracy against length of thinking")


def by_budget(title: str, records: Sequence[Record], path: Path) -> Chart | None:
    """Share of all records that are right and thought no longer than a budget, perhaps not at all.

    A reply that never came counts as wrong, so that the curve ends at the score.
    """
    replies = [r for r in records if r.generated]
    if len(replies) < 4 * GROUPS or not any(r.reasoning_tokens for r in replies):
        return None
    budgets = sorted({r.reasoning_tokens for r in replies})
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.7))
        axes = figure.add_subplot()
        right = sorted((r.reasoning_tokens, r.value) for r in replies)
        total, ys, index = 0.0, [], 0
        for budget in budgets:
            while index < len(right) and right[index][0] <= budget:
                total, index = total + right[index][1], index + 1
            ys.append(100 * total / len(records))
        axes.step(budgets, ys, where="post", color=LIGHT["kind-2"])
        axes.set_xlabel("budget, thinking tokens")
        axes.set_ylabel("right within it, %")
        axes.set_ylim(0, 100)
        axes.set_title(f"{title}: accuracy against budget")
        note = "A reply that thought longer than the budget counts as wrong."
        return save(figure, path, f"{title}: accuracy against thinking budget", note)

"""Charts of a run: each a PNG file, and inline SVG whose colours follow the page's theme."""

import html
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

# Each role's colour on a light page (and in the PNGs) and on a dark one. The kinds have Okabe and
# Ito's colours, told apart by readers with any colour vision.
COLOURS = {
    "ink": ("#1c2126", "#e6e9ec"),
    "muted": ("#5a646e", "#9da7b1"),
    "grid": ("#e2e6ea", "#2c333a"),
    "paper": ("#ffffff", "#15191d"),
    "kind-0": ("#0072b2", "#4aa8e8"),
    "kind-1": ("#d55e00", "#f58035"),
    "kind-2": ("#009e73", "#2cc79a"),
    "kind-3": ("#b5548f", "#dd8fbd"),
    "kind-4": ("#d99100", "#efb73e"),
    "kind-5": ("#56b4e9", "#8ed0f7"),
    "correct": ("#33566f", "#a9c9df"),
    "wrong": ("#9fb0bd", "#5f7282"),
    "truncated": ("#d4dce2", "#38444e"),
    "timeout": ("#ecc94b", "#b7962b"),
    "error": ("#c0392b", "#e5604f"),
}
KIND_ROLES = [role for role in COLOURS if role.startswith("kind-")]
LIGHT = {role: light for role, (light, _) in COLOURS.items()}
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "text.color": LIGHT["ink"],
    "text.parse_math": False,
    "lines.linewidth": 1.5,
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["muted"],
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # text stays text: small, sharp, selectable
    "svg.hashsalt": "openqwq",  # equal runs give equal files
}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
MARKS = ("o", "o", "D", "s", "^", "v")  # of the sides, the first one hollow
DASHES = ("-", "--", ":")  # for more kinds than colours
HOVER_POINTS = 200  # of one line
WIDTH, LEGEND_COLUMNS = 4.6, 3  # inches: about a phone's width, so that labels are readable there


@dataclass(frozen=True)
class Interval:
    """A row of a before-and-after chart: values of up to three checkpoints with half-widths, NaN
    where not measured.
    """

    label: str
    colour: str
    strong: bool
    sides: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A finished chart: its title, what to know about it, its inline SVG."""

    title: str
    note: str
    svg: str


def finite_values(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The number that each record has under `key`, NaN where it has none or an infinite one."""
    found = (float(record.get(key, math.nan)) for record in records)
    return [value if math.isfinite(value) else math.nan for value in found]


def moving_average(values: Sequence[float], reach: int) -> list[float]:
    """Mean of the values at most `reach` places away that are not NaN; NaN where there is none."""
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    known = ([v for v in window if not math.isnan(v)] for window in windows)
    return [sum(window) / len(window) if window else math.nan for window in known]


@dataclass(frozen=True)
class Plotter:
    """Draws charts in one look and writes each as a PNG into `directory`.

    `curves` and `stack` take log records, each with its "step", and a colour role for each key
    that is drawn. What was never measured is left out, down to a whole chart: then [].
    """

    directory: Path

    def curves(
        self, name: str, title: str, unit: str, records: Sequence[Mapping[str, Any]],
        roles: Mapping[str, str], log: bool = False, top: float | None = None, average: bool = True,
    ) -> list[Chart]:  # fmt: skip
        """Points of each step under their moving average."""
        lines = {key: finite_values(records, key) for key in roles}
        lines = {key: line for key, line in lines.items() if not all(map(math.isnan, line))}
        if not lines:
            return []
        steps = [record["step"] for record in records]
        reach = min(len(steps) // 24, 10) if average else 0

        def draw(axes: Axes) -> None:
            for key, line in lines.items():
                turn = [*roles].index(key) // len(KIND_ROLES)
                colour, dashes = LIGHT[roles[key]], DASHES[turn % len(DASHES)]
                axes.plot(steps, line, ".", color=colour, alpha=0.4, ms=4, mew=0)
                axes.plot(steps, moving_average(line, reach), dashes, color=colour, label=key)
                _hover(axes, steps, line, f"hover {key}")
            if log and any(value > 0 for line in lines.values() for value in line):
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axes.yaxis.set_minor_formatter(NullFormatter())
            else:
                axes.set_ylim(0, top)
            axes.yaxis.set_major_formatter("{x:g}")
            _label(axes, unit)

        note = f"Points: single steps. Line: mean over {2 * reach + 1} steps." if reach else ""
        titles = {}
        for key, line in lines.items():
            points = _hovered(steps, line)
            titles[f"hover {key}"] = [f"{key}, step {x}: {y:.4g} {unit}" for x, y in points]
        return [self._save(name, title, note, draw, len(lines), titles=titles)]

    def stack(
        self, name: str, title: str, unit: str, records: Sequence[Mapping[str, Any]],
        roles: Mapping[str, str], note: str = "",
    ) -> list[Chart]:  # fmt: skip
        """Counts as layers, the first at the bottom; a record lacks those that are zero."""
        layers = {key: [record.get(key, 0) for record in records] for key in roles}
        layers = {key: layer for key, layer in layers.items() if any(layer)}
        if not layers or len(records) < 2:  # an area needs two steps
            return []

        def draw(axes: Axes) -> None:
            colours = [LIGHT[roles[key]] for key in layers]
            steps = [record["step"] for record in records]
            axes.stackplot(steps, *layers.values(), labels=[*layers], colors=colours, lw=0)
            axes.margins(x=0, y=0)
            _label(axes, unit)

        return [self._save(name, title, note, draw, max(2, len(layers)))]

    def intervals(
        self, name: str, title: str, unit: str, rows: Sequence[Interval],
        names: Sequence[str], top: float | None = None,
    ) -> list[Chart]:  # fmt: skip
        """The sides of each row, hollow first, with their intervals; rows from the top."""
        if not rows:
            return []
        found = (side[0] for row in rows for side in row.sides if math.isfinite(side[0]))
        end = top or max(found, default=0.0) or 1.0

        def draw(axes: Axes) -> None:
            for height, row in enumerate(rows):
                for turn, (side, mark) in enumerate(zip(row.sides, MARKS, strict=False)):
                    shift = 0.5 * (turn + 0.5) / len(row.sides) - 0.25
                    axes.errorbar(
                        side[0], height + shift, xerr=side[1], fmt=mark, color=LIGHT[row.colour],
                        mfc=LIGHT[row.colour if turn else "paper"],
                        ms=5 if row.strong else 4, elinewidth=1.1,
                    )  # fmt: skip
            axes.set_yticks(range(len(rows)), [row.label for row in rows], color=LIGHT["ink"])
            for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
                tick.set_fontweight("bold" if row.strong else "normal")
            for turn, (label, mark) in enumerate(zip(names, MARKS, strict=False)):
                face = LIGHT["ink" if turn else "paper"]
                axes.plot([], [], mark, ms=4.5, mfc=face, mec=LIGHT["ink"], label=label)
            axes.set(xlabel=unit, xlim=(-0.02 * end, 1.02 * end), ylim=(len(rows) - 0.5, -0.5))
            axes.grid(visible=True, axis="x")
            axes.grid(visible=False, axis="y")

        height = 1.0 + 0.14 * len(rows) * len(rows[0].sides)
        return [self._save(name, title, "", draw, len(rows[0].sides), height=height)]

    def calibration(self, bins: Sequence[tuple[float, float, int]]) -> list[Chart]:
        """How often a reward model is right where it is so sure: (confidence, accuracy, pairs)."""
        if not bins:
            return []

        def draw(axes: Axes) -> None:
            axes.plot([50, 100], [50, 100], "--", color=LIGHT["muted"], lw=1, label="calibrated")
            xs, ys = ([100 * each[i] for each in bins] for i in (0, 1))
            axes.plot(xs, ys, "o-", color=LIGHT["kind-0"], ms=4.5, label="reward model")
            for x, y, (_, _, count) in zip(xs, ys, bins, strict=True):
                axes.annotate(str(count), (x, y), (0, 5), textcoords="offset points", ha="center")
            axes.set(xlabel="confidence, %", ylabel="right, %", xlim=(48, 102), ylim=(0, 109))

        note = "Pairs of held-out prompts; the numbers count the pairs of a bin."
        return [self._save("calibration", "Calibration", note, draw, 2)]

    def _save(
        self, name: str, title: str, note: str, draw: Callable[[Axes], None],
        entries: int, height: float = 2.7, titles: Mapping[str, Sequence[str]] | None = None,
    ) -> Chart:  # fmt: skip
        with rc_context(STYLE):
            figure = Figure(figsize=(WIDTH, height))
            axes = figure.subplots()
            draw(axes)
            legend_rows = math.ceil(entries / LEGEND_COLUMNS) if entries > 1 else 0
            axes.set_title(title, pad=7 + 11 * legend_rows)
            if legend_rows:
                axes.legend(
                    loc="lower left", bbox_to_anchor=(-0.01, 1), borderaxespad=0.2,
                    ncols=LEGEND_COLUMNS, handlelength=1.2, handletextpad=0.5, columnspacing=1.2,
                )  # fmt: skip
            figure.savefig(self.directory / f"{name}.png", dpi=200, facecolor=LIGHT["paper"])
            figure.set_layout_engine("none")  # the same layout again
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata=NO_METADATA)
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :]
        for role, colour in LIGHT.items():
            svg = svg.replace(colour, f"var(--{role})")
        for gid, texts in (titles or {}).items():
            svg = _with_titles(svg, gid, texts)
        return Chart(title, note, svg)


def _hovered(steps: Sequence[int], line: Sequence[float]) -> list[tuple[int, float]]:
    """The points that tell their value, evenly taken where there are very many."""
    points = [(x, y) for x, y in zip(steps, line, strict=True) if math.isfinite(y)]
    return points[:: max(1, math.ceil(len(points) / HOVER_POINTS))]


def _hover(axes: Axes, steps: Sequence[int], line: Sequence[float], gid: str) -> None:
    """Unseen marks over the points, large enough to be hit by a pointer."""
    points = _hovered(steps, line)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    (marks,) = axes.plot(xs, ys, "o", ms=10, mew=0, color=LIGHT["ink"], alpha=0.0)
    marks.set_gid(gid)


def _with_titles(svg: str, gid: str, texts: Sequence[str]) -> str:
    """`svg` where each mark of the group `gid` tells its text under a pointer, without a script."""
    start = svg.find(f'<g id="{html.escape(gid)}"')
    if start < 0:
        return svg
    head, group = svg[:start], svg[start:]
    for text in texts:
        place = group.find("<use ")
        end = group.find("/>", place)
        head += f"{group[:end]}><title>{html.escape(text)}</title></use>"
        group = group[end + 2 :]
    return head + group


def _label(axes: Axes, unit: str) -> None:
    axes.set(xlabel="step", ylabel=unit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def rl_charts(
    plotter: Plotter, rl: Sequence[dict[str, Any]], kinds: Mapping[str, str], prefix: str = ""
) -> list[Chart]:
    """The charts of RL's log records; `kinds` gives each kind of problem its colour role.

    `prefix` goes before the names of the files.
    """

    def curves(name: str, *arguments: Any, **options: Any) -> list[Chart]:
        return plotter.curves(prefix + name, *arguments, **options)

    def stack(name: str, *arguments: Any) -> list[Chart]:
        return plotter.stack(prefix + name, *arguments)

    judged = [r for r in rl if r["status"]]  # elsewhere the means are of nothing
    reward, thinking = (
        [{"step": r["step"], **r[field]} for r in judged]
        for field in ("reward_by_kind", "thinking_by_kind")
    )
    verdicts = [{"step": r["step"], **r["status"], "error": r["errors"]} for r in rl]
    status = {name: name for name in ("correct", "wrong", "truncated", "timeout", "error")}
    groups = [
        {"step": r["step"], "trained on": trained, "no variance": r["groups"] - trained}
        for r in rl
        for trained in [r["groups_trained"]]
    ]
    shares = {"trained on": "correct", "no variance": "truncated"}
    rewards = [{"step": r["step"], **r["rewards"]} for r in judged if "rewards" in r]
    # A reward's own parts are in the log alone.
    names = sorted({name for r in rewards for name in r if "/" not in name} - {"step"})
    reward_roles = dict(zip(names, itertools.cycle(KIND_ROLES)))
    refills = f"{sum(r['refills'] for r in rl)} refill rounds in {len(rl)} steps."
    gap = "mean |Δ log-prob|, nats"
    return [
        *curves("reward", "Reward", "mean reward", judged, {"reward": "ink"}, top=1.02),
        *curves("reward_by_kind", "Reward by kind", "mean reward", reward, kinds, top=1.02),
        *curves("rewards", "Each reward", "mean", rewards, reward_roles),
        *curves("thinking", "Thinking length", "tokens", judged, {"thinking_tokens": "ink"}),
        *curves("thinking_by_kind", "Thinking length by kind", "tokens", thinking, kinds),
        *stack("verdicts", "Verdicts", "completions", verdicts, status),
        *stack("groups", "Prompt groups", "groups", groups, shares, refills),
        *curves("entropy", "Entropy", "nats/token", rl, {"entropy": "ink"}),
        *curves(
            "reference_kl", "KL from the stage's start", "nats/token", rl, {"reference_kl": "ink"}
        ),
        *curves("log_prob_gap", "Sampler–learner gap", gap, rl, {"log_prob_gap": "ink"}, log=True),
        *curves("grad_norm", "Gradient norm", "norm before clipping", rl, {"grad_norm": "ink"}),
        *curves("learning_rate", "Learning rate", "rate", rl, {"lr": "ink"}, average=False),
    ]

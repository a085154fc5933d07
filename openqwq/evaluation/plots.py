"""Charts of a run: each a PNG file, and inline SVG whose colours follow the page's theme."""

import html
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    "scored": ("#7e6ba8", "#a795d1"),
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
WIDTH = 4.6  # inches: about a phone's width, so that labels are readable there
LEGEND_COLUMNS = 3


@dataclass(frozen=True)
class IntervalRow:
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
    values: list[float] = []
    for record in records:
        value = float(record.get(key, math.nan))
        values.append(value if math.isfinite(value) else math.nan)
    return values


def moving_average(values: Sequence[float], reach: int) -> list[float]:
    """Mean of the values at most `reach` places away that are not NaN; NaN where there is none."""
    averages: list[float] = []
    for place in range(len(values)):
        window = values[max(0, place - reach) : place + reach + 1]
        known = [value for value in window if not math.isnan(value)]
        averages.append(sum(known) / len(known) if known else math.nan)
    return averages


def inline_svg(svg: str) -> str:
    """An SVG file for inside a page, whose colours follow the page's theme."""
    svg = svg[svg.index("<svg") :]
    for role, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg


@dataclass(frozen=True)
class Plotter:
    """Draws charts in one look and writes each as a PNG into `directory`.

    `curves` and `stack` take log records, each with its "step", and a colour role for each key
    that is drawn. What was never measured is left out, down to a whole chart: then [].
    """

    directory: Path

    def curves(
        self,
        name: str,
        title: str,
        unit: str,
        records: Sequence[Mapping[str, Any]],
        roles: Mapping[str, str],
        log: bool = False,
        top: float | None = None,
        average: bool = True,
    ) -> list[Chart]:
        """Points of each step under their moving average, from 0 to `top` if all lie there."""
        lines: dict[str, list[float]] = {}
        for key in roles:
            line = finite_values(records, key)
            if not all(map(math.isnan, line)):
                lines[key] = line
        if not lines:
            return []
        steps = [record["step"] for record in records]
        reach = min(len(steps) // 24, 10) if average else 0

        def draw(axes: Axes) -> None:
            places = {key: place for place, key in enumerate(roles)}
            for key, line in lines.items():
                colour = LIGHT[roles[key]]
                dashes = DASHES[places[key] // len(KIND_ROLES) % len(DASHES)]
                axes.plot(steps, line, ".", color=colour, alpha=0.4, ms=4, mew=0)
                axes.plot(
                    steps, moving_average(line, reach), dashes, color=colour, label=key
                )
                _mark_points(axes, steps, line, f"hover {key}")

            positive = any(value > 0 for line in lines.values() for value in line)
            if log and positive:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
                axes.yaxis.set_minor_formatter(NullFormatter())
            else:
                axes.set_ylim(*_limits(lines.values(), top))
            axes.yaxis.set_major_formatter("{x:g}")
            _label(axes, unit)

        hovers: dict[str, list[str]] = {}
        for key, line in lines.items():
            texts = [f"{key}, step {x}: {y:.4g} {unit}" for x, y in _hovered(steps, line)]
            hovers[f"hover {key}"] = texts
        note = (
            f"Points: single steps. Line: mean over {2 * reach + 1} steps." if reach else ""
        )
        return [self._save(name, title, note, draw, entries=len(lines), hovers=hovers)]

    def stack(
        self,
        name: str,
        title: str,
        unit: str,
        records: Sequence[Mapping[str, Any]],
        roles: Mapping[str, str],
        note: str = "",
    ) -> list[Chart]:
        """Counts as layers, the first at the bottom; a record lacks those that are zero."""
        layers: dict[str, list[float]] = {}
        for key in roles:
            layer = [record.get(key, 0) for record in records]
            if any(layer):
                layers[key] = layer
        if not layers or len(records) < 2:  # an area needs two steps
            return []

        def draw(axes: Axes) -> None:
            steps = [record["step"] for record in records]
            colours = [LIGHT[roles[key]] for key in layers]
            axes.stackplot(
                steps, list(layers.values()), labels=layers, colors=colours, lw=0
            )
            axes.margins(x=0, y=0)
            _label(axes, unit)

        return [self._save(name, title, note, draw, entries=max(2, len(layers)))]

    def intervals(
        self,
        name: str,
        title: str,
        unit: str,
        rows: Sequence[IntervalRow],
        names: Sequence[str],
        top: float | None = None,
    ) -> list[Chart]:
        """The sides of each row, hollow first, with their intervals; rows from the top.

        The axis is from 0 to `top` if all values lie there.
        """
        if not rows:
            return []
        values: list[float] = []
        for row in rows:
            values += [value for value, _ in row.sides if math.isfinite(value)]
        begin = min([0.0, *values])
        end = max([top or 0.0, *values]) or (0.0 if begin else 1.0)
        margin = 0.02 * (end - begin)

        def draw(axes: Axes) -> None:
            for place, row in enumerate(rows):
                _draw_row(axes, place, row)
            labels = [row.label for row in rows]
            axes.set_yticks(range(len(rows)), labels, color=LIGHT["ink"])
            for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
                tick.set_fontweight("bold" if row.strong else "normal")
            for turn, label in enumerate(names[: len(MARKS)]):
                face = LIGHT["ink" if turn else "paper"]
                ink = LIGHT["ink"]
                axes.plot([], [], MARKS[turn], ms=4.5, mfc=face, mec=ink, label=label)
            axes.set_xlabel(unit)
            axes.set_xlim(begin - margin, end + margin)
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.grid(visible=True, axis="x")
            axes.grid(visible=False, axis="y")

        sides = len(rows[0].sides)
        height = 1.0 + 0.14 * len(rows) * sides
        return [self._save(name, title, "", draw, entries=sides, height=height)]

    def calibration(self, bins: Sequence[tuple[float, float, int]]) -> list[Chart]:
        """How often a reward model is right where it is so sure: (confidence, accuracy, pairs)."""
        if not bins:
            return []

        def draw(axes: Axes) -> None:
            axes.plot(
                [50, 100], [50, 100], "--", color=LIGHT["muted"], lw=1, label="calibrated"
            )
            sure = [100 * confidence for confidence, _, _ in bins]
            right = [100 * accuracy for _, accuracy, _ in bins]
            axes.plot(
                sure, right, "o-", color=LIGHT["kind-0"], ms=4.5, label="reward model"
            )
            for x, y, (_, _, count) in zip(sure, right, bins, strict=True):
                axes.annotate(
                    str(count), (x, y), (0, 5), textcoords="offset points", ha="center"
                )
            axes.set_xlabel("confidence, %")
            axes.set_ylabel("right, %")
            axes.set_xlim(48, 102)
            axes.set_ylim(0, 109)

        note = "Pairs of held-out prompts; the numbers count the pairs of a bin."
        return [self._save("calibration", "Calibration", note, draw, entries=2)]

    def _save(
        self,
        name: str,
        title: str,
        note: str,
        draw: Callable[[Axes], None],
        entries: int,
        height: float = 2.7,
        hovers: Mapping[str, Sequence[str]] | None = None,
    ) -> Chart:
        """Draw a chart whose legend has so many entries; `hovers` are texts by group of marks."""
        with rc_context(STYLE):
            figure = Figure(figsize=(WIDTH, height))
            axes = figure.subplots()
            draw(axes)
            legend_rows = math.ceil(entries / LEGEND_COLUMNS) if entries > 1 else 0
            axes.set_title(title, pad=7 + 11 * legend_rows)
            if legend_rows:
                axes.legend(
                    loc="lower left",
                    bbox_to_anchor=(-0.01, 1),
                    borderaxespad=0.2,
                    ncols=LEGEND_COLUMNS,
                    handlelength=1.2,
                    handletextpad=0.5,
                    columnspacing=1.2,
                )
            figure.savefig(
                self.directory / f"{name}.png", dpi=200, facecolor=LIGHT["paper"]
            )

            figure.set_layout_engine("none")  # the same layout again
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata=NO_METADATA)
        svg = inline_svg(buffer.getvalue())
        for group, texts in (hovers or {}).items():
            svg = _with_titles(svg, group, texts)
        return Chart(title, note, svg)


def _limits(
    lines: Iterable[Sequence[float]], top: float | None
) -> tuple[float | None, float | None]:
    """The ends of an upright axis; None, where matplotlib is to find one that holds the data."""
    known = [value for line in lines for value in line if not math.isnan(value)]
    if min(known) < 0:
        return None, None
    if top is not None and max(known) > top:
        return 0, None
    return 0, top


def _draw_row(axes: Axes, place: int, row: IntervalRow) -> None:
    """One row of an interval chart: a mark for each side, spread over half the row's height."""
    for turn, (value, half_width) in enumerate(row.sides[: len(MARKS)]):
        height = place + 0.5 * (turn + 0.5) / len(row.sides) - 0.25
        axes.errorbar(
            value,
            height,
            xerr=half_width,
            fmt=MARKS[turn],
            color=LIGHT[row.colour],
            mfc=LIGHT[row.colour if turn else "paper"],
            ms=5 if row.strong else 4,
            elinewidth=1.1,
        )


def _hovered(steps: Sequence[int], line: Sequence[float]) -> list[tuple[int, float]]:
    """The points that tell their value, evenly taken where there are very many."""
    points = [(x, y) for x, y in zip(steps, line, strict=True) if math.isfinite(y)]
    stride = max(1, math.ceil(len(points) / HOVER_POINTS))
    return points[::stride]


def _mark_points(
    axes: Axes, steps: Sequence[int], line: Sequence[float], group: str
) -> None:
    """Unseen marks over the points, large enough to be hit by a pointer."""
    points = _hovered(steps, line)
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    (marks,) = axes.plot(xs, ys, "o", ms=10, mew=0, color=LIGHT["ink"], alpha=0.0)
    marks.set_gid(group)


def _with_titles(svg: str, group: str, texts: Sequence[str]) -> str:
    """`svg` where each mark of the group tells its text under a pointer, without a script."""
    start = svg.find(f'<g id="{html.escape(group)}"')
    if start < 0:
        return svg
    done = svg[:start]
    rest = svg[start:]
    for text in texts:
        mark = rest.find("<use ")
        end = rest.find("/>", mark)
        done += f"{rest[:end]}><title>{html.escape(text)}</title></use>"
        rest = rest[end + 2 :]
    return done + rest


def _label(axes: Axes, unit: str) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

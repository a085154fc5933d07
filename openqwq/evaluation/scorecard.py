"""The report of an evaluation: one self-contained page with charts and every item to browse."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from openqwq.data.files import write_atomically
from openqwq.evaluation.chart import bars, by_budget, by_length
from openqwq.evaluation.plots import COLOURS, Chart
from openqwq.evaluation.published import CAVEATS, PUBLISHED
from openqwq.evaluation.results import (
    Record,
    RecordFile,
    Summary,
    by_item,
    read_json,
    summary_from_json,
)
from openqwq.evaluation.visible import visible
from openqwq.types import Message

ITEMS = 400  # shown of one benchmark
CHARACTERS = 12_000  # shown of one text


@dataclass(frozen=True)
class ItemSection:
    """One item as the page shows it: a right and a wrong reply, where there are both."""

    name: str
    status: str  # of the first sample
    share: float
    samples: int
    question: str
    replies: Sequence[Record]


@dataclass(frozen=True)
class BenchmarkSection:
    """One benchmark's part of the page."""

    name: str
    title: str
    summary: Summary
    charts: Sequence[Chart]
    items: Sequence[ItemSection]
    left_out: int


def write_scorecard(directory: Path, titles: dict[str, str]) -> Path:
    """Write report.html and charts/*.png of a run; `titles` are benchmarks' by name.

    Raises OpenQwQError where there is no run, or no way to write.
    """
    run = read_json(directory / "run.json")
    scores = read_json(directory / "scores.json")
    summaries = {name: summary_from_json(data) for name, data in scores.items()}
    named = {name: titles.get(name, name) for name in summaries}
    sections = [_section(directory, name, named[name], summaries[name]) for name in named]
    model = Path(str(run["model"])).name or str(run["model"])
    charts: list[Chart] = []
    if named:
        charts.append(bars(model, named, summaries, directory / "charts" / "scores.png"))
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,  # what a model says is untrusted
    )
    environment.filters |= {"percent": _percent, "shown": _shown}
    html = environment.get_template("scorecard.html.jinja").render(
        run=run,
        model=model,
        charts=charts,
        sections=sections,
        colours=COLOURS,
        published=PUBLISHED,
        caveats=CAVEATS,
    )
    path = directory / "report.html"
    # half of a surrogate pair, which no UTF-8 file holds, is shown as "?"
    write_atomically(path, html.encode(errors="replace"))
    return path


def _section(directory: Path, name: str, title: str, summary: Summary) -> BenchmarkSection:
    records = RecordFile(directory / f"{name}.jsonl").read()
    folder = directory / "charts"
    drawn = (
        by_length(title, records, folder / f"{name}_length.png"),
        by_budget(title, records, folder / f"{name}_budget.png"),
    )
    groups = by_item(records)
    items = [_item(task_id, group) for task_id, group in list(groups.items())[:ITEMS]]
    charts = [chart for chart in drawn if chart]
    return BenchmarkSection(name, title, summary, charts, items, len(groups) - len(items))


def _item(name: str, group: Sequence[Record]) -> ItemSection:
    first = group[0]
    others = [r for r in group if (r.value >= 1) != (first.value >= 1)]
    replies = [first, *others[:1]]  # a right and a wrong one, where there are both
    share = sum(r.value for r in group) / len(group)
    return ItemSection(
        name, first.status, share, len(group), _question(first.messages), replies
    )


def _question(messages: Sequence[Message]) -> str:
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _shown(text: str | None) -> str:
    """Text with its control characters visible, cut in the middle where it is long."""
    text = (text or "").strip("\n")
    if len(text) > CHARACTERS:
        half = CHARACTERS // 2
        text = (
            f"{text[:half]}\n\n[… {len(text) - 2 * half:,} characters …]\n\n{text[-half:]}"
        )
    return visible(text)

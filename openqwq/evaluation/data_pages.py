"""The data report for readers: on the terminal, as one HTML page, and as JSON."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import jinja2
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from openqwq.data.files import write_atomically
from openqwq.evaluation.data_report import DataReport, PromptPart, StageFit, TableReport
from openqwq.evaluation.visible import visible

BARS = 10  # of a histogram
BAR_WIDTH = 30  # characters
LISTED = 5  # failures, skipped rows and the like, on the terminal


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar of a histogram: how many lengths lie from `low` up to and without `high`."""

    low: int
    high: int
    count: int


def histogram(lengths: Sequence[int]) -> list[Bar]:
    """Bars of one round width (1, 2 or 5 times a power of ten) over all lengths."""
    if not lengths:
        return []
    span = max(lengths) - min(lengths) + 1
    power = 10 ** math.floor(math.log10(max(1.0, span / BARS)))
    width = next(w for w in (power, 2 * power, 5 * power, 10 * power) if w * BARS >= span)
    first = min(lengths) // width * width
    bars: list[Bar] = []
    for low in range(first, max(lengths) + 1, width):
        count = sum(low <= length < low + width for length in lengths)
        bars.append(Bar(low, low + width, count))
    return bars


def to_json(report: DataReport) -> str:
    """The whole report as JSON."""
    return json.dumps(dataclasses.asdict(report), ensure_ascii=False, indent=1)


def write_page(report: DataReport, path: Path) -> None:
    """Write the report as one HTML file that needs nothing else."""
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"histogram": histogram, "problems": problems}
    environment.filters["visible"] = visible
    page = environment.get_template("data_report.html.jinja").render(report=report)
    write_atomically(path, page.encode())


def print_report(report: DataReport) -> None:
    """Print the report on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    for table in report.tables:
        _print_table(console, table)
    console.print(
        f"context: {report.context} tokens; tokenizer: {escape(report.tokenizer)}"
    )
    console.print(f"benchmarks: {escape(report.benchmarks)}")


def problems(table: TableReport) -> list[str]:
    """What ought to be looked at before training, in words."""
    found: list[str] = []
    golds = table.golds
    if golds.failures:
        found.append(
            f"{len(golds.failures)} of {golds.judged} golds fail with their own verifier"
        )
    found += [fit.fault for fit in table.fits if fit.too_long]
    if table.rows.skipped:
        found.append(f"rows that cannot be used: {len(table.rows.skipped)}")
    if table.duplicates:
        found.append(f"rows that ask what another row asks: {len(table.duplicates)}")
    if table.overlaps:
        found.append(f"rows that share text with benchmark items: {len(table.overlaps)}")
    return found


def _print_table(console: Console, table: TableReport) -> None:
    console.rule(f"[bold]{escape(table.name)}[/]", align="left")
    rows = table.rows
    train = "new ones without end"
    if rows.train is not None:
        train = f"{rows.train}, {100 * rows.used_share:.0f}% of the rows"
    verifiers = ", ".join(
        f"{name or 'none'} {count}" for name, count in table.verifiers.items()
    )
    lines = [
        f"origin      {table.origin}",
        f"to train on {train}",
        f"held out    {rows.held_out}",
        f"verifier    {verifiers}",
    ]
    if table.environment:
        lines.append(f"environment {table.environment}")
    if rows.pairs:
        lines.append(f"pairs       {rows.pairs}")
    if rows.beyond_limit:
        lines.append(f"left out    {rows.beyond_limit} rows by limit")
    lines += [_fit_line(fit) for fit in table.fits]
    golds = table.golds
    if golds.judged:
        lines.append(
            f"golds       {golds.correct} of {golds.judged} are right to their verifier"
        )
    console.print("\n".join(lines), markup=False)

    for fault in problems(table):
        console.print(f"[bold yellow]![/] {escape(fault)}")
    _print_list(
        console, [f"{f.task} {f.gold}: {f.status} {f.detail}" for f in golds.failures]
    )
    _print_list(console, rows.skipped)
    _print_list(console, table.duplicates)
    overlaps = table.overlaps
    _print_list(
        console, [f"row {o.row}: {o.share:.0%} of {o.item}: {o.words}" for o in overlaps]
    )

    _print_histogram(console, "tokens of prompts", table.prompt_tokens)
    _print_histogram(console, "tokens of prompts with their replies", table.example_tokens)
    for prompt in table.prompts:
        wanted = f"  wanted: {visible(prompt.wanted)}" if prompt.wanted else ""
        console.print(f"\n[bold]{escape(prompt.task)}[/]{escape(wanted)}")
        console.print(_as_text(prompt.pieces))
        if prompt.reply:
            console.print("[bold]the reply that SFT teaches[/]")
            console.print(_as_text(prompt.reply))
    console.print()


def _as_text(pieces: Sequence[PromptPart]) -> Text:
    text = Text()
    for piece in pieces:
        text.append(visible(piece.text), "reverse" if piece.special else "")
    return text


def _fit_line(fit: StageFit) -> str:
    passes = "" if fit.passes is None else f", {fit.passes:.2g} passes over the rows"
    return f"in {fit.stage:8} longest {fit.measured} {fit.longest} of {fit.limit} tokens{passes}"


def _print_list(console: Console, items: Sequence[str]) -> None:
    for item in items[:LISTED]:
        console.print(f"  {visible(item)}", markup=False)
    if len(items) > LISTED:
        console.print(f"  and {len(items) - LISTED} more (--json lists all)", markup=False)


def _print_histogram(console: Console, title: str, lengths: Sequence[int]) -> None:
    bars = histogram(lengths)
    if not bars:
        return
    console.print(f"\n{title}")
    most = max(bar.count for bar in bars)
    for bar in bars:
        full = "█" * math.ceil(BAR_WIDTH * bar.count / most)
        console.print(f"  {bar.low:>6}–{bar.high - 1:<6} {full} {bar.count}", markup=False)

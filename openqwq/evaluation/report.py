"""The report of a run: what its log and its evaluations say, as one HTML file and PNG charts."""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.table import Table

from openqwq import __version__
from openqwq.config import RlStage, Stage
from openqwq.evaluation.comparison import (
    SummaryRow,
    shortest_fixed,
    shown_problems,
    summary_table,
)
from openqwq.evaluation.evaluate import Accuracy
from openqwq.evaluation.plots import COLOURS, KIND_ROLES, Chart, IntervalRow, Plotter
from openqwq.evaluation.rl_charts import rl_charts
from openqwq.evaluation.run_data import Families, RunData, read_run
from openqwq.evaluation.story import first_sentence
from openqwq.evaluation.words import LANGUAGES, Words, read_words
from openqwq.types import OpenQwQError

NOTHING = math.nan, math.nan
# parts of an RL step, with their colours
SECONDS = {"rollout": "correct", "learn": "wrong"}
IN_RL_STEPS = "in RL steps: "
EVALUATE = "evaluate "  # begins the name of a timed evaluation
CONTROL_PICTURES = {i: 0x2400 + i for i in range(32) if chr(i) not in "\n\t"} | {
    127: 0x2421
}


@dataclass(frozen=True)
class StageSection:
    """A stage's part of the page."""

    stage: Stage
    done: int  # steps
    charts: Sequence[Chart]
    reward_model: Mapping[str, Any] | None


def print_summary(run_directory: Path, families: Families) -> None:
    """Print the summary table on standard output."""
    run = read_run(run_directory)
    table = Table(box=None, padding=(0, 1, 0, 0))  # within 80 columns
    names = list(run.checkpoints)
    for column in ("pass@1, %", *names, *["points"] * (len(names) - 1), "thinking"):
        table.add_column(column, justify="right" if table.columns else "left", no_wrap=True)
    for row in summary_table(run, families):
        name = row.name if row.is_family else f"  {row.name}"
        rates = [_rate(side) for side in row.sides]
        gains = [_number(gain, "+.1f") for gain, _ in row.gains]
        lengths = [_thinking(side) for side in row.sides]
        table.add_row(name, *rates, *gains, " → ".join(lengths))
    console = Console()
    console.print(table)
    console.print("pass@1 on held-out problems, ± half a 95% interval; thinking in tokens")


def write_report(run_directory: Path, families: Families, language: str = "en") -> Path:
    """Write the report of a run, finished or not, and its plots/*.png; returns the page.

    There is a page for each language, with a link to the others: report.html in English, and
    report.zh.html. The one in `language` is returned. `families` groups kinds: {"arithmetic":
    ["addition", ...]}. Raises OpenQwQError if there is nothing to report, or no way to write it.
    """
    run = read_run(run_directory)
    try:
        (run_directory / "plots").mkdir(exist_ok=True)
        contents = _contents(run, families)
        for words in map(read_words, LANGUAGES):
            page = _template().render(**contents, **_said(run, words))
            path = run_directory / page_name(words.language)
            # A model can say half of a surrogate pair, which no UTF-8 file holds: "?" stands
            # for it.
            path.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise OpenQwQError(
            f"cannot write the report of {run_directory}: {error}; free space or change its rights"
        ) from error
    return run_directory / page_name(language)


def page_name(language: str) -> str:
    """The file of a report in a language, within a run directory."""
    return "report.html" if language == "en" else f"report.{language}.html"


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.filters["number"] = _number
    environment.filters["rate"] = _rate
    environment.filters["known"] = _known
    environment.filters["visible"] = lambda text: text.translate(CONTROL_PICTURES)
    return environment.get_template("report.html.jinja")


def _contents(run: RunData, families: Families) -> dict[str, Any]:
    """What the template says of a run."""
    rows = summary_table(run, families)
    kinds = run.kinds(families)
    roles = dict(zip(kinds, itertools.cycle(KIND_ROLES)))  # colours of kinds
    problems = {kind: shown_problems(run, kind) for kind in kinds}
    return {
        "run": run,
        "rows": rows,
        "sections": _sections(run, roles),
        "colours": COLOURS,
        "roles": roles,
        "charts": _charts(run, rows, roles),
        "problems": problems,
        "example": shortest_fixed(problems),
        "own_names": {
            *kinds,
            *run.config.data,
            *(stage.name for stage in run.config.stages),
        },
        "times": _times(run),
        "digest": hashlib.sha256(run.config_text.encode()).hexdigest()[:12],
        "parameters": _parameters(run.directory, run.checkpoints),
        "version": __version__,
    }


def _said(run: RunData, words: Words) -> dict[str, Any]:
    """What the template says in one language alone."""
    others: list[tuple[Words, str]] = []
    for language in LANGUAGES:
        if language != words.language:
            others.append((read_words(language), page_name(language)))
    return {
        "words": words,
        "others": others,
        "lead": first_sentence(run.config, run.checkpoints, run.outcomes, words),
        "time_of": partial(_time_of, words=words),
        "duration": partial(_duration, words=words),
    }


def _charts(
    run: RunData, rows: Sequence[SummaryRow], roles: Mapping[str, str]
) -> dict[str, list[Chart]]:
    """The charts of the whole run, without those that have no data."""
    plotter = Plotter(run.directory / "plots")
    accuracy: list[IntervalRow] = []
    thinking: list[IntervalRow] = []
    for row in rows:
        role = roles.get(row.name, "ink")
        rates: list[tuple[float, float]] = []
        lengths: list[tuple[float, float]] = []
        for side in row.sides:
            rates.append((100 * side.pass_at_1, 100 * side.half_width) if side else NOTHING)
            lengths.append((side.thinking_tokens, math.nan) if side else NOTHING)
        accuracy.append(IntervalRow(row.name, role, row.is_family, rates))
        thinking.append(IntervalRow(row.name, role, row.is_family, lengths))
    names = list(run.checkpoints)
    seconds = [{"step": record["step"], **record["seconds"]} for record in run.rl_records]
    return {
        "evaluation": [
            *plotter.intervals(
                "accuracy", "Held-out pass@1", "pass@1, %", accuracy, names, 100
            ),
            *plotter.intervals(
                "held_out_thinking", "Held-out thinking", "tokens", thinking, names
            ),
        ],
        "time": plotter.curves(
            "seconds", "Time of an RL step", "seconds", seconds, SECONDS
        ),
    }


def _sections(run: RunData, roles: Mapping[str, str]) -> list[StageSection]:
    """One section for each stage of the run, in their order."""
    plotter = Plotter(run.directory / "plots")
    sections: list[StageSection] = []
    for stage in run.config.stages:
        name = stage.name
        rated = run.reward_models.get(name)
        if isinstance(stage, RlStage):
            records = run.steps(name, "seconds")
            charts = rl_charts(plotter, records, roles, f"{name}_")
        elif stage.kind == "distill":
            records = run.steps(name, "reverse_kl")
            charts = _distillation_charts(plotter, name, records)
        elif rated is not None:
            records = run.log_lines(name)
            charts = _reward_model_charts(plotter, name, rated)
        else:
            records = run.steps(name, "cross_entropy")
            charts = _supervised_charts(plotter, name, records)
        done = max((record["step"] + 1 for record in records), default=0)
        sections.append(StageSection(stage, done, charts, rated))
    return sections


def _supervised_charts(
    plotter: Plotter, name: str, records: Sequence[dict[str, Any]]
) -> list[Chart]:
    loss = {"cross_entropy": "ink"}
    rate = {"lr": "ink"}
    return [
        *plotter.curves(f"{name}_loss", "Loss", "nats/token", records, loss, log=True),
        *plotter.curves(
            f"{name}_rate", "Learning rate", "rate", records, rate, average=False
        ),
    ]


def _reward_model_charts(
    plotter: Plotter, name: str, rated: Mapping[str, Any]
) -> list[Chart]:
    fit = [{"step": step, **record} for step, record in enumerate(rated["log"])]
    return [
        *plotter.calibration(rated["held_out"]["bins"]),
        *plotter.curves(f"{name}_loss", "Loss", "nats/pair", fit, {"loss": "ink"}),
    ]


def _distillation_charts(
    plotter: Plotter, name: str, records: Sequence[dict[str, Any]]
) -> list[Chart]:
    divergence = {"reverse_kl": "ink"}
    rate = {"lr": "ink"}
    return [
        *plotter.curves(
            f"{name}_kl", "Distance to the teacher", "nats/token", records, divergence
        ),
        *plotter.curves(
            f"{name}_rate", "Learning rate", "rate", records, rate, average=False
        ),
    ]


def _times(run: RunData) -> dict[str, float]:
    """Seconds of each timed part: a resumed run timed some more than once."""
    times: dict[str, float] = {}
    for record in run.log_lines("timing"):
        times[record["name"]] = times.get(record["name"], 0.0) + record["seconds"]
    times["total"] = sum(times.values())
    steps = run.rl_records
    if steps:
        for part in SECONDS:
            times[IN_RL_STEPS + part] = sum(step["seconds"][part] for step in steps)
    return times


def _time_of(name: str, words: Words) -> str:
    """A timed part of a run in words."""
    if name == "total":
        return words.say("total")
    if name.startswith(IN_RL_STEPS):
        part = name.removeprefix(IN_RL_STEPS)
        return words.say("in_rl_steps", part=words["drawn"].get(part, part))
    if name.startswith(EVALUATE):
        return words.say("evaluate", name=name.removeprefix(EVALUATE))
    return name


def _parameters(directory: Path, names: Sequence[str]) -> int | None:
    """Size of the newest saved checkpoint, from the headers of its safetensors files."""
    for name in reversed(names):
        files = sorted((directory / name).glob("*.safetensors"))
        if files:
            return sum(_size(file) for file in files)
    return None


def _size(file: Path) -> int:
    """How many numbers a safetensors file holds, by its header."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(min(length, 100_000_000))  # the format's own limit
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        return sum(math.prod(tensor["shape"]) for tensor in tensors.values())
    except ValueError as error:
        raise OpenQwQError(
            f"checkpoint {file} is damaged ({error}): train it again"
        ) from error


def _number(value: float, form: str = ".1f") -> str:
    return f"{value:{form}}".replace("-", "−") if math.isfinite(value) else "–"


def _thinking(side: Accuracy | None) -> str:
    """Mean tokens of thinking."""
    if side is None:
        return "–"
    return _number(side.thinking_tokens, ".0f")


def _rate(side: Accuracy | None) -> str:
    """pass@1 with its half-width, in percent."""
    if side is None or math.isnan(side.pass_at_1):
        return "–"
    return f"{100 * side.pass_at_1:.1f} ± {_number(100 * side.half_width)}"


def _known(value: float | None, form: str, scale: float = 1.0) -> str:
    """A number that a report may lack."""
    return "–" if value is None else _number(scale * value, form)


def _duration(seconds: float, words: Words) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes:
        return words.say("minutes", minutes=minutes, seconds=rest)
    return words.say("seconds", seconds=seconds)

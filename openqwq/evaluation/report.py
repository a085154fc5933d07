"""The report of a run: what its log and its evaluations say, as one HTML file and PNG charts."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import jinja2
from rich.console import Console
from rich.table import Table

from openqwq import __version__
from openqwq.config import Config, RlStage, Stage, load_config
from openqwq.evaluation import story
from openqwq.evaluation.evaluate import Accuracy, Outcome, accuracy
from openqwq.evaluation.plots import COLOURS, KIND_ROLES, Chart, Interval, Plotter, rl_charts
from openqwq.evaluation.visible import visible
from openqwq.types import OpenQwQError

Families = Mapping[str, Sequence[str]]
START = "start"  # the evaluation before the first stage
NOTHING = math.nan, math.nan
SECONDS = {"rollout": "correct", "learn": "wrong"}  # parts of an RL step, with their colours
SHOWN = 4  # problems of each kind


@dataclass(frozen=True)
class RunData:
    """Everything that a run directory says so far."""

    directory: Path
    config: Config
    config_text: str
    log: list[dict[str, Any]]
    unreadable: int  # log lines that a kill cut short
    outcomes: dict[str, list[Outcome]]  # by checkpoint
    reward_models: Mapping[str, Mapping[str, Any]]  # by stage: held-out pairs, and training log

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Those that the run has evaluated or will, in order: its start, then its policies."""
        policies = [stage.name for stage in self.config.stages if stage.kind != "reward_model"]
        return (START, *policies) if START in self.outcomes else tuple(policies)

    @property
    def rl_records(self) -> list[dict[str, Any]]:
        """The steps of every RL stage."""
        records: list[dict[str, Any]] = []
        for stage in self.config.stages:
            if isinstance(stage, RlStage):
                records += [r for r in self.records(stage.name) if "seconds" in r]
        return records

    def records(self, stage: str) -> list[dict[str, Any]]:
        """The log lines of a stage."""
        return [record for record in self.log if record["stage"] == stage]

    def kinds(self, families: Families) -> list[str]:
        """Every kind of problem seen, in the order of the families."""
        seen = {o.kind: None for outcomes in self.outcomes.values() for o in outcomes}
        for record in self.rl_records:
            seen |= dict.fromkeys(record["reward_by_kind"])
        order = [kind for members in families.values() for kind in members]
        return sorted(seen, key=lambda kind: [*order, kind].index(kind))

    def compared(self, kind: str) -> tuple[str, str]:
        """The checkpoints before and after the first RL stage that trains on this table."""
        names = list(self.checkpoints)
        for stage in self.config.stages:
            if isinstance(stage, RlStage) and kind in stage.data and stage.name in names[1:]:
                return names[names.index(stage.name) - 1], stage.name
        return names[0], names[-1]


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
class Section:
    """A stage's part of the page."""

    stage: Stage
    done: int  # steps
    charts: Sequence[Chart]
    reward_model: Mapping[str, Any] | None


@dataclass(frozen=True)
class Sample:
    """A problem's first completion at one checkpoint, and how many of its samples are right."""

    status: str
    thinking: str
    answer: str
    thinking_tokens: int
    right: int
    of: int


def read_run(directory: Path) -> RunData:
    """Read a run directory, finished or not; OpenQwQError if it has no data or damaged data."""
    path, log_path = directory / "config.toml", directory / "log.jsonl"
    if not path.exists():
        raise OpenQwQError(f"{directory} is no run directory (no config.toml): check the path")
    log, unreadable = [], 0
    for line in log_path.read_bytes().splitlines() if log_path.exists() else []:
        try:
            log.append(json.loads(line))
        except ValueError:
            unreadable += 1
    outcomes = {}
    config = load_config([path])
    for name in (START, *(stage.name for stage in config.stages)):
        saved = directory / "evaluation" / f"{name}.json"
        if saved.exists():
            try:
                entries = json.loads(saved.read_bytes())["outcomes"]
                outcomes[name] = [Outcome(**entry) for entry in entries]
            except (ValueError, KeyError, TypeError) as error:
                raise OpenQwQError(
                    f"evaluation {saved} is unreadable ({error!r}): remove it, then --resume"
                ) from error
    if not log and not outcomes:
        raise OpenQwQError(f"run {directory} has no data yet: go on with it first (--resume)")
    reward_models: dict[str, Any] = {}
    for stage in config.stages:
        rated = directory / f"{stage.name}.json"
        if stage.kind == "reward_model" and rated.exists():
            reward_models[stage.name] = json.loads(rated.read_bytes())
    return RunData(directory, config, path.read_text(), log, unreadable, outcomes, reward_models)


def print_summary(run_directory: Path, families: Families) -> None:
    """Print the summary table on standard output."""
    run = read_run(run_directory)
    table = Table(box=None, padding=(0, 1, 0, 0))  # within 80 columns
    names = list(run.checkpoints)
    for column in ("pass@1, %", *names, *["points"] * (len(names) - 1), "thinking"):
        table.add_column(column, justify="right" if table.columns else "left", no_wrap=True)
    for row in summary_table(run, families):
        table.add_row(
            row.name if row.is_family else f"  {row.name}",
            *(_rate(side) for side in row.sides),
            *(_number(gain, "+.1f") for gain, _ in row.gains),
            " → ".join(_number(side.thinking_tokens, ".0f") if side else "–" for side in row.sides),
        )
    console = Console()
    console.print(table)
    console.print("pass@1 on held-out problems, ± half a 95% interval; thinking in tokens")


def write_report(run_directory: Path, families: Families) -> Path:
    """Write report.html and plots/*.png into a run directory, finished or not; returns the page.

    `families` groups kinds: {"arithmetic": ["addition", ...]}. Raises OpenQwQError if there is
    nothing to report, or no way to write it.
    """
    run, path = read_run(run_directory), run_directory / "report.html"
    rows = summary_table(run, families)
    samples = {kind: (run.compared(kind), _samples(run, kind)) for kind in run.kinds(families)}
    roles = dict(zip(run.kinds(families), itertools.cycle(KIND_ROLES)))  # colours of kinds
    loader, undefined = jinja2.FileSystemLoader(Path(__file__).parent), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, undefined=undefined, trim_blocks=True, lstrip_blocks=True, autoescape=True
    )
    environment.filters |= {"number": _number, "rate": _rate, "duration": _duration}
    environment.filters["visible"] = visible
    try:
        (run_directory / "plots").mkdir(exist_ok=True)
        html = environment.get_template("report.html.jinja").render(
            run=run,
            rows=rows,
            sections=_sections(run, roles),
            colours=COLOURS,
            roles=roles,
            charts=_charts(run, rows, roles),
            samples=samples,
            lead=story.first_sentence(run.config, run.checkpoints, run.outcomes),
            example=_example(samples),
            charts_explained=story.CHARTS_EXPLAINED,
            stage_kinds=story.STAGE_KINDS,
            stages_explained=story.STAGES_EXPLAINED,
            times=_times(run),
            digest=hashlib.sha256(run.config_text.encode()).hexdigest()[:12],
            parameters=_parameters(run_directory, run.checkpoints),
            version=__version__,
        )
        # A model can say half of a surrogate pair, which no UTF-8 file holds: "?" stands for it.
        path.write_text(html, encoding="utf-8", errors="replace")
    except OSError as error:
        raise OpenQwQError(
            f"cannot write the report of {run_directory}: {error}; free space or change its rights"
        ) from error
    return path


def summary_table(run: RunData, families: Families) -> list[SummaryRow]:
    """A row for each family, its kinds after it, then kinds of no family; [] if not evaluated."""
    kinds = run.kinds(families) if run.outcomes else []
    groups = {name: [k for k in kinds if k in members] for name, members in families.items()}
    grouped = {kind for members in groups.values() for kind in members}
    rows = []
    for name, members in (groups | {k: [k] for k in kinds if k not in grouped}).items():
        if members:
            rows.append(_row(run, name, members, True))
        if len(members) > 1:
            rows += [_row(run, kind, [kind], False) for kind in members]
    return rows


def _row(run: RunData, name: str, kinds: Sequence[str], is_family: bool) -> SummaryRow:
    sides = [
        [o for o in run.outcomes.get(checkpoint, []) if o.kind in kinds]
        for checkpoint in run.checkpoints
    ]
    return SummaryRow(
        name,
        is_family,
        tuple(accuracy(side) if side else None for side in sides),
        tuple(_gain(before, after) for before, after in pairwise(sides)),
    )


def _gain(before: Sequence[Outcome], after: Sequence[Outcome]) -> tuple[float, float]:
    old, new = (_by_problem(o for o in side if o.status != "error") for side in (before, after))
    gains = [100 * (_mean_value(new[task]) - _mean_value(old[task])) for task in old if task in new]
    spread = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    return mean(gains) if gains else math.nan, 1.96 * spread


def _by_problem(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    problems: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        problems.setdefault(outcome.task_id, []).append(outcome)
    return problems


def _mean_value(outcomes: Sequence[Outcome]) -> float:
    return mean(outcome.value for outcome in outcomes)


def _samples(run: RunData, kind: str) -> list[tuple[str, list[Sample | None]]]:
    """Questions, each before and after: problems that RL put right, then one still wrong."""
    old, new = sides = [
        _by_problem(o for o in run.outcomes.get(checkpoint, []) if o.kind == kind)
        for checkpoint in run.compared(kind)
    ]
    right = [{task for task in side if side[task][0].status == "correct"} for side in sides]
    fixed = [task for task in old if task in right[1] - right[0]]
    fixed.sort(key=lambda task: _mean_value(old[task]) - _mean_value(new[task]))
    chosen = fixed[: SHOWN - 1] + [task for task in new if task not in right[1]][:1]
    chosen += [task for task in old | new if task not in chosen][: SHOWN - len(chosen)]
    return [
        ((old | new)[t][0].question, [_sample(side.get(t, [])) for side in sides]) for t in chosen
    ]


def _example(samples: Mapping[str, Any]) -> tuple[str, tuple[str, str], Sequence[Sample]] | None:
    """The shortest problem among the samples that was wrong before and is right after."""
    found = []
    for compared, problems in samples.values():
        for question, (before, after) in problems:
            if before and after and after.status == "correct" != before.status:
                length = sum(len(side.thinking + side.answer) for side in (before, after))
                found.append((length, question, compared, (before, after)))
    if not found:
        return None
    _, question, compared, sides = min(found, key=lambda each: each[0])
    return question, compared, sides


def _sample(outcomes: Sequence[Outcome]) -> Sample | None:
    if not outcomes:
        return None
    first, right = outcomes[0], sum(o.status == "correct" for o in outcomes)
    thinking, _, answer = first.completion.partition("</think>")
    texts = thinking.strip("\n"), answer.strip("\n")
    return Sample(first.status, *texts, first.thinking_tokens, right, len(outcomes))


def _charts(
    run: RunData, rows: Sequence[SummaryRow], roles: Mapping[str, str]
) -> dict[str, list[Chart]]:
    """The charts of the whole run, without those that have no data."""
    plotter = Plotter(run.directory / "plots")
    seconds = [{"step": r["step"], **r["seconds"]} for r in run.rl_records]
    accuracy, thinking = [], []
    for row in rows:
        look = row.name, roles.get(row.name, "ink"), row.is_family
        rates = [(100 * s.pass_at_1, 100 * s.half_width) if s else NOTHING for s in row.sides]
        accuracy.append(Interval(*look, rates))
        lengths = [(s.thinking_tokens, math.nan) if s else NOTHING for s in row.sides]
        thinking.append(Interval(*look, lengths))
    names = list(run.checkpoints)
    return {
        "evaluation": [
            *plotter.intervals("accuracy", "Held-out pass@1", "pass@1, %", accuracy, names, 100),
            *plotter.intervals("held_out_thinking", "Held-out thinking", "tokens", thinking, names),
        ],
        "time": plotter.curves("seconds", "Time of an RL step", "seconds", seconds, SECONDS),
    }


def _sections(run: RunData, roles: Mapping[str, str]) -> list[Section]:
    """One section for each stage of the run, in their order."""
    plotter = Plotter(run.directory / "plots")
    sections: list[Section] = []
    for stage in run.config.stages:
        records = run.records(stage.name)
        rated = run.reward_models.get(stage.name)
        if isinstance(stage, RlStage):
            steps = [r for r in records if "seconds" in r]
            charts = rl_charts(plotter, steps, roles, f"{stage.name}_")
        elif rated is not None:
            fit = [{"step": i, **r} for i, r in enumerate(rated["log"])]
            charts = [
                *plotter.calibration(rated["held_out"]["bins"]),
                *plotter.curves(f"{stage.name}_loss", "Loss", "nats/pair", fit, {"loss": "ink"}),
            ]
        else:
            loss = {"cross_entropy": "ink"}
            rate = {"lr": "ink"}
            records = [r for r in records if "cross_entropy" in r]
            charts = [
                *plotter.curves(
                    f"{stage.name}_loss", "Loss", "nats/token", records, loss, log=True
                ),
                *plotter.curves(
                    f"{stage.name}_rate", "Learning rate", "rate", records, rate, average=False
                ),
            ]
        done = max((r["step"] + 1 for r in records), default=0)
        sections.append(Section(stage, done, charts, rated))
    return sections


def _times(run: RunData) -> dict[str, float]:
    """Seconds of each timed part: a resumed run timed some more than once."""
    times: dict[str, float] = {}
    for record in run.records("timing"):
        times[record["name"]] = times.get(record["name"], 0.0) + record["seconds"]
    times["total"] = sum(times.values())
    if rl := run.rl_records:
        for part in SECONDS:
            times[f"in RL steps: {part}"] = sum(record["seconds"][part] for record in rl)
    return times


def _parameters(directory: Path, names: Sequence[str]) -> int | None:
    """Size of the newest saved checkpoint, from the headers of its safetensors files."""
    for name in reversed(names):
        if files := sorted((directory / name).glob("*.safetensors")):
            return sum(math.prod(shape) for file in files for shape in _shapes(file))
    return None


def _shapes(file: Path) -> list[list[int]]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(min(length, 100_000_000))  # the format's own limit
    try:
        return [v["shape"] for k, v in json.loads(header).items() if k != "__metadata__"]
    except ValueError as error:
        raise OpenQwQError(f"checkpoint {file} is damaged ({error}): train it again") from error


def _number(value: float, form: str = ".1f") -> str:
    return f"{value:{form}}".replace("-", "−") if math.isfinite(value) else "–"


def _rate(side: Accuracy | None) -> str:
    """pass@1 with its half-width, in percent."""
    if side is None or math.isnan(side.pass_at_1):
        return "–"
    return f"{100 * side.pass_at_1:.1f} ± {_number(100 * side.half_width)}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"

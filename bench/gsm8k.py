"""GSM8K by RL on a 0.5B model with two cores: what it gains, in format and in reasoning.

    python bench/qwen_gguf.py qwen.gguf                          the model, once
    python bench/gsm8k.py DIR --model qwen.gguf                  the run, a control, two half runs
    python bench/gsm8k.py DIR --model qwen.gguf --only full      one of full, control, seed1, seed2
    python bench/gsm8k.py DIR --report                           the figures of what is there

The prompts are training problems with up to three calculations: the untrained model solves one in
four of these, and one in twenty of the others. It first answers 600 of them once at temperature
0.4; every run imitates the right answers and goes on by RL at temperature 1. Everything continues
by the same command after Ctrl-C or a kill. `--rows` and `--held-out` name local files in place of
the hub's. Held-out problems (400, of all lengths) are asked once each at temperature 1: at the
start, after imitation and after RL; the interval of a difference is a paired bootstrap. `control`
shuffles the rewards. The figures go to bench/results/gsm8k.json, the curves to
docs/images/gsm8k.png.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from trainings import IMAGES, run_qwq, save, saved_outcomes, seconds, train

from openqwq.config import dump_config, find_config, load_config
from openqwq.data.files import open_atomically
from openqwq.data.hub import fetch, parse_reference
from openqwq.data.rows import read_rows
from openqwq.evaluation.evaluate import Outcome
from openqwq.evaluation.plots import moving_average
from openqwq.evaluation.statistics import compare, mean_interval
from openqwq.model.precision import has_bf16
from openqwq.verify.boxes import last_box

STEPS = 16
MOST_CALCULATIONS = 3
ASKED = 600  # problems, for answers to imitate
POLICIES = ("start", "imitate", "rl")
REACH = 2  # steps to either side that a point of the curves is averaged with


@dataclass(frozen=True)
class Kind:
    """One of the runs, and how its curve is drawn."""

    label: str
    colour: str
    seed: int
    steps: int
    shuffled: bool = False


RUNS = {
    "full": Kind("RL, seed 0", "#c44e52", 0, STEPS),
    "control": Kind("shuffled rewards", "#888888", 0, STEPS // 2, shuffled=True),
    "seed1": Kind("RL, seed 1", "#3b6fb6", 1, STEPS // 2),
    "seed2": Kind("RL, seed 2", "#55a868", 2, STEPS // 2),
}


def easy_rows(options: argparse.Namespace) -> Path:
    """The training problems with few calculations, which are marked <<1+1=2>> in the solutions."""
    folder: Path = options.folder
    path = folder / "easy.jsonl"
    if path.exists():
        return path
    table = load_config([find_config("gsm8k")]).data["gsm8k"]
    rows = options.rows or fetch(parse_reference(table.rows))
    with open_atomically(path) as file:
        for row in read_rows(rows):
            line = json.dumps(row)
            if 1 <= line.count("<<") <= MOST_CALCULATIONS:
                file.write(line.encode() + b"\n")
    return path


def collect(options: argparse.Namespace) -> None:
    """Ask the untrained model, and keep its right answers; what was begun goes on."""
    asked = load_config([find_config("gsm8k")], data_settings(options))
    table = options.folder / "gsm8k.toml"
    table.write_text(dump_config(asked))
    precision = "bf16" if has_bf16() else "fp32"
    arguments = ["collect", str(options.model), "--data", f"{table}:gsm8k"]
    arguments += ["--engine", "torch", "--precision", precision]
    arguments += ["--limit", str(ASKED), "--samples", "1", "--keep", "all"]
    arguments += ["--temperature", "0.4", "--top-p", "1", "--max-tokens", "320"]
    arguments += ["--concurrency", "64", "--out", str(traces_of(options)), "--resume"]
    run_qwq(arguments)


def traces_of(options: argparse.Namespace) -> Path:
    """Where the answers to imitate are."""
    folder: Path = options.folder
    return folder / "traces.jsonl"


def data_settings(options: argparse.Namespace) -> list[str]:
    """The overrides that say what is asked."""
    chosen = [f"model={options.model}", f"data.gsm8k.rows={easy_rows(options).absolute()}"]
    if options.held_out:
        chosen.append(f"data.gsm8k.held_out={options.held_out.absolute()}")
    return chosen


def settings(options: argparse.Namespace, name: str) -> list[str]:
    """The overrides of one run."""
    kind = RUNS[name]
    return [
        *data_settings(options),
        f"data.traces.rows={traces_of(options).absolute()}",
        f"seed={kind.seed}",
        f"stages.rl.steps={options.steps or kind.steps}",
        f"stages.rl.shuffle_rewards={str(kind.shuffled).lower()}",
        *options.overrides,
    ]


def split(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Accuracy and what it is made of: cut off, without a box, right among those with one."""
    right = [float(o.status == "correct") for o in outcomes]
    interval = mean_interval(right)
    cut = sum(o.status == "truncated" for o in outcomes)
    finished = [o for o in outcomes if o.status != "truncated"]
    boxed = [o for o in finished if last_box(o.completion) is not None]
    return {
        "problems": len(outcomes),
        "accuracy": round(interval.value, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "cut_off": round(cut / len(outcomes), 4),
        "finished_without_box": round((len(finished) - len(boxed)) / len(outcomes), 4),
        "accuracy_of_boxed": round(fmean([o.status == "correct" for o in boxed] or [0]), 4),
    }


def curve(run: Path) -> list[dict[str, Any]]:
    """What each step saw: accuracy of its samples, their length, the share cut off, seconds."""
    points: list[dict[str, Any]] = []
    for line in (run / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["stage"] != "rl" or "accuracy" not in record:
            continue
        status = Counter(record["status"])
        points.append(
            {
                "step": record["step"],
                "accuracy": round(record["accuracy"], 4),
                "completion_tokens": round(record["completion_tokens"], 1),
                "cut_off": round(status["truncated"] / status.total(), 4),
                "seconds": {
                    part: round(value, 1) for part, value in record["seconds"].items()
                },
            }
        )
    return points


def figures(run: Path) -> dict[str, Any]:
    """At the start and after each stage, and what that changed, as far as the run has come."""
    result: dict[str, Any] = {"curve": curve(run), "seconds": seconds(run)}
    asked: dict[str, list[Outcome]] = {}
    for name in POLICIES:
        if (run / "evaluation" / f"{name}.json").exists():
            asked[name] = saved_outcomes(run, name)
            result[name] = split(asked[name])
    for earlier, later in (("start", "imitate"), ("imitate", "rl"), ("start", "rl")):
        if earlier in asked and later in asked:
            result[f"{earlier} to {later}"] = change(asked[earlier], asked[later])
    return result


def change(before: Sequence[Outcome], after: Sequence[Outcome]) -> dict[str, float]:
    """The difference in accuracy on the same problems, with its interval."""
    found = compare(
        {o.task_id: float(o.status == "correct") for o in before},
        {o.task_id: float(o.status == "correct") for o in after},
    )
    return {
        "value": round(found.difference.value, 4),
        "low": round(found.difference.low, 4),
        "high": round(found.difference.high, 4),
        "p_value": round(found.p_value, 5),
    }


def draw(runs: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Samples by RL steps, held-out problems as dots, and the untrained model as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    accuracy, cut_off = figure.subplots(1, 2)
    for name, run in runs.items():
        colour = RUNS[name].colour
        steps = [point["step"] + 1 for point in run["curve"]]
        right = moving_average([point["accuracy"] for point in run["curve"]], REACH)
        cut = moving_average([point["cut_off"] for point in run["curve"]], REACH)
        accuracy.plot(steps, right, color=colour, label=RUNS[name].label)
        cut_off.plot(steps, cut, color=colour)
        if "rl" in run:
            for axes, key in ((accuracy, "accuracy"), (cut_off, "cut_off")):
                ends = [run["imitate"][key], run["rl"][key]]
                axes.plot([0, len(steps)], ends, "o", color=colour)
                axes.axhline(run["start"][key], color="black", linestyle="--")
    accuracy.set_ylabel("accuracy; dots: held-out problems")
    cut_off.set_ylabel("share cut off at the limit")
    for axes in (accuracy, cut_off):
        axes.set_xlabel("RL steps")
        axes.set_ylim(0)
    accuracy.legend(loc="upper left")
    figure.savefig(path, dpi=150)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, help="the GGUF file")
    parser.add_argument(
        "--rows", type=Path, help="GSM8K's training rows, where not from the hub"
    )
    parser.add_argument("--held-out", type=Path, help="its test rows")
    parser.add_argument("--only", choices=RUNS)
    parser.add_argument("--steps", type=int, help="in place of each run's own")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    if not options.report:
        options.folder.mkdir(parents=True, exist_ok=True)
        collect(options)
        for name in [options.only] if options.only else RUNS:
            train(["gsm8k"], options.folder / name, settings(options, name))

    present = [name for name in RUNS if (options.folder / name / "log.jsonl").exists()]
    runs = {name: figures(options.folder / name) for name in present}
    for name, found in runs.items():
        print(f"{name}: {len(found['curve'])} RL steps")
        for part, value in found.items():
            if part not in ("curve", "seconds"):
                print(f"  {part:<17}{value}")
    save("gsm8k", {"runs": runs})
    draw(runs, IMAGES / "gsm8k.png")


if __name__ == "__main__":
    main()

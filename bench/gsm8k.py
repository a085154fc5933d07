"""GSM8K by RL on a 0.5B model with two cores: what it gains, in format and in reasoning.

    python bench/qwen_gguf.py qwen.gguf                          the model, once
    python bench/gsm8k.py DIR --model qwen.gguf                  the run, two controls, two halves
    python bench/gsm8k.py DIR --model qwen.gguf --only full      one of the five
    python bench/gsm8k.py DIR --report                           the figures of what is there

The prompts are training problems with up to three calculations: the untrained model solves one in
four of these, and one in twenty of the others. It first answers 1,500 of them once at temperature
0.4; `full` imitates the right answers and goes on by RL at temperature 1. `seed1` and `seed2`
imitate one half of the answers each, and do half of the RL. There are two controls: `control` is
`full` with shuffled rewards in RL, and half of it; `unjudged` is `seed1` with shuffled rewards, and
it imitates as many answers, right or wrong. Everything continues by the same command after Ctrl-C
or a kill. `--rows` and `--held-out` name local files in place of the hub's.

Held-out problems (400, of all lengths) are asked once each at temperature 1, after each run's last
stage; in `full` at the start and after imitation too, which the others are compared with. The
interval of a difference is a paired bootstrap. The figures go to bench/results/gsm8k.json, the
curves to docs/images/gsm8k.png.
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from trainings import IMAGES, run_qwq, save, saved_outcomes, seconds, train

from openqwq.config import dump_config, find_config, load_config
from openqwq.data.files import open_atomically, write_atomically
from openqwq.data.hub import fetch, parse_reference
from openqwq.data.rows import read_rows
from openqwq.evaluation.evaluate import Outcome
from openqwq.evaluation.statistics import compare, mean_interval
from openqwq.model.precision import has_bf16
from openqwq.verify.boxes import last_box

STEPS = 8
MOST_CALCULATIONS = 3
ASKED = 1500  # problems, for answers to imitate
COLLECTED = "collected.json"
POLICIES = ("start", "imitate", "rl")

# What a reply came to, its colour, and its share of all replies.
PARTS: Sequence[tuple[str, str, Callable[[Mapping[str, float]], float]]] = (
    ("right", "#55a868", lambda found: found["accuracy"]),
    ("wrong", "#c44e52", lambda found: 1 - found["accuracy"] - found["cut_off"]),
    ("cut off", "#aaaaaa", lambda found: found["cut_off"]),
)


@dataclass(frozen=True)
class Kind:
    """One of the runs, and how its curve is drawn."""

    label: str
    colour: str
    seed: int
    steps: int
    shuffled: bool = False
    half: int | None = None  # of the right answers, which it imitates; none: all of them
    unjudged: bool = False  # it imitates as many answers, but right or wrong ones


RUNS = {
    "full": Kind("seed 0", "#c44e52", 0, STEPS),
    "control": Kind("shuffled rewards", "#888888", 0, STEPS // 2, shuffled=True),
    "seed1": Kind("seed 1, half", "#3b6fb6", 1, STEPS // 2, half=0),
    "seed2": Kind("seed 2, half", "#55a868", 2, STEPS // 2, half=1),
    "unjudged": Kind(
        "seed 1, half, no verdicts",
        "#c4a000",
        1,
        STEPS // 2,
        shuffled=True,
        half=0,
        unjudged=True,
    ),
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
    progress = collected(options.folder)
    if progress["done"]:
        return
    asked = load_config([find_config("gsm8k")], data_settings(options))
    table = options.folder / "gsm8k.toml"
    table.write_text(dump_config(asked))
    precision = "bf16" if has_bf16() else "fp32"
    arguments = ["collect", str(options.model), "--data", f"{table}:gsm8k"]
    arguments += ["--engine", "torch", "--precision", precision]
    arguments += ["--limit", str(ASKED), "--samples", "1", "--keep", "all"]
    arguments += ["--temperature", "0.4", "--top-p", "1", "--max-tokens", "320"]
    arguments += ["--concurrency", "128", "--out", str(traces_of(options)), "--resume"]
    began = time.monotonic()
    try:
        run_qwq(arguments)
        progress["done"] = True
    finally:
        progress["seconds"] += time.monotonic() - began
        (options.folder / COLLECTED).write_text(json.dumps(progress))


def collected(folder: Path) -> dict[str, Any]:
    """Whether all answers are there, and the seconds that they took."""
    path = folder / COLLECTED
    if not path.exists():
        return {"done": False, "seconds": 0.0}
    progress: dict[str, Any] = json.loads(path.read_text())
    return progress


def traces_of(options: argparse.Namespace) -> Path:
    """Where the answers to imitate are."""
    folder: Path = options.folder
    return folder / "traces.jsonl"


def imitated(options: argparse.Namespace, name: str) -> Path:
    """The answers that one run imitates."""
    kind = RUNS[name]
    if kind.half is None:
        return traces_of(options)
    rows = traces_of(options).read_bytes().splitlines()[kind.half :: 2]
    if kind.unjudged:
        rows = drawn(options.folder / "traces.replies" / "gsm8k.jsonl", len(rows))
    path: Path = options.folder / f"traces-{name}.jsonl"
    write_atomically(path, b"\n".join(rows) + b"\n")
    return path


def drawn(replies: Path, count: int) -> list[bytes]:
    """So many of the replies that ended, whatever their verdict, as rows to imitate."""
    ended: list[bytes] = []
    for line in replies.read_bytes().splitlines():
        reply = json.loads(line)
        if reply["finish_reason"] == "stop":
            said = {"role": "assistant", "content": reply["answer"]}
            ended.append(json.dumps({"messages": [*reply["messages"], said]}).encode())
    return random.Random(0).sample(ended, count)


def data_settings(options: argparse.Namespace) -> list[str]:
    """The overrides that say what is asked."""
    chosen = [f"model={options.model}", f"data.gsm8k.rows={easy_rows(options).absolute()}"]
    if options.held_out:
        chosen.append(f"data.gsm8k.held_out={options.held_out.absolute()}")
    return chosen


def settings(options: argparse.Namespace, name: str) -> list[str]:
    """The overrides of one run."""
    kind = RUNS[name]
    evaluated = [] if name == "full" else ["stages.imitate.evaluate.data=[]"]
    return [
        *evaluated,
        *data_settings(options),
        f"data.traces.rows={imitated(options, name).absolute()}",
        f"seed={kind.seed}",
        f"stages.rl.steps={kind.steps}",
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


def figures(folder: Path, name: str) -> dict[str, Any]:
    """At the start and after each stage, and what that changed, as far as the run has come.

    `full` asked the start for all runs; `control` has the same policy as `full` before its RL.
    """
    run = folder / name
    result: dict[str, Any] = {"curve": curve(run), "seconds": seconds(run)}
    asked: dict[str, list[Outcome]] = {}
    # of problem after problem: c(orrect), w(rong), t(runcated)
    verdicts: dict[str, str] = {}
    for policy in POLICIES:
        asked_in = run
        if policy == "start" or (policy == "imitate" and name == "control"):
            asked_in = folder / "full"
        if (asked_in / "evaluation" / f"{policy}.json").exists():
            asked[policy] = saved_outcomes(asked_in, policy)
            result[policy] = split(asked[policy])
            verdicts[policy] = "".join(outcome.status[0] for outcome in asked[policy])
    for earlier, later in (("start", "imitate"), ("imitate", "rl"), ("start", "rl")):
        if earlier in asked and later in asked:
            result[f"{earlier} to {later}"] = change(asked[earlier], asked[later])
    result["verdicts"] = verdicts
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


def draw(runs: dict[str, dict[str, Any]], collecting: float, path: Path) -> None:
    """Held-out accuracy by minutes of work, and what the replies of `full` came to."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    accuracy, parts = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, run in reversed(runs.items()):  # so that `full` is on top
        minutes, points = held_out(name, run, collecting)
        values = [100 * point["accuracy"] for point in points]
        below = [100 * (point["accuracy"] - point["low"]) for point in points]
        above = [100 * (point["high"] - point["accuracy"]) for point in points]
        accuracy.errorbar(
            minutes,
            values,
            (below, above),
            color=RUNS[name].colour,
            marker="o",
            capsize=3,
            label=RUNS[name].label,
        )
    accuracy.set_xlabel("minutes on two cores, without evaluation")
    accuracy.set_ylabel("held-out accuracy, %")
    accuracy.set_ylim(0)
    accuracy.legend(loc="lower right")

    full = runs.get("full", {})
    found = [full[policy] for policy in POLICIES if policy in full]
    below_part = [0.0] * len(found)
    for label, colour, share in PARTS:
        shares = [100 * share(policy) for policy in found]
        parts.bar(
            POLICIES[: len(found)], shares, bottom=below_part, color=colour, label=label
        )
        below_part = [low + high for low, high in zip(below_part, shares, strict=True)]
    parts.set_ylabel("replies of seed 0, %")
    parts.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.15))
    figure.savefig(path, dpi=150)


def held_out(
    name: str, run: dict[str, Any], collecting: float
) -> tuple[list[float], list[dict[str, float]]]:
    """Minutes of work until each evaluated policy of a run, and what it came to."""
    of_all = 1.0 if RUNS[name].half is None else 0.5
    worked = {
        "start": 0.0,
        "imitate": of_all * collecting + run["seconds"].get("imitate", 0.0),
        "rl": sum(sum(point["seconds"].values()) for point in run["curve"]),
    }
    minutes: list[float] = []
    points: list[dict[str, float]] = []
    total = 0.0
    for policy in POLICIES:
        total += worked[policy] / 60
        if policy in run:
            minutes.append(total)
            points.append(run[policy])
    return minutes, points


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
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    if not options.report:
        options.folder.mkdir(parents=True, exist_ok=True)
        collect(options)
        for name in [options.only] if options.only else RUNS:
            train(["gsm8k"], options.folder / name, settings(options, name))

    present = [name for name in RUNS if (options.folder / name / "log.jsonl").exists()]
    runs = {name: figures(options.folder, name) for name in present}
    for name, found in runs.items():
        print(f"{name}: {len(found['curve'])} RL steps")
        for part, value in found.items():
            if part not in ("curve", "seconds", "verdicts"):
                print(f"  {part:<17}{value}")
    collecting = collected(options.folder)["seconds"]
    save("gsm8k", {"collect_seconds": round(collecting, 1), "runs": runs})
    draw(runs, collecting, IMAGES / "gsm8k.png")


if __name__ == "__main__":
    main()

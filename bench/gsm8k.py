"""GSM8K by RL on a 0.5B model with two cores: what it gains, in format and in reasoning.

    python bench/qwen_gguf.py qwen.gguf                          the model, once
    python bench/gsm8k.py DIR --model qwen.gguf                  the run, a control, two half runs
    python bench/gsm8k.py DIR --model qwen.gguf --only full      one of full, control, seed1, seed2
    python bench/gsm8k.py DIR --report                           the figures of what is there

Everything goes on after Ctrl-C or a kill by the same command. `--rows` and `--held-out` name local
files in place of the hub's. Held-out problems (400) are asked once each at temperature 1, before
and after; the interval of the difference is a paired bootstrap. `control` shuffles the rewards.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from trainings import save, saved_outcomes, seconds, train

from openqwq.evaluation.evaluate import Outcome
from openqwq.evaluation.statistics import compare, mean_interval
from openqwq.verify.boxes import last_box

STEPS = 36
# seed, steps, shuffled rewards
RUNS = {
    "full": (0, STEPS, False),
    "control": (0, STEPS // 2, True),
    "seed1": (1, STEPS // 2, False),
    "seed2": (2, STEPS // 2, False),
}


def settings(options: argparse.Namespace, name: str) -> list[str]:
    """The overrides of one run."""
    seed, steps, shuffled = RUNS[name]
    chosen = [
        f"model={options.model}",
        f"seed={seed}",
        f"stages.rl.steps={options.steps or steps}",
        f"stages.rl.shuffle_rewards={str(shuffled).lower()}",
    ]
    if options.rows:
        chosen.append(f"data.gsm8k.rows={options.rows.absolute()}")
    if options.held_out:
        chosen.append(f"data.gsm8k.held_out={options.held_out.absolute()}")
    return chosen + options.overrides


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
    """Before, after, and their difference, as far as the run has come."""
    result: dict[str, Any] = {"curve": curve(run), "seconds": seconds(run)}
    if not (run / "evaluation" / "start.json").exists():
        return result
    before = saved_outcomes(run, "start")
    result["before"] = split(before)
    if not (run / "evaluation" / "rl.json").exists():
        return result
    after = saved_outcomes(run, "rl")
    result["after"] = split(after)
    found = compare(
        {o.task_id: float(o.status == "correct") for o in before},
        {o.task_id: float(o.status == "correct") for o in after},
    )
    result["difference"] = {
        "value": round(found.difference.value, 4),
        "low": round(found.difference.low, 4),
        "high": round(found.difference.high, 4),
        "p_value": round(found.p_value, 5),
    }
    return result


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
        for name in [options.only] if options.only else RUNS:
            train(["gsm8k"], options.folder / name, settings(options, name))

    present = [name for name in RUNS if (options.folder / name / "log.jsonl").exists()]
    runs = {name: figures(options.folder / name) for name in present}
    for name, found in runs.items():
        print(f"{name}: {len(found['curve'])} steps")
        for part in ("before", "after", "difference"):
            print(f"  {part:<11}{found.get(part, 'not measured')}")
    save("gsm8k", {"runs": runs})


if __name__ == "__main__":
    main()

"""The demo's claim over three seeds, and a control whose rewards are shuffled.

    python bench/demo.py DIR            runs what DIR does not hold yet, then prints the table
    python bench/demo.py DIR --only 0   one seed, or `control`

The control starts from seed 0's cold start and differs in one setting, rl.shuffle_rewards. The
summary goes to bench/results/demo.json, from which bench/figures.py fills README and RESULTS.
"""

import argparse
import asyncio
import json
import platform
import shutil
from datetime import date
from pathlib import Path
from typing import Any

from openqwq.cli import FAMILIES, MINI
from openqwq.config import load_config
from openqwq.tasks.evaluate import Outcome, accuracies
from openqwq.tasks.report import write_report
from openqwq.train.pipeline import run_stages
from openqwq.train.progress import Display
from openqwq.train.run import Run

RUNS = ("0", "1", "2", "control")
RESULTS = Path(__file__).parent / "results" / "demo.json"
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def execute(folder: Path, name: str, overrides: list[str]) -> None:
    """Run one seed or the control to its end; what is finished stays."""
    seed = "0" if name == "control" else name
    shuffle = str(name == "control").lower()
    settings = [f"seed={seed}", f"rl.shuffle_rewards={shuffle}", *overrides]
    out = folder / name
    run = Run(out, load_config([MINI], settings), resume=True)
    if name == "control" and not (out / "sft").exists():
        for part in ("tokenizer", "sft"):
            shutil.copytree(folder / "0" / part, out / part)
        (out / "evaluation").mkdir()
        shutil.copy(folder / "0" / "evaluation" / "sft.json", out / "evaluation")
    asyncio.run(run_stages(run, Display()))
    write_report(out, FAMILIES)


def summary(out: Path) -> dict[str, Any]:
    """Accuracy and thinking of both checkpoints of one run, by kind and family, and its seconds."""
    result: dict[str, Any] = {"seconds": {}}
    for record in map(json.loads, (out / "log.jsonl").read_text().splitlines()):
        if record["stage"] == "timing":
            seconds = result["seconds"]
            seconds[record["name"]] = seconds.get(record["name"], 0) + record["seconds"]
    for checkpoint in ("sft", "stage1"):
        saved = json.loads((out / "evaluation" / f"{checkpoint}.json").read_text())
        outcomes = [Outcome(**outcome) for outcome in saved["outcomes"]]
        result[checkpoint] = {
            name: {key: round(value, 4) for key, value in vars(found).items()}
            for name, found in accuracies(outcomes, FAMILIES).items()
        }
    return result


def table(runs: dict[str, dict[str, Any]]) -> list[str]:
    """One line a run and family."""
    lines = []
    for name, run in runs.items():
        for family in FAMILIES:
            before, after = run["sft"][family], run["stage1"][family]
            gain = after["pass_at_1"] - before["pass_at_1"]
            lines.append(
                f"{name:<8} {family:<11} pass@1 {before['pass_at_1']:6.1%} ± "
                f"{before['half_width']:5.1%}  to {after['pass_at_1']:6.1%} ± "
                f"{after['half_width']:5.1%}  ({100 * gain:+5.1f} points)   thinking "
                f"{before['thinking_tokens']:5.1f} to {after['thinking_tokens']:5.1f} tokens"
            )
    return lines


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=RUNS)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    for name in [options.only] if options.only else RUNS:
        execute(options.folder, name, options.overrides)
    done = [n for n in RUNS if (options.folder / n / "evaluation" / "stage1.json").exists()]
    runs = {name: summary(options.folder / name) for name in done}
    print("\n".join(table(runs)))
    if len(done) == len(RUNS):
        machine = f"{platform.machine()}, 2 cores"
        record = {"date": str(date.today()), "machine": machine, "runs": runs}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")
        IMAGES.mkdir(exist_ok=True)
        for plot in ("reward_by_kind.png", "thinking_by_kind.png"):
            shutil.copy(options.folder / "0" / "plots" / plot, IMAGES)


if __name__ == "__main__":
    main()

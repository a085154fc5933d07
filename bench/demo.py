"""The demo's claim over three seeds, a control whose rewards are shuffled, a run without replay.

    python bench/demo.py DIR            runs what DIR does not hold yet, then prints the table
    python bench/demo.py DIR --only 0   one seed, `control`, or `no-replay` (both need seed 0 first)

`control` starts from seed 0's cold start and shuffles the rewards of both stages; `no-replay`
starts from seed 0's stage 1 and replays none of its problems in stage 2. The summary goes to
bench/results/demo.json, from which bench/figures.py fills README and RESULTS.
"""

import argparse
import asyncio
import json
import platform
import shutil
from datetime import date
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from openqwq.cli import FAMILIES as DEMO_FAMILIES
from openqwq.cli import MINI
from openqwq.config import load_config
from openqwq.evaluation.evaluate import Outcome, accuracies
from openqwq.evaluation.progress import Display
from openqwq.evaluation.report import write_report
from openqwq.train.stages import run_stages
from openqwq.train.start import start_run

RUNS = ("0", "1", "2", "control", "no-replay")
# What is taken over from seed 0, and what differs.
VARIANTS = {
    "control": (
        ("tokenizer", "sft", "evaluation/sft.json"),
        (
            "stages.stage1.shuffle_rewards=true",
            "stages.stage2.shuffle_rewards=true",
            # its answers differ so little that the reward model may look like a coin
            'stages.taste.skip_checks=["chance"]',
        ),
    ),
    "no-replay": (
        ("tokenizer", "sft", "stage1", "evaluation/sft.json", "evaluation/stage1.json"),
        ("stages.stage2.data={instructions=48.7, topics=13.9, calculator=17.4}",),
    ),
}
CHECKPOINTS = ("sft", "stage1", "stage2")
PLOTS = (
    "stage1_reward_by_kind.png",
    "stage1_thinking_by_kind.png",
)
# All of stage 1's problems together: what stage 2 must not lose.
FAMILIES = {**DEMO_FAMILIES, "all stage 1": tuple(chain(*DEMO_FAMILIES.values()))}
RESULTS = Path(__file__).parent / "results" / "demo.json"
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def execute(folder: Path, name: str, overrides: list[str]) -> None:
    """Run one seed or variant to its end; what is finished stays."""
    parts, settings = VARIANTS.get(name, ((), ()))
    seed = "0" if parts else name
    out = folder / name
    config = load_config([MINI], [f"seed={seed}", *settings, *overrides])
    run, prepared = start_run(out, config, resume=True)
    for part in parts:
        source, target = folder / "0" / part, out / part
        target.parent.mkdir(exist_ok=True)
        if source.is_dir() and not target.exists():
            shutil.copytree(source, target)
        elif not target.exists():
            shutil.copy(source, target)
    for stage in ("sft", "stage1"):
        if stage in parts:
            run.finish(stage, config.stage(stage).steps)
    asyncio.run(run_stages(run, prepared, Display()))
    run.close()
    write_report(out, DEMO_FAMILIES)


def summary(out: Path) -> dict[str, Any]:
    """Accuracy and thinking of every checkpoint of one run, by kind and family, and its seconds."""
    result: dict[str, Any] = {"seconds": {}}
    for record in map(json.loads, (out / "log.jsonl").read_text().splitlines()):
        if record["stage"] == "timing":
            seconds = result["seconds"]
            seconds[record["name"]] = seconds.get(record["name"], 0) + record["seconds"]
    for checkpoint in CHECKPOINTS:
        saved = json.loads((out / "evaluation" / f"{checkpoint}.json").read_text())
        outcomes = [Outcome(**outcome) for outcome in saved["outcomes"]]
        result[checkpoint] = {
            name: {key: round(value, 4) for key, value in vars(found).items()}
            for name, found in accuracies(outcomes, FAMILIES).items()
        }
    if (out / "taste.json").exists():
        result["reward_model"] = json.loads((out / "taste.json").read_text())["held_out"]
    return result


def table(runs: dict[str, dict[str, Any]]) -> list[str]:
    """One line a run and family, then what only a tool reaches and how the reward model did."""
    lines = []
    for name, run in runs.items():
        for family in (*FAMILIES, "instructions", "topics", "calculator"):
            sides = [run[checkpoint][family] for checkpoint in CHECKPOINTS]
            rates = " to ".join(
                f"{s['pass_at_1']:6.1%} ± {s['half_width']:5.1%}" for s in sides
            )
            first, second = (
                100 * (after["pass_at_1"] - before["pass_at_1"])
                for before, after in pairwise(sides)
            )
            tokens = " to ".join(f"{side['thinking_tokens']:5.1f}" for side in sides)
            lines.append(
                f"{name:<10} {family:<13} pass@1 {rates}  (stage 1 {first:+5.1f}, "
                f"stage 2 {second:+5.1f} points)   thinking {tokens} tokens"
            )
        without = run["stage2"]["without-tools"]["pass_at_1"]
        lines.append(f"{name:<10} calculator    asked without its tool: {without:6.1%}")
        if found := run.get("reward_model"):
            lines.append(
                f"{name:<10} reward model  {found['accuracy']:6.1%} of {found['pairs']} pairs, "
                f"calibration error {found['calibration_error']:.3f}, Brier {found['brier']:.3f}, "
                f"length correlation {found['length_correlation']:+.2f}"
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
    done = [n for n in RUNS if (options.folder / n / "evaluation" / "stage2.json").exists()]
    runs = {name: summary(options.folder / name) for name in done}
    print("\n".join(table(runs)))
    if {"0", "1", "2"} <= set(done):
        machine = f"{platform.machine()}, 2 cores"
        record = {"date": str(date.today()), "machine": machine, "runs": runs}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")
        IMAGES.mkdir(exist_ok=True)
        for plot in PLOTS:
            shutil.copy(options.folder / "0" / "plots" / plot, IMAGES)


if __name__ == "__main__":
    main()

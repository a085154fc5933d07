"""Asynchronous against synchronous RL on Ray, with completions of uneven lengths.

    python bench/cluster_modes.py runs/demo --steps 12

Needs a run whose cold start is done (`qwq demo` writes one). One learner and one sampler, one
thread each; both modes start from the same weights, `--repeats` times in turn.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from openqwq.cluster.placement import ray_placement
from openqwq.config import load_config
from openqwq.evaluation.progress import Display
from openqwq.train.stages import run_stages
from openqwq.train.start import start_run


def seconds_per_step(start: Path, mode: str, steps: int) -> tuple[float, float, float]:
    """Seconds a step (the first, which warms up, left out), last rewards, mean staleness."""
    settings = load_config(
        [start / "config.toml"],
        [
            f"stages.stage1.steps={steps}", "stages.stage1.max_refills=0",
            "stages.stage1.checkpoint_every=1000", "evaluation.limit=1", "threads=1",
            "cluster.learners=1", "cluster.samplers=1",
            "cluster.cpus_per_actor=0.5", f"cluster.mode={mode}", "cluster.max_staleness=4",
        ],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "run"
        settings = replace(settings, stages=settings.stages[:2])
        run, prepared = start_run(target, settings, resume=False)
        for name in ("sft", "tokenizer"):
            shutil.copytree(start / name, target / name)
        run.finish("sft", settings.stages[0].steps)
        with ray_placement(settings) as placement:
            asyncio.run(run_stages(run, prepared, Display(), placement))
        lines = [
            json.loads(line) for line in (target / "log.jsonl").read_text().splitlines()
        ]
    records = [line for line in lines if line["stage"] == "stage1" and "seconds" in line]
    each = [record["seconds"] for record in records[1:]]
    wall = [s["rollout"] + s["learn"] for s in each]
    rewards = statistics.mean(record["reward"] for record in records[-3:])
    stale = statistics.mean(record.get("staleness", 0.0) for record in records)
    return statistics.mean(wall), rewards, stale


def main() -> None:
    """Print both modes and the ratio of their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory with sft/ and tokenizer/")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[float]] = {"synchronous": [], "asynchronous": []}
    for _ in range(options.repeats):
        for mode, times in found.items():
            seconds, reward, stale = seconds_per_step(options.run, mode, options.steps)
            times.append(seconds)
            print(
                f"{mode:<13} {seconds:6.2f} s/step  reward {reward:.3f}  staleness {stale:.2f}"
            )
    for mode, times in found.items():
        low, middle, high = min(times), statistics.median(times), max(times)
        print(f"{mode:<13} min {low:.2f}  median {middle:.2f}  max {high:.2f} s/step")
    ratio = statistics.median(found["synchronous"]) / statistics.median(
        found["asynchronous"]
    )
    print(f"ratio of medians: {ratio:.2f}x")


if __name__ == "__main__":
    main()

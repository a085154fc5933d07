"""Five kill -9 at random moments of one RL run over two Ray nodes, against one left alone.

    python bench/cluster_kills.py --seed 0

A learner rank, the sampler, the verifier, the second node's raylet and the driver die once each, in
random order. The nodes are network namespaces, so it needs root and Debian's iproute2. A killed
raylet is started again and a killed driver resumed, as Slurm or Kubernetes would; nothing else is
done for the run. The run left alone is in one process. The model is that of the tests.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "cluster"), str(ROOT / "tests" / "train")]

from machines import PLACED, Machines, two_machines  # noqa: E402
from small import small_config  # noqa: E402

from openqwq.config import Config  # noqa: E402
from openqwq.model import checkpoint  # noqa: E402
from openqwq.train.start import run_config, start_run  # noqa: E402

TITLES = {
    "learner rank": "ray::LearnerRank",
    "sampler": "ray::SamplerActor",
    "verifier": "ray::VerifierActor",
    "node": "raylet/raylet",
    "driver": "openqwq.cli train",
}


@dataclass
class Job:
    """One run on its own two machines: what a cluster's own supervisor would do for it."""

    machines: Machines
    directory: Path
    log: Path
    driver: subprocess.Popen[bytes] | None = None
    kills: list[str] = field(default_factory=list)

    def start_driver(self) -> None:
        """Start the run, or go on with it."""
        qwq = (
            sys.executable,
            "-m",
            "openqwq.cli",
            "train",
            f"{self.directory}/config.toml",
        )
        command = self.machines.command(0, *qwq, "--resume", "--out", str(self.directory))
        with self.log.open("ab") as output:
            self.driver = subprocess.Popen(command, stdout=output, stderr=output)

    def steps(self) -> int:
        """Steps that the log holds so far."""
        return len(records(self.directory))

    def wait_for_step(self, step: int) -> bool:
        """Wait until the log holds `step` steps; False if the run ends before."""
        assert self.driver is not None
        while self.steps() < step:
            if self.driver.poll() is not None:
                return False
            time.sleep(0.05)
        return True

    def kill(self, kind: str) -> None:
        """Kill a process of a kind, and start again what a supervisor would."""
        assert self.driver is not None
        machines = (1,) if kind == "node" else (0, 1)
        found = [
            pid
            for machine in machines
            for pid, line in self.machines.processes(machine).items()
            if TITLES[kind] in line
        ]
        victim = random.choice(sorted(found))
        os.kill(victim, signal.SIGKILL)
        self.kills.append(f"{kind} in step {self.steps()}")
        print(f"  killed {self.kills[-1]} (process {victim})", flush=True)
        if kind == "node":
            self.machines.start_ray(1)
        if kind == "driver":
            self.driver.wait()
            self.start_driver()


def records(directory: Path) -> list[dict[str, Any]]:
    """The whole lines of stage 1 in a run's log."""
    path = directory / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in found if record["stage"] == "stage1"]


def first_stages(*overrides: str) -> Config:
    """The small run up to its first RL stage."""
    config = small_config(*overrides)
    return replace(config, stages=config.stages[:2])


def train(
    alone: Path, directory: Path, settings: tuple[str, ...], order: list[str]
) -> float:
    """Stage 1 of `alone` over two machines, with kills in the given order; returns its seconds."""
    with two_machines() as machines:
        config = first_stages(*settings, *PLACED, f"cluster.address={machines.meeting}")
        run, _ = start_run(directory, config, resume=False)
        for name in ("tokenizer", "sft", "evaluation"):
            shutil.copytree(alone / name, directory / name)
        run.finish("sft", config.stages[0].steps)
        machines.start_ray(0)
        machines.start_ray(1)
        job = Job(machines, directory, directory.with_suffix(".log"))
        started = time.perf_counter()
        job.start_driver()
        for kind in order:
            # Two more steps show that the run has come over the last kill.
            if not job.wait_for_step(job.steps() + 2):
                raise SystemExit(
                    f"no {kind} was killed in time: {job.log.read_text()[-3000:]}"
                )
            time.sleep(random.uniform(0, 0.5))
            job.kill(kind)
        assert job.driver is not None
        if job.driver.wait() != 0:
            raise SystemExit(f"the run failed: {job.log.read_text()[-3000:]}")
        return time.perf_counter() - started


def main() -> None:
    """Train both and compare logs and weights; exits 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the order and the moments of kills"
    )
    options = parser.parse_args()
    random.seed(options.seed)
    order = random.sample(sorted(TITLES), len(TITLES))
    settings = (
        f"stages.stage1.steps={options.steps}", "stages.stage1.checkpoint_every=3",
        "cluster.timeout=300", "evaluation.data=['addition']",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        alone, killed = (Path(temporary) / name for name in ("alone", "killed"))
        run_config(alone, first_stages(*settings))
        seconds = train(alone, killed, settings, order)
        expected, found = records(alone), records(killed)
        weights = [
            checkpoint.load(path / "stage1").state_dict() for path in (alone, killed)
        ]
    difference = max(float((weights[0][n] - weights[1][n]).abs().max()) for n in weights[0])
    steps = [record["step"] for record in found]
    rewards = [[record["reward"] for record in part] for part in (expected, found)]
    print(f"{options.steps} steps with five kills: {seconds:.0f} s")
    print(f"every step logged once: {steps == list(range(options.steps))}")
    print(
        f"rewards equal: {rewards[0] == rewards[1]}; from {rewards[0][0]} to {rewards[0][-1]}"
    )
    print(
        f"largest difference of a final weight: {difference:.1e} (torch {torch.__version__})"
    )
    if steps != list(range(options.steps)) or rewards[0] != rewards[1] or difference > 1e-5:
        sys.exit(1)


if __name__ == "__main__":
    main()

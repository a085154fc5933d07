"""A push of weights from two ranks to a sampler over one wire: bytes, seconds, the driver's memory.

    python bench/weight_push.py miniature smollm2-135m qwen2.5-0.5b [--lora] [--bf16] [--tree DIR]

Two network namespaces stand for two machines, each with a node of Ray: a rank on each, the driver
with the first, the sampler with the second. Weights are random, of the named shape. Needs root and
Debian's iproute2. With --tree the package of another checkout is measured.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "cluster"))

from machines import PLACED, two_machines  # noqa: E402

from openqwq.cluster.placement import ray_placement  # noqa: E402
from openqwq.config import RlStage, load_config  # noqa: E402
from openqwq.model import checkpoint  # noqa: E402
from openqwq.model.qwen2 import ModelConfig, Qwen2  # noqa: E402
from openqwq.text.tokenizer import Tokenizer  # noqa: E402
from openqwq.train.prepare import Prepared  # noqa: E402
from openqwq.train.run import Run  # noqa: E402
from openqwq.train.run_policies import Policies  # noqa: E402

TIED = {"tie_word_embeddings": True}
SHAPES = {
    "miniature": ModelConfig(1024, 128, 384, 4, 4, 2, 32, **TIED),
    "smollm2-135m": ModelConfig(
        49152, 576, 1536, 30, 9, 3, 64, **TIED, attention_bias=False
    ),
    "qwen2.5-0.5b": ModelConfig(151936, 896, 4864, 24, 14, 2, 64, **TIED),
}
STORE_BYTES = 5_000_000_000  # of Ray's object store, for the path that needs it
MB = 1e6


@dataclass(frozen=True)
class Wire:
    """Bytes that this machine has sent and received."""

    sent: int
    received: int

    @staticmethod
    def now() -> "Wire":
        counts = Path("/sys/class/net/wire/statistics")
        sent = int((counts / "tx_bytes").read_text())
        return Wire(sent, int((counts / "rx_bytes").read_text()))


def peak_memory() -> float:
    """This process's peak of resident memory, MB, since it was reset."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024 / MB


def reset_peak() -> None:
    """Forget the peak so far."""
    Path("/proc/self/clear_refs").write_text("5")


def save_random(shape: ModelConfig, directory: Path) -> None:
    """Write a checkpoint of random weights."""
    model = Qwen2(shape)
    model.initialise(torch.Generator().manual_seed(0))
    checkpoint.save(model, directory)


def push_repeatedly(options: argparse.Namespace) -> None:
    """The driver: push `repeats` times and print what each cost, one JSON object a line."""
    overrides = [*PLACED, f"cluster.address={options.address}", "cluster.timeout=600"]
    overrides += ["engine.slots=2", "engine.max_length=64", "engine.lanes=1"]
    if options.bf16:
        overrides.append("precision=bf16")
    if options.lora:
        overrides.append("stages.stage1.lora={ rank = 16 }")
    config = load_config([ROOT / "tests" / "train" / "small.toml"], overrides)
    stage = config.stage("stage1")
    assert isinstance(stage, RlStage)
    tokenizer = Tokenizer.train([], 280)
    run = Run(options.directory, config, resume=False)
    policies = Policies(run, Prepared(config, {}), tokenizer)
    save_random(SHAPES[options.shapes[0]], run.directory / "random")
    with ray_placement(config) as placement:
        with placement.policy(policies, stage, "random") as (learner, _, link, _):
            for number in range(options.repeats):
                reset_peak()
                memory, wire = peak_memory(), Wire.now()
                started = time.perf_counter()
                link.push(learner.named_params(), 0)
                seconds = time.perf_counter() - started
                after = Wire.now()
                print(
                    json.dumps(
                        {
                            "push": number,
                            "seconds": seconds,
                            "MB from the first machine": (after.sent - wire.sent) / MB,
                            "MB from the second": (after.received - wire.received) / MB,
                            "driver's memory before, MB": memory,
                            "driver's peak above it, MB": peak_memory() - memory,
                        }
                    ),
                    flush=True,
                )


def measure(name: str, options: argparse.Namespace) -> None:
    """Start the machines, run the driver on the first, print its figures."""
    flags = [flag for flag in ("--lora", "--bf16") if getattr(options, flag[2:])]
    with two_machines() as machines, tempfile.TemporaryDirectory() as directory:
        for machine in (0, 1):
            machines.start_ray(machine, store=STORE_BYTES)
        command = (sys.executable, __file__, name, "--address", machines.meeting)
        command += (
            "--directory",
            f"{directory}/run",
            "--repeats",
            str(options.repeats),
            *flags,
        )
        done = subprocess.run(
            machines.command(0, *command),
            cwd=options.tree or ROOT,  # Ray's workers import from there
            capture_output=True,
            text=True,
            timeout=900,
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr[-4000:])
    pushes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    bytes_ = (
        sum(parameter.numel() for parameter in Qwen2(SHAPES[name]).parameters()) * 4 / MB
    )
    print(f"{name} ({bytes_:,.0f} MB in fp32){' '.join(['', *flags])}")
    for key in [key for key in pushes[0] if key != "push"]:
        values = [push[key] for push in pushes[1:]]  # the first joins the processes
        spread = f"{min(values):9.2f} {median(values):9.2f} {max(values):9.2f}"
        print(f"  {key:<30} first {pushes[0][key]:9.2f}   then min, median, max {spread}")


def main() -> None:
    """Measure every shape that is named, or be the driver of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="+", choices=sorted(SHAPES))
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument(
        "--lora", action="store_true", help="train and push an adapter of rank 16"
    )
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--tree", type=Path, help="a checkout whose package is measured")
    parser.add_argument("--address", default="", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options: Any = parser.parse_args()
    if options.address:
        push_repeatedly(options)
        return
    if options.tree:
        os.environ["PYTHONPATH"] = str(options.tree.resolve())
    if shutil.which("ip") is None:
        raise SystemExit("needs ip: apt install iproute2")
    for name in options.shapes:
        measure(name, options)


if __name__ == "__main__":
    main()

"""What the benches of trainings share: `qwq` in this process, saved accuracies, the machine."""

import argparse
import asyncio
import json
import os
import platform
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from openqwq.cli import main as qwq
from openqwq.config import find_config, load_config
from openqwq.evaluation.evaluate import Accuracy, Outcome, accuracy
from openqwq.train.judges import open_bench
from openqwq.train.placement import LocalPlacement
from openqwq.train.policies import open_tokenizer
from openqwq.train.progress import Display
from openqwq.train.stages import Stages
from openqwq.train.start import start_run

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
SEEDS = (0, 1, 2)


def run_qwq(arguments: Sequence[str]) -> None:
    """One `qwq` command; ends the program where it fails."""
    print("qwq", *arguments, flush=True)
    if code := qwq(list(arguments)):
        raise SystemExit(code)


def train(configs: Sequence[str], out: Path, overrides: Sequence[str]) -> None:
    """`qwq train`; what is finished stays, what was begun goes on."""
    arguments = ["train", *configs, "--out", str(out)]
    for override in overrides:
        arguments += ["--set", override]
    if out.exists():
        arguments.append("--resume")
    run_qwq(arguments)


def evaluate_start(config: str, out: Path, overrides: Sequence[str]) -> None:
    """The evaluation that a run of `config` begins with, and nothing more."""
    loaded = load_config([find_config(config)], list(overrides))
    asyncio.run(_evaluate_start(loaded, out))


async def _evaluate_start(config: Any, out: Path) -> None:
    run, prepared = start_run(out, config, resume=True)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    tokenizer = open_tokenizer(run, prepared)
    async with AsyncExitStack() as stack:
        bench = open_bench(config, stack)
        stages = Stages(run, prepared, Display(), tokenizer, LocalPlacement(), bench)
        await stages.open()
        await stages.evaluate_once("start", 0, config.stages[0])
    run.close()


def saved_outcomes(run: Path, name: str) -> list[Outcome]:
    """The attempts of a saved evaluation."""
    saved = json.loads((run / "evaluation" / f"{name}.json").read_text())
    return [Outcome(**outcome) for outcome in saved["outcomes"]]


def by_table(run: Path, name: str) -> dict[str, dict[str, float]]:
    """Accuracy of each table of a saved evaluation."""
    found: dict[str, list[Outcome]] = {}
    for outcome in saved_outcomes(run, name):
        found.setdefault(outcome.kind, []).append(outcome)
    return {table: rounded(accuracy(group)) for table, group in found.items()}


def rounded(found: Accuracy) -> dict[str, float]:
    """An accuracy as JSON."""
    return {key: round(value, 4) for key, value in asdict(found).items()}


def seconds(run: Path) -> dict[str, float]:
    """Wall seconds of each part of a run."""
    total: dict[str, float] = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["stage"] == "timing":
            total[record["name"]] = total.get(record["name"], 0.0) + record["seconds"]
    return {name: round(value, 1) for name, value in total.items()}


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The arguments that all trainings over the demo's seeds take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument(
        "--only", dest="seeds", type=int, nargs=1, metavar="SEED", default=SEEDS
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    return parser


def mean_of(runs: Sequence[dict[str, Any]], *path: str) -> float:
    """The mean over runs of the number at `path`."""
    values: list[float] = []
    for run in runs:
        node: Any = run
        for key in path:
            node = node[key]
        values.append(node)
    return fmean(values)


def machine() -> dict[str, Any]:
    """Where and when a figure was taken."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": str(date.today()),
        "machine": f"{model}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def save(name: str, result: dict[str, Any]) -> None:
    """Write bench/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**machine(), **result}, indent=1) + "\n")
    print("written:", path)

"""What the benches of trainings share: `qwq` in this process, saved accuracies, the machine."""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from openqwq.cli import main as qwq
from openqwq.evaluation.evaluate import Accuracy, Outcome, accuracy

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
    """The arguments that all trainings over seeds take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path)
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

"""Accuracy against the budget of thinking: a model trained with budgets, and two that were not.

    python bench/budgets.py DIR --demo DEMO              every seed, then the table and the chart
    python bench/budgets.py DIR --demo DEMO --only 0     one seed

DEMO/0, DEMO/1 and DEMO/2 are runs of `qwq demo`. Each seed goes on from its own stage 1 with
openqwq/configs/mini-budgets.toml: `free` is RL without budgets; `cut` is RL with them, after
`brief` has shown worked solutions whose thinking is cut. `qwq eval` then asks stage 1, `free` and
`cut` at every budget. The figures go to bench/results/budgets.json.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from trainings import IMAGES, SEEDS, mean_of, parser_of, run_qwq, save, seconds, train

from openqwq.evaluation.statistics import mean_interval

CONFIGS = ("mini-budgets",)
TABLES = ("addition", "subtraction", "multiplication")
BUDGETS = (8, 12, 14, 16, 24, 32, 48, 96)
POLICIES = ("untrained", "free", "cut")
UNCUT = "none"


def ask(checkpoint: Path, budget: str, out: Path, limit: int) -> None:
    """`qwq eval` at one budget, at temperature 1."""
    names = [f"mini-budgets.toml:{table}" for table in TABLES]
    sampling = ["--temperature", "1", "--top-p", "1", "--top-k", "0", "--max-tokens", "160"]
    effort = ["--samples", "2", "--limit", str(limit), "--concurrency", "64"]
    arguments = ["eval", str(checkpoint), "--tasks", ",".join(names), *sampling, *effort]
    if budget != UNCUT:
        arguments += ["--thinking-budget", budget]
    if out.exists():
        arguments.append("--resume")
    run_qwq([*arguments, "--out", str(out)])


def found_in(out: Path) -> dict[str, float]:
    """Accuracy over all tables with its interval, clustered by problem; and thinking tokens."""
    items: dict[str, list[float]] = {}
    thinking: list[int] = []
    for table in TABLES:
        for line in (out / f"{table}.jsonl").read_text().splitlines():
            record = json.loads(line)
            items.setdefault(record["task_id"], []).append(
                float(record["status"] == "correct")
            )
            thinking.append(record["reasoning_tokens"])
    interval = mean_interval([fmean(values) for values in items.values()])
    return {
        "accuracy": round(interval.value, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "thinking_tokens": round(fmean(thinking), 2),
        "problems": len(items),
    }


def run_seed(folder: Path, demo: Path, seed: int, overrides: list[str], limit: int) -> None:
    """Train one seed both ways and ask the three policies at every budget."""
    start = demo / str(seed) / "stage1"
    run = folder / str(seed)
    train(CONFIGS, run, [f"model={start}", f"seed={seed}", *overrides])
    checkpoints = {"untrained": start, "free": run / "free", "cut": run / "cut"}
    for policy, checkpoint in checkpoints.items():
        for budget in (*map(str, BUDGETS), UNCUT):
            ask(checkpoint, budget, folder / "eval" / f"{policy}-{seed}-{budget}", limit)


def figures(folder: Path, seed: int) -> dict[str, Any]:
    """Every policy at every budget."""
    result: dict[str, Any] = {"seconds": seconds(folder / str(seed))}
    for policy in POLICIES:
        result[policy] = {}
        for budget in (*map(str, BUDGETS), UNCUT):
            found = found_in(folder / "eval" / f"{policy}-{seed}-{budget}")
            result[policy][budget] = found
    return result


def draw(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy against the budget: each seed thin, their mean bold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for policy, colour in zip(POLICIES, ("#888888", "#3b6fb6", "#c44e52"), strict=True):
        for run in runs:
            line = [run[policy][str(budget)]["accuracy"] for budget in BUDGETS]
            axes.plot(BUDGETS, line, color=colour, alpha=0.3, linewidth=1)
        mean = [mean_of(runs, policy, str(budget), "accuracy") for budget in BUDGETS]
        axes.plot(BUDGETS, mean, color=colour, linewidth=2, marker="o", label=policy)
    axes.set_xscale("log", base=2)
    axes.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
    axes.set_xlabel("thinking budget, tokens")
    axes.set_ylabel("accuracy, held-out arithmetic")
    axes.set_ylim(0, 1)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """See the module."""
    parser = parser_of(__doc__)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100, help="problems of each kind")
    options = parser.parse_args()
    for seed in options.seeds:
        run_seed(options.folder, options.demo, seed, options.overrides, options.limit)

    last = f"{POLICIES[-1]}-{{}}-{UNCUT}/scores.json"
    done = [s for s in SEEDS if (options.folder / "eval" / last.format(s)).exists()]
    runs = {str(seed): figures(options.folder, seed) for seed in done}
    print(f"{'budget':<20}" + "".join(f"{budget:>8}" for budget in (*BUDGETS, UNCUT)))
    for policy in POLICIES:
        for seed, run in runs.items():
            cells = [run[policy][str(budget)]["accuracy"] for budget in (*BUDGETS, UNCUT)]
            print(f"{policy + ', seed ' + seed:<20}" + "".join(f"{c:>8.1%}" for c in cells))
    natural = mean_of(list(runs.values()), "untrained", UNCUT, "thinking_tokens")
    print(f"natural length of the untrained model: {natural:.1f} thinking tokens")
    save("budgets", {"runs": runs})
    draw(list(runs.values()), IMAGES / "budgets.png")


if __name__ == "__main__":
    main()

"""Calculators that no training has shown: a model trained on many tools against one trained on two.

    python bench/unseen_tools.py DIR --demo DEMO              every seed, then the table
    python bench/unseen_tools.py DIR --demo DEMO --only 0     one seed

DEMO/0, DEMO/1 and DEMO/2 are runs of `qwq demo` (bench/demo.py makes them). Each seed goes on from
its own stage 1 with openqwq/configs/mini-tools.toml; its stage 2, which met a calculator under two
descriptions, answers the same problems. The figures go to bench/results/unseen_tools.json.
"""

from pathlib import Path
from typing import Any

from trainings import (
    SEEDS,
    by_table,
    evaluate_start,
    mean_of,
    parser_of,
    save,
    seconds,
    train,
)

TABLES = ("calculators", "new-calculators", "calculator", "addition")


def run_seed(folder: Path, demo: Path, seed: int, overrides: list[str]) -> None:
    """Train one seed, and ask the demo's last checkpoint the same."""
    common = [f"seed={seed}", *overrides]
    train(["mini-tools"], folder / f"many-{seed}", [f"model={demo}/{seed}/stage1", *common])
    two = folder / f"two-{seed}"
    evaluate_start("mini-tools", two, [f"model={demo}/{seed}/stage2", *common])


def figures(folder: Path, seed: int) -> dict[str, Any]:
    """Accuracy of each table: of the demo's model, and as the training goes on."""
    many = folder / f"many-{seed}"
    return {
        "two tools": by_table(folder / f"two-{seed}", "start"),
        "stage 1": by_table(many, "start"),
        "many tools, sft": by_table(many, "read"),
        "many tools, rl": by_table(many, "use"),
        "seconds": seconds(many),
    }


def main() -> None:
    """See the module."""
    parser = parser_of(__doc__)
    options = parser.parse_args()
    for seed in options.seeds:
        run_seed(options.folder, options.demo, seed, options.overrides)

    runs: dict[str, dict[str, Any]] = {}
    for seed in SEEDS:
        ends = [f"many-{seed}/evaluation/use.json", f"two-{seed}/evaluation/start.json"]
        if all((options.folder / end).exists() for end in ends):
            runs[str(seed)] = figures(options.folder, seed)
    print(f"{'':<24}{'':>8}" + "".join(f"{table:>18}" for table in TABLES))
    for policy in ("two tools", "stage 1", "many tools, sft", "many tools, rl"):
        for seed, run in runs.items():
            cells = [run[policy][table] for table in TABLES]
            shown = [f"{c['pass_at_1']:.1%} ± {c['half_width']:.1%}" for c in cells]
            print(
                f"{policy:<24}{'seed ' + seed:>8}"
                + "".join(f"{cell:>18}" for cell in shown)
            )
    every = list(runs.values())
    seen = mean_of(every, "many tools, rl", "calculators", "pass_at_1")
    new = mean_of(every, "many tools, rl", "new-calculators", "pass_at_1")
    old = mean_of(every, "two tools", "new-calculators", "pass_at_1")
    print(
        f"new calculators: {new:.1%}, {new / seen:.0%} of those trained on; two tools {old:.1%}"
    )
    save("unseen_tools", {"runs": runs})


if __name__ == "__main__":
    main()

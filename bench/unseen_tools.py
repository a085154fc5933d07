"""Calculators that no training has shown: a miniature trained on many tools, and one on two.

    python bench/unseen_tools.py DIR              every seed, then the table
    python bench/unseen_tools.py DIR --only 0     one seed

Each seed runs openqwq/configs/mini-tools.toml from nothing. Its stage `two` is the control: the
same weights after `copy`, trained on two calculators. The figures go to
bench/results/unseen_tools.json.
"""

from pathlib import Path
from typing import Any

from trainings import SEEDS, by_table, mean_of, parser_of, save, seconds, train

TABLES = ("calculators", "new-calculators", "calculator")
POLICIES = {
    "copying alone": "copy",
    "two tools": "two",
    "many tools, sft": "read",
    "many tools, rl": "use",
}


def figures(run: Path) -> dict[str, Any]:
    """Accuracy of each policy on each table."""
    found: dict[str, Any] = {}
    for policy, stage in POLICIES.items():
        found[policy] = by_table(run, stage)
    return {**found, "seconds": seconds(run)}


def main() -> None:
    """See the module."""
    options = parser_of(__doc__).parse_args()
    for seed in options.seeds:
        train(
            ["mini-tools"],
            options.folder / str(seed),
            [f"seed={seed}", *options.overrides],
        )

    runs: dict[str, dict[str, Any]] = {}
    for seed in SEEDS:
        run = options.folder / str(seed)
        if (run / "evaluation/two.json").exists():  # the last stage
            runs[str(seed)] = figures(run)
    print(f"{'':<24}{'':>8}" + "".join(f"{table:>18}" for table in TABLES))
    for policy in POLICIES:
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
    two = mean_of(every, "two tools", "new-calculators", "pass_at_1")
    print(
        f"new calculators: {new:.1%}, {new / seen:.0%} of those trained on; two tools {two:.1%}"
    )
    save("unseen_tools", {"runs": runs})


if __name__ == "__main__":
    main()

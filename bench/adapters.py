"""What rank an adapter needs in RL, and whether bf16 learns as fp32 does, on the miniature.

Every run goes on from one cold start, such as the demo's. Adapters of rank 1, 4 and 16 train with
ten times the learning rate of full weights, as in "LoRA Without Regret" (Schulman et al., 2025).
Full weights train in fp32 and in bf16. Each with three seeds.

    python bench/adapters.py DIR --base RUN/sft                  the runs DIR does not hold yet
    python bench/adapters.py DIR --base RUN/sft --only rank-4-0  one of them
    python bench/adapters.py DIR                                 the table alone

The summary goes to bench/results/adapters.json, the curves to docs/images/adapter_ranks.png.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from openqwq.cli import main
from openqwq.evaluation.evaluate import Outcome, accuracy

RESULTS = Path(__file__).parent / "results" / "adapters.json"
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "adapter_ranks.png"
LAST_STEPS = 5  # whose mean reward says where a run has come to
CONFIG = """
model = "{base}"
precision = "{precision}"
threads = 1
seed = {seed}

[engine]
max_length = 384
slots = 128

[evaluation]
data = ["addition", "subtraction", "linear"]
limit = 50
samples = 1
max_tokens = 160

[data]
addition = {{ source = "addition", options = {{ min_digits = 3, max_digits = 4 }} }}
subtraction = {{ source = "subtraction", options = {{ min_digits = 3, max_digits = 4 }} }}
linear = {{ source = "linear", options = {{ max_slope = 25, max_offset = 80 }} }}

[[stages]]
name = "rl"
kind = "rl"
data = {{ addition = 1.0, subtraction = 1.0, linear = 1.0 }}
steps = 16
prompts_per_step = 8
group_size = 16
max_tokens = 160
optimiser = {{ lr = {lr}, warmup_steps = 2, decay_share = 0.2, final_lr_share = 0.1 }}
{lora}
"""


@dataclass(frozen=True)
class Variant:
    """What one run trains, and in which numbers."""

    kind: str
    rank: int  # 0: full weights
    precision: str
    seed: int

    @property
    def name(self) -> str:
        """The directory of the run."""
        return f"{self.kind}-{self.seed}"

    def config(self, base: Path) -> str:
        """The run's TOML."""
        rate, lora = "1e-4", ""
        if self.rank:
            rate, lora = "1e-3", f"lora = {{ rank = {self.rank} }}"
        return CONFIG.format(
            base=base.resolve(),
            precision=self.precision,
            seed=self.seed,
            lr=rate,
            lora=lora,
        )


def variants() -> list[Variant]:
    """All runs, those of the first seed first."""
    found: list[Variant] = []
    for seed in range(3):
        for rank in (1, 4, 16):
            found.append(Variant(f"rank-{rank}", rank, "fp32", seed))
        found.append(Variant("full", 0, "fp32", seed))
        found.append(Variant("full-bf16", 0, "bf16", seed))
    return found


def execute(folder: Path, base: Path, variant: Variant) -> None:
    """Train one variant to its end, from where it stands."""
    config = folder / f"{variant.name}.toml"
    config.write_text(variant.config(base))
    out = folder / variant.name
    if main(["train", str(config), "--out", str(out), "--resume"]):
        raise SystemExit(f"the run {out} failed")


def is_finished(folder: Path, variant: Variant) -> bool:
    """Whether a run has its last evaluation."""
    return (folder / variant.name / "evaluation" / "rl.json").exists()


def summary(out: Path) -> dict[str, Any]:
    """Rewards by step, and held-out accuracy in percent before and after with its 95% interval."""
    lines = (out / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if record["stage"] == "rl"]
    rewards = [step["reward"] for step in steps]
    found: dict[str, Any] = {"rewards": rewards, "reward": mean(rewards[-LAST_STEPS:])}
    found["gap"] = max(step["log_prob_gap"] for step in steps)
    for name in ("start", "rl"):
        saved = json.loads((out / "evaluation" / f"{name}.json").read_text())
        outcomes = [Outcome(**outcome) for outcome in saved["outcomes"]]
        share = accuracy(outcomes)
        found[name] = {"percent": 100 * share.pass_at_1, "half": 100 * share.half_width}
    return found


def plot(found: dict[str, dict[str, Any]]) -> None:
    """The rewards of the fp32 runs by step, means over the seeds."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    curves: dict[str, list[list[float]]] = {}
    for variant in variants():
        if variant.precision == "fp32" and variant.name in found:
            curves.setdefault(variant.kind, []).append(found[variant.name]["rewards"])
    for kind, runs in curves.items():
        axes.plot(
            [mean(step) for step in zip(*runs, strict=True)], label=kind.replace("-", " ")
        )
    axes.set_xlabel("RL step")
    axes.set_ylabel("mean reward")
    axes.legend()
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGE, dpi=120)


def run() -> None:
    """Run what is missing, then print the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--base", type=Path, help="a cold start's checkpoint; none: only the table"
    )
    parser.add_argument("--only", help="the name of one run")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for variant in variants():
        chosen = options.only in (None, variant.name)
        if options.base and chosen and not is_finished(options.folder, variant):
            execute(options.folder, options.base, variant)

    found: dict[str, dict[str, Any]] = {}
    for variant in variants():
        if is_finished(options.folder, variant):
            found[variant.name] = summary(options.folder / variant.name)
    for name, result in found.items():
        before, after = result["start"], result["rl"]
        print(
            f"{name:<12} {before['percent']:5.1f} to {after['percent']:5.1f} ± {after['half']:.1f}%"
            f"  reward of the last {LAST_STEPS} steps {result['reward']:.3f}"
            f"  gap at most {result['gap']:.1e}"
        )
    if not options.only:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        plot(found)


if __name__ == "__main__":
    run()

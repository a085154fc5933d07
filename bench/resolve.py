"""Which versions pip chooses where OpenQwQ is installed with another package, newest first.

    python bench/resolve.py [--python python3.12] [PACKAGE ...]        # or: make resolve

Nothing is installed: pip resolves `openqwq` with its extras and the newest release of each peer,
in an empty environment, and reports. A peer that cannot be had in its newest release has failed.
The table goes to standard output, and every version to bench/results/resolve.json.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench" / "results" / "resolve.json"
EXTRAS = "agent,cluster,data,hub,llamacpp,remote,serve"
PEERS = ("vllm", "sglang", "trl", "peft", "hydra-core", "verifiers")
SHOWN = ("torch", "antlr4-python3-runtime", "transformers", "mcp", "llguidance", "numpy")
SECONDS = 1200  # for one peer
PIP = "pip>=25"  # from here on a dry run reads metadata without downloading wheels
REASON_LINES = 12  # of pip's explanation, which ends with the conflict


def main() -> int:
    """Resolve each peer, print a row for it, and save the table; 1 if any failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("peers", nargs="*", default=PEERS, metavar="PACKAGE")
    parser.add_argument(
        "--python", default=sys.executable, help="whose versions to resolve for"
    )
    options = parser.parse_args()
    header = ["peer", "version", *SHOWN, "seconds"]
    print("|", " | ".join(header), "|")
    print("|", " | ".join(["---"] * len(header)), "|")

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        python = environment(Path(folder) / "venv", options.python)
        for peer in options.peers:
            row = resolved(python, peer, Path(folder) / "report.json")
            rows.append(row)
            print(table_row(row), flush=True)
        version = subprocess.check_output([python, "--version"], text=True).strip()
    saved = {
        "date": date.today().isoformat(),
        "python": version,
        "platform": platform.platform(),
        "extras": EXTRAS,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(saved, indent=2) + "\n")

    failed = [row for row in rows if row["error"]]
    for row in failed:
        print(f"\n{row['peer']}:\n{row['error']}", file=sys.stderr)
    return 1 if failed else 0


def environment(folder: Path, python: str) -> str:
    """The interpreter of a new environment that holds nothing but a recent pip."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    made = str(folder / "bin" / "python")
    subprocess.run([made, "-m", "pip", "install", "--quiet", "--quiet", PIP], check=True)
    return made


def resolved(python: str, peer: str, report: Path) -> dict[str, Any]:
    """The newest version of `peer`, and what pip chose with it; "error" says why it could not."""
    started = time.monotonic()
    newest = newest_version(python, peer)
    command = [
        python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
        "--report", str(report), f"{ROOT}[{EXTRAS}]", f"{peer}=={newest}",
    ]  # fmt: skip
    row: dict[str, Any] = {"peer": peer, "newest": newest, "versions": {}, "error": ""}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        row["error"] = f"pip did not finish in {SECONDS} s"
    else:
        if done.returncode:
            row["error"] = "\n".join(done.stderr.strip().splitlines()[-REASON_LINES:])
        else:
            row["versions"] = chosen(json.loads(report.read_text()))
    row["seconds"] = round(time.monotonic() - started)
    return row


def newest_version(python: str, peer: str) -> str:
    """The newest release of `peer` that this interpreter may install."""
    command = [python, "-m", "pip", "index", "versions", "--json", peer]
    found = json.loads(
        subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
    )
    return str(found["latest"])


def chosen(report: dict[str, Any]) -> dict[str, str]:
    """Every package that pip would install, with its version."""
    packages = [each["metadata"] for each in report["install"]]
    return {each["name"].lower().replace("_", "-"): each["version"] for each in packages}


def table_row(row: dict[str, Any]) -> str:
    """One row of the table, as Markdown."""
    versions = [row["versions"].get(name, "–") for name in SHOWN]
    outcome = row["newest"]
    if row["error"]:
        outcome += " FAILED"
    return f"| {' | '.join([row['peer'], outcome, *versions, str(row['seconds'])])} |"


if __name__ == "__main__":
    sys.exit(main())

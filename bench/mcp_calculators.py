"""The calculators of public MCP servers, used by a model through `qwq agent`.

    python bench/mcp_calculators.py CHECKPOINT --python PYTHON [--count 20] [--name NAME]

PYTHON belongs to an environment with the servers (they want `mcp` below 2):
    pip install 'mcp<2' mcp-server-calculator arithmo-mcp-server
Each server is started as its users start it and asked for products of two numbers of four or five
digits, one question a call. An answer counts if its last number is the product and the server was
called. The figures go to bench/results/mcp_calculators.json.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from trainings import RESULTS, save

# What starts each server, and the tools that are offered of it.
SERVERS: dict[str, tuple[list[str], list[str]]] = {
    "mcp-server-calculator": (["-m", "mcp_server_calculator"], ["calculate"]),
    "arithmo-mcp-server": (
        ["-c", "from arithmo_mcp_server.server import mcp; mcp.run()"],
        ["perform_calculation"],
    ),
}


def settings(python: Path, server: str, folder: Path) -> Path:
    """The file that names one server, in the form of MCP clients."""
    arguments, offered = SERVERS[server]
    entry = {"command": str(python), "args": arguments, "allow": offered}
    path = folder / f"{server}.json"
    path.write_text(json.dumps({"mcpServers": {server: entry}}))
    return path


def questions(count: int) -> list[tuple[str, int]]:
    """Products of two numbers of four or five digits, with their results."""
    rng = random.Random(20261129)
    drawn: list[tuple[str, int]] = []
    for _ in range(count):
        a = rng.randint(1000, 99999)
        b = rng.randint(1000, 99999)
        drawn.append((f"What is {a} * {b}?", a * b))
    return drawn


def answered(output: str, product: int) -> bool:
    """Whether the last number of an answer is the product."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", output.replace(",", ""))
    return bool(numbers) and float(numbers[-1]) == product


def ask(
    checkpoint: Path, servers: Path, offered: list[str], question: str
) -> tuple[str, str]:
    """What `qwq agent` prints: the answer, and on standard error the thinking and the calls."""
    allowed = [argument for name in offered for argument in ("--allow", name)]
    command = [
        sys.executable,
        "-m",
        "openqwq",
        "agent",
        str(checkpoint),
        "--mcp",
        str(servers),
    ]
    limits = ["--context", "512", "--max-tokens", "160", "--steps", "4"]
    done = subprocess.run(
        [*command, *allowed, *limits],
        input=question,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout, done.stderr


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--name", default="many tools", help="of the model, in the results")
    options = parser.parse_args()

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for server, (_, offered) in SERVERS.items():
            servers = settings(options.python, server, Path(folder))
            right = 0
            called = 0
            for question, product in questions(options.count):
                output, details = ask(options.checkpoint, servers, offered, question)
                used = f"calls {offered[0]}" in details
                called += used
                right += used and answered(output, product)
            found[server] = {"asked": options.count, "called": called, "right": right}
            print(f"{server}: {right} of {options.count} right, {called} called the tool")

    path = RESULTS / "mcp_calculators.json"
    models = json.loads(path.read_text())["models"] if path.exists() else {}
    save("mcp_calculators", {"models": {**models, options.name: found}})


if __name__ == "__main__":
    main()

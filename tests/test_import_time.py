"""`import openqwq` and `qwq --help` stay quick because they load no heavy library."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "jinja2",
    "math_verify",
    "matplotlib",
    "numpy",
    "reasoning_gym",
    "starlette",
    "sympy",
    "tensorboard",
    "tokenizers",
    "torch",
    "transformers",
    "uvicorn",
}
HELP = """
import sys
from openqwq.cli import main
sys.argv = ["qwq", "--help"]
try:
    code = main()
except SystemExit as stop:
    code = stop.code
assert not code, f"qwq --help ended with {code!r}"
"""
STATEMENTS = {"import openqwq": "import openqwq", "openqwq.types": "import openqwq.types"}
if (Path(__file__).parents[1] / "openqwq" / "cli.py").exists():
    STATEMENTS["qwq --help"] = HELP


def heavy_modules_after(statements: str) -> set[str]:
    """The heavy libraries that a fresh interpreter has loaded once it ran `statements`."""
    probe = f"{statements}\nimport sys\nprint('loaded', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("statements", STATEMENTS.values(), ids=STATEMENTS)
def test_loads_no_heavy_library(statements: str) -> None:
    assert heavy_modules_after(statements) == set()


def test_the_probe_sees_a_heavy_library() -> None:
    assert heavy_modules_after("import numpy") == {"numpy"}

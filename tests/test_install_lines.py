"""The install lines of README and docs/install.md, run as they are written: `make installs`.

They need PyPI and minutes, so they run only where INSTALLS_HOME names a directory for what they
install. constraints.txt reaches pip and uv by their own variables: what is installed is what CI
tests, and the lines stay as they are.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openqwq import __version__

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/install.md")
LINE = re.compile(r"^((?:pip|pipx|uv tool) install .*?)(?:\s+#.*)?$", re.MULTILINE)
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "openqwq")
SECONDS = 1500  # for one line

HOME = os.environ.get("INSTALLS_HOME")


def install_lines() -> list[str]:
    """Each different line, in the order in which a reader meets it."""
    lines: dict[str, None] = {}
    for page in PAGES:
        for line in LINE.findall((ROOT / page).read_text()):
            lines[line] = None
    return list(lines)


def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    """The output of a shell command that must succeed."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of programs with pipx and uv, as their own users have them."""
    folder = Path(HOME or tmp_path_factory.mktemp("installs")) / "tools"
    if not (folder / "bin" / "uv").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = folder / "bin" / "pip"
        subprocess.run([pip, "install", "--quiet", "pipx", "uv"], check=True)
    return folder / "bin"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What is installed from, copied, as building writes there."""
    folder = tmp_path / "openqwq"
    folder.mkdir()
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc")
            )
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def environment_of(folder: Path, tools: Path) -> dict[str, str]:
    """A user's environment: an active virtual environment, pipx and uv, and nothing of ours."""
    variables = dict(os.environ)
    variables.pop("PYTHONPATH", None)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    commands = folder / "bin"
    variables["VIRTUAL_ENV"] = str(folder / "venv")
    variables["PATH"] = f"{folder}/venv/bin:{commands}:{tools}:{variables['PATH']}"
    variables["PIP_CONSTRAINT"] = str(ROOT / "constraints.txt")
    variables["UV_CONSTRAINT"] = str(ROOT / "constraints.txt")
    variables["UV_PYTHON"] = sys.executable
    variables["PIPX_DEFAULT_PYTHON"] = sys.executable
    variables["PIPX_HOME"] = str(folder / "pipx")
    variables["PIPX_BIN_DIR"] = str(commands)
    variables["UV_TOOL_DIR"] = str(folder / "uv")
    variables["UV_TOOL_BIN_DIR"] = str(commands)
    if "PIP_FIND_LINKS" in variables:
        variables["UV_FIND_LINKS"] = variables["PIP_FIND_LINKS"]
    return variables


def test_the_pages_show_pip_pipx_and_uv() -> None:
    programs = {line.split(" ")[0] for line in install_lines()}
    assert programs == {"pip", "pipx", "uv"}


@pytest.mark.skipif(HOME is None, reason="make installs: needs PyPI and minutes")
@pytest.mark.parametrize("line", install_lines())
def test_an_install_line_works_as_it_is_written(
    line: str, clone: Path, tools: Path, tmp_path: Path
) -> None:
    variables = environment_of(tmp_path, tools)
    run(line, clone, variables)
    assert run("qwq --version", tmp_path, variables) == f"openqwq {__version__}\n"
    assert "qwq doctor" in run("qwq", tmp_path, variables)
    page = run("qwq doctor", tmp_path, variables)
    assert f"OpenQwQ        {__version__} in {tmp_path}" in page
    assert "llama.cpp      not installed" not in page

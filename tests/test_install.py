"""What is built installs into an empty environment, whole, and runs there under both names."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from openqwq import __version__
from openqwq.cli import main

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "openqwq")
BUILD = (
    "import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
)
# Calls and files that only Linux has, and where they may be: each place does without elsewhere.
ONLY_LINUX = re.compile(r"os\.sysconf|sched_getaffinity|/proc/|RLIMIT_AS")
MAY_ASK_LINUX = {"__init__.py", "model/fit.py", "model/precision.py", "verify/workers.py"}


def run(command: list[str | Path], folder: Path) -> str:
    """The output of a command that must succeed, with nothing of this checkout on its path."""
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, destination: Path) -> Path:
    """The wheel or sdist that setuptools makes of `source`; this environment has setuptools."""
    destination.mkdir()
    run([sys.executable, "-c", BUILD.format(kind=kind), str(destination)], source)
    (built,) = destination.iterdir()
    return built


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built from, as building writes beside it."""
    folder = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc")
            )
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("built") / "wheel")


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of the wheel alone; what it depends on comes from the one that tests."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", "venv"], folder)
    interpreter = folder / "venv" / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", interpreter]
    run([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], folder)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run([interpreter, "-c", ask], folder).strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return interpreter


def files_of_package() -> set[str]:
    """Every file of the package but what Python compiles."""
    found = (ROOT / "openqwq").rglob("*")
    return {
        path.relative_to(ROOT).as_posix()
        for path in found
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    assert wheel.name == f"openqwq-{__version__}-py3-none-any.whl"
    held = {
        name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("openqwq/")
    }
    assert held == files_of_package()


def test_the_sdist_builds_the_same_wheel(wheel: Path, source: Path, tmp_path: Path) -> None:
    sdist = build("sdist", source, tmp_path / "sdist")
    assert sdist.name == f"openqwq-{__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build(
        "wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "wheel"
    )
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_both_names_of_the_command_run_where_only_the_wheel_is(
    python: Path, tmp_path: Path
) -> None:
    ask = "import openqwq; print(openqwq.__file__)"
    assert run([python, "-c", ask], tmp_path).startswith(str(python.parents[1]))
    said = f"openqwq {__version__}\n"
    assert run([python.with_name("qwq"), "--version"], tmp_path) == said
    assert run([python, "-m", "openqwq", "--version"], tmp_path) == said


def test_a_tag_and_the_changelog_name_this_version() -> None:
    """A commit that is released carries the tag of the version that it says it is."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(\d.*?)\] - \d{4}-\d{2}-\d{2}$", changelog, re.MULTILINE)
    assert newest and newest[1] == __version__
    listed = subprocess.run(
        ["git", "tag", "--points-at", "HEAD", "--list", "v*"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert set(listed.stdout.split()) <= {f"v{__version__}"}


def test_every_mention_of_an_extra_names_one_that_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "openqwq").rglob("*.py"),
    ]
    for page in pages:
        for extras in re.findall(r"openqwq\[([a-z,]+)\]", page.read_text()):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), page


def test_an_installed_config_is_found(python: Path, tmp_path: Path) -> None:
    assert "seed = 0" in run([python, "-m", "openqwq", "demo", "--dry-run"], tmp_path)


@pytest.mark.parametrize("page", ["README.md", "docs/install.md"])
def test_the_extras_that_a_page_installs_exist(page: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = re.findall(r"install '\.\[(.+?)\]'", (ROOT / page).read_text())
    assert lists
    for extras in lists:
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_the_command_alone_names_four_things_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    greeting = capsys.readouterr().out
    suggested = re.findall(r"^  qwq (\w+)", greeting, re.MULTILINE)
    assert len(suggested) == 4
    for verb in suggested:
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0


def test_what_only_linux_has_is_asked_for_in_few_places() -> None:
    package = ROOT / "openqwq"
    asking = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if ONLY_LINUX.search(path.read_text())
    }
    outside = {name for name in asking if not name.startswith("sandbox/")}
    assert outside == MAY_ASK_LINUX

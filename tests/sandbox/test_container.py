"""Inside containers: full isolation for an ordinary user, else a refusal that says what to do."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCTOR = [sys.executable, "-m", "openqwq.cli", "sandbox", "doctor"]
ALL = ["--unshare-all", "--dev-bind", "/", "/", "--proc", "/proc"]


@pytest.fixture
def bubblewrap(layers: dict[str, str]) -> list[str]:
    """A command that runs another one as in a container; skipped where it cannot."""
    if layers["namespaces"]:
        pytest.skip(f"user namespaces are absent here: {layers['namespaces']}")
    if not shutil.which("bwrap"):
        pytest.skip("needs bubblewrap (Debian: apt install bubblewrap)")
    return ["bwrap", *ALL]


def doctor(container: list[str]) -> tuple[int, str]:
    ended = subprocess.run(
        [*container, *DOCTOR], cwd=REPOSITORY, capture_output=True, text=True
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_an_ordinary_user_of_a_container_gets_every_layer(bubblewrap: list[str]) -> None:
    status, text = doctor([*bubblewrap, "--uid", "1000", "--gid", "1000"])
    assert (status, "levels that hold here: full" in text) == (0, True), text


def test_a_container_that_forbids_namespaces_is_told_the_layer_the_call_and_the_remedy(
    bubblewrap: list[str],
) -> None:
    status, text = doctor(
        [*bubblewrap, "--unshare-user", "--disable-userns", "--uid", "1000"]
    )
    assert (status, "levels that hold here: none" in text) == (2, True), text
    assert "'namespaces' is missing ([Errno 28] unshare: " in text
    assert "--security-opt seccomp=unconfined" in text

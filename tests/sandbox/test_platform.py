"""The sandbox refuses by name the machines whose kernels have no such layers."""

import platform
import subprocess
import sys

import pytest

from openqwq.sandbox.local import LocalSandbox, doctor
from openqwq.types import OpenQwQError


@pytest.mark.parametrize(
    ("system", "machine"), [("Darwin", "arm64"), ("Darwin", "x86_64"), ("Linux", "aarch64")]
)
async def test_another_platform_is_refused_before_anything_is_started(
    system: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    refusal = f"this is {system} on {machine}"
    with pytest.raises(OpenQwQError, match=refusal):
        await doctor()
    with pytest.raises(OpenQwQError, match=refusal):
        await LocalSandbox(1).start()
    with pytest.raises(OpenQwQError, match=refusal):
        await LocalSandbox(1).session()


def test_a_library_may_have_opened_the_descriptor_that_reports_go_to() -> None:
    """As libffi does on Fedora and Debian 14: its own file, for reading, in the lowest number."""
    program = (
        "import os\n"
        "from openqwq.sandbox.init import Zygote\n"
        "os.dup2(os.open('/dev/null', os.O_RDONLY), 3)\n"
        "Zygote(frozenset(), None).rehearse(os.open('/dev/null', os.O_RDWR))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

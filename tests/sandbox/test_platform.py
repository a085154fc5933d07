"""The sandbox refuses by name the machines whose kernels have no such layers."""

import platform

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

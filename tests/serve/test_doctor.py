"""`qwq doctor` says what works on a machine, and one line for whatever does not."""

import platform
import sys
from collections.abc import Iterator

import pytest

from openqwq.cli import main
from openqwq.serve import doctor


def only(rows: Iterator[doctor.Finding]) -> dict[str, str]:
    return dict(rows)


def test_the_page_has_every_part_and_names_the_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    for part in doctor.PARTS:
        assert f"{part}\n" in page
    assert doctor.__version__ in page
    assert "HF_HUB_OFFLINE is set" in page


def test_a_sandbox_that_cannot_be_here_is_one_line_that_names_the_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    (finding,) = only(doctor.sandbox()).values()
    for expected in ("namespaces", "seccomp", "Landlock", "Darwin on arm64"):
        assert expected in finding


def test_without_pytorch_the_other_parts_are_still_examined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = only(doctor.engines())
    assert "cannot be loaded" in found["PyTorch"]


def test_a_package_that_is_missing_comes_with_the_command_that_installs_it() -> None:
    assert doctor.version_of("no-such-package", "llamacpp") == (
        "not installed: pip install 'openqwq[llamacpp]'"
    )


def test_a_hub_that_cannot_be_reached_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    access = only(doctor.hub())["access"]
    assert "http://127.0.0.1:9 cannot be reached: " in access


def test_a_busy_machine_is_warned_of() -> None:
    assert doctor.busy_cores(8, 0.25) == "8, of which 0.2 are busy"
    assert "slower" in doctor.busy_cores(2, 13.0)

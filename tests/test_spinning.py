"""OpenMP's threads soon sleep where they find no work, unless the user says otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import openqwq

SHOWN = "import openqwq.model.linear, openqwq.model.qwen2"


@pytest.mark.skipif(
    sys.platform != "linux", reason="PyTorch's wheels have libgomp on Linux only"
)
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "GOMP_SPINCOUNT = '"),
        ({"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "OMP_WAIT_POLICY = 'ACTIVE'"),
    ],
)
def test_openmp_takes_our_count_of_spins_or_the_users(
    own: dict[str, str], expected: str
) -> None:
    rest = {k: v for k, v in os.environ.items() if not k.startswith(("GOMP_", "OMP_WAIT"))}
    environment = rest | {"OMP_DISPLAY_ENV": "VERBOSE"} | own
    done = subprocess.run(
        [sys.executable, "-c", SHOWN],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert expected in done.stderr
    ours = any(f"GOMP_SPINCOUNT = '{count}'" in done.stderr for count in (0, 3000))
    assert ours is (own == {})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what runs")
@pytest.mark.parametrize(("others", "shared"), [(0, False), (1, True), (5, True)])
def test_threads_sleep_at_once_where_others_keep_the_cores_busy(
    others: int, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    told = tmp_path / "loadavg"
    told.write_text(f"1.05 0.52 0.20 {1 + others}/240 31337\n")
    assert openqwq.cores_are_shared(str(told)) is shared
    # On a machine with five more cores, which we may not use, they are no hindrance.
    monkeypatch.setattr(os, "cpu_count", lambda: cores + 5)
    assert not openqwq.cores_are_shared(str(told))


def test_cores_are_not_shared_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert not openqwq.cores_are_shared(str(tmp_path / "missing"))

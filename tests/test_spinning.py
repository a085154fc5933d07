"""OpenMP's threads soon sleep where they find no work, unless the user says otherwise."""

import os
import subprocess
import sys

import pytest

SHOWN = "import openqwq.model.linear, openqwq.model.qwen2"


@pytest.mark.skipif(
    sys.platform != "linux", reason="PyTorch's wheels have libgomp on Linux only"
)
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "GOMP_SPINCOUNT = '3000'"),
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
    assert ("GOMP_SPINCOUNT = '3000'" in done.stderr) is (own == {})

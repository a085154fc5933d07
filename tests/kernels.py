"""Runs the tests that compare numbers once for each set of kernels a CPU may have.

    python tests/kernels.py [PYTEST_ARGUMENT ...]

PyTorch, MKL and oneDNN choose their kernels by the CPU's vendor and instructions. Environment
variables make them choose as on an older CPU; on one that is not Intel's, a small library tells
MKL that it is (needs a C compiler). Prints a line for each setting; the exit status is 1 where one
has failures.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ["tests/model", "tests/engine", "tests/train", "tests/cluster/test_sharded.py"]
OLDER = "MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2"
EVERYWHERE = ["", "OMP_NUM_THREADS=1", "OMP_NUM_THREADS=4", "ATEN_CPU_CAPABILITY=default"]
ON_X86 = ["ATEN_CPU_CAPABILITY=avx2", "MKL_ENABLE_INSTRUCTIONS=AVX2", OLDER]
ON_AVX512 = ["ATEN_CPU_CAPABILITY=avx512"]
AS_INTEL = ["", "MKL_ENABLE_INSTRUCTIONS=AVX2", "OMP_NUM_THREADS=4"]
# MKL asks these when it is first used; the names are those of libtorch_cpu.so.
SHIM = """
int mkl_serv_intel_cpu(void) { return 1; }
int mkl_serv_intel_cpu_true(void) { return 1; }
int mkl_serv_cpuiszen(void) { return 0; }
"""


def cpu() -> str:
    """The CPU's name and instructions, as Linux tells them; elsewhere its kind alone."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else platform.processor()


def settings(folder: Path) -> list[str]:
    """What to set, as NAME=VALUE separated by spaces; the shim is built in `folder`."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return EVERYWHERE
    found = EVERYWHERE + ON_X86
    if "avx512f" in cpu():
        found += ON_AVX512
    compiler = shutil.which("cc")
    if "GenuineIntel" in cpu() or compiler is None or sys.platform != "linux":
        return found
    source, shim = folder / "intel.c", folder / "intel.so"
    source.write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, source], check=True)
    return found + [f"LD_PRELOAD={shim} {more}".strip() for more in AS_INTEL]


def run(setting: str, arguments: list[str]) -> tuple[bool, str]:
    """Whether the tests pass with the setting, and pytest's last line."""
    command = [sys.executable, "-m", "pytest", *FOLDERS, *arguments]
    environment = dict(os.environ)
    for pair in setting.split():
        name, value = pair.split("=", 1)
        environment[name] = value
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    failures = [
        line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))
    ]
    last = (done.stdout.splitlines() or [done.stderr])[-1]
    return done.returncode == 0, "\n    ".join([last, *failures])


def main() -> int:
    """Print the table; return the exit status."""
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings(Path(folder)):
            started = time.monotonic()
            passed, told = run(setting, sys.argv[1:])
            failed = failed or not passed
            name = setting.replace(f"LD_PRELOAD={folder}/intel.so", "MKL as on Intel")
            seconds = time.monotonic() - started
            print(f"{name or 'as it is':40} {seconds:5.0f} s  {told}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

"""Isolated runs per second and what a program may still do: the fork-server and bubblewrap.

Both give a program fresh pid and mount namespaces, a private tmpfs, an empty network and a clean
environment; bubblewrap starts a new Python for every case, and adds neither a system call filter
nor Landlock nor limits. The fork-server was kept: it is several times faster because the
interpreter and its usual modules are already up, it needs no installed program, and its
supervisor decides how a case ended from outside the case's processes.

    python bench/sandbox.py [--repeats 5] [--workers 2]

The peer is left out, with a line that says so, where `bwrap` (Debian's package bubblewrap) is not
installed.
"""

import argparse
import asyncio
import os
import platform
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path

from openqwq.sandbox.local import LocalSandbox
from openqwq.sandbox.protocol import Case, RunRequest

SOURCE = "print(sum(map(int, input().split())))"
STDIN = "1 2 3"
GOALS = {1: 200, 10: 100}  # runs/s, by cases a run
PROBES = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    if libc.syscall(*map(ctypes.c_long, arguments)) < 0 and ctypes.get_errno() in (1, 38):
        raise OSError
def grow(size):
    for _ in range(size // 2**24): kept.append(bytes(2**24))
def write(size):
    with open("/tmp/big", "wb") as file:
        for _ in range(size // 2**24): file.write(bytes(2**24))
def fork():
    pid = os.fork()
    os.waitpid(pid, 0) if pid else os._exit(0)
kept = []
probes = {
    "reads /etc/passwd": lambda: open("/etc/passwd"),
    "looks into /proc": lambda: open("/proc/self/status"),
    "makes a socket": socket.socket,
    "starts a process": fork,
    "makes a user namespace": lambda: call(272, 0x10000000),
    "io_uring": lambda: call(425, 1, 0),
    "keyrings": lambda: call(250, 0, -3, 1),
    "bpf": lambda: call(321, 0, 0, 0),
    "userfaultfd": lambda: call(323, 1),
    "memfd": lambda: os.close(os.memfd_create("x")),
    "opens 500 files": lambda: kept.extend(os.open("/dev/null", 0) for _ in range(500)),
    "writes 128 MiB": lambda: write(2**27),
    "takes 768 MiB of memory": lambda: grow(3 * 2**28),
    "ptrace": lambda: call(101, 0, 0, 0, 0),
}
for name, probe in probes.items():
    try: probe()
    except (OSError, MemoryError): print(name, "held", sep=":", flush=True)
    else: print(name, "OPEN", sep=":", flush=True)
    kept.clear()
"""


async def bubblewrap(source: str) -> str:
    """Run a program on STDIN in its own bubblewrap and return its output."""
    paths = [
        path
        for path in ("/lib", "/lib64", "/usr/lib", sys.base_prefix)
        if Path(path).exists()
    ]
    binds = [word for path in paths for word in ("--ro-bind", path, path)]
    command = [
        "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        *binds,
    ]
    python = [str(Path(sys.executable).resolve()), "-I", "-S", "-c", source]
    process = await asyncio.create_subprocess_exec(
        *command, "--tmpfs", "/tmp", "--dev", "/dev", *python,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate(STDIN.encode())
    return output.decode()


async def attack(sandbox: LocalSandbox) -> None:
    """Print what a program may do in each design."""
    outputs = {"fork-server": (await sandbox.run(RunRequest(PROBES))).cases[0].stdout}
    if shutil.which("bwrap"):
        outputs["bubblewrap"] = await bubblewrap(PROBES)
    found = {
        name: dict(row.split(":") for row in text.split("\n") if row)
        for name, text in outputs.items()
    }
    print(f"{'a program':24} " + " ".join(f"{name:>11}" for name in found))
    for probe in found["fork-server"]:
        print(
            f"{probe:24} "
            + " ".join(
                f"{verdicts.get(probe, 'no answer'):>11}" for verdicts in found.values()
            )
        )


async def measure(run: Callable[[], Awaitable[None]], runs: int, workers: int) -> float:
    """Return runs per second, `workers` at a time."""
    slots = asyncio.Semaphore(workers)

    async def one() -> None:
        async with slots:
            await run()

    started = time.perf_counter()
    await asyncio.gather(*[one() for _ in range(runs)])
    return runs / (time.perf_counter() - started)


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time used so far by this process, its ended children, workers and zygotes."""
    total = sum(os.times()[:4])
    zygotes = [Path(f"/proc/{pid}/task/{pid}/children").read_text() for pid in pids]
    for pid in [*pids, *" ".join(zygotes).split()]:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


async def main() -> None:
    """Print both designs side by side, interleaved, with 1 and with 10 cases a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, load {load:.1f} at start, {date.today()}"
    )
    if not shutil.which("bwrap"):
        print(
            "bubblewrap is left out: bwrap is not installed (Debian: apt install bubblewrap)"
        )
    async with LocalSandbox(options.workers) as sandbox:
        for cases, runs in ((1, 400), (10, 60)):
            request = RunRequest(SOURCE, cases=(Case(STDIN),) * cases)

            async def ours(request: RunRequest = request) -> None:
                result = await sandbox.run(request)
                assert all(case.stdout == "6\n" for case in result.cases), result

            async def theirs(cases: int = cases) -> None:
                for _ in range(cases):
                    assert await bubblewrap(SOURCE) == "6\n"

            designs: dict[str, tuple[Callable[[], Awaitable[None]], int]]
            designs = {"fork-server": (ours, runs)}
            if shutil.which("bwrap"):
                designs["bubblewrap"] = (theirs, max(4, runs // 10))
            rates: dict[str, list[float]] = {name: [] for name in designs}
            cpu = 0.0  # of ours; bubblewrap's inner process is not reaped by us, so not counted
            for _ in range(options.repeats):
                for name, (run, count) in designs.items():
                    before = cpu_seconds(sandbox.pids())
                    rates[name].append(await measure(run, count, options.workers))
                    if name == "fork-server":
                        used = cpu_seconds(sandbox.pids()) - before
                        cpu += used / count / options.repeats
            for name, values in rates.items():
                low, middle, high = min(values), statistics.median(values), max(values)
                spread = f"(median of {len(values)}; min {low:.1f}, max {high:.1f})"
                print(f"{name:11} {cases:2} case(s) a run: {middle:6.1f} runs/s {spread}")
            print(
                f"fork-server {cases:2} case(s) a run: {1000 * cpu:.1f} ms CPU in all processes"
            )
            middle = statistics.median(rates["fork-server"])
            met = "met" if middle >= GOALS[cases] else "NOT met"
            print(f"goal of {GOALS[cases]} runs/s {met}")
        await attack(sandbox)
    for name, who in (
        ("self", resource.RUSAGE_SELF),
        ("children", resource.RUSAGE_CHILDREN),
    ):
        print(f"peak memory {name}: {resource.getrusage(who).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    asyncio.run(main())

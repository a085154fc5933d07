"""Whether the sandbox stays clean: many mixed runs, then hostile requests to a server under load.

1. Ordinary programs and those of `tests/sandbox/attacks`, mixed: each must end as its header says,
   and afterwards no process, file, mount, shared memory, socket or descriptor may be left.
2. Hostile requests to `qwq sandbox serve`, 64 at a time, while other processes use every core: each
   must be answered, in time and never by `error`, and the memory of the server with its workers
   must stay flat.

    python bench/sandbox_soak.py [--runs 1000] [--requests 10000]

Prints what it counted; the exit status is 1 on any breach.
"""

import argparse
import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "sandbox"))

from test_attacks import Host, mixed_runs, suited  # noqa: E402

from openqwq.sandbox.client import RemoteSandbox  # noqa: E402
from openqwq.sandbox.local import LocalSandbox  # noqa: E402
from openqwq.sandbox.protocol import Case, Limits, RunRequest  # noqa: E402

CLIENTS, SERVER_WORKERS = 64, 8
LIMITS = Limits(wall_seconds=0.3, cpu_seconds=1.0)
# seconds, with the turn in the queue, after which an answer counts as lost
PATIENCE = 120.0
GROWTH = 1.1, 16.0  # of memory from the first quarter to the last: a factor, and MiB


async def mixed(runs: int) -> None:
    """Do part 1; AssertionError names what was left behind."""
    started = time.monotonic()
    async with LocalSandbox(workers=4) as sandbox:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
            host = Host(Path(place), sandbox)
            try:
                await mixed_runs(host, runs, 8)
            finally:
                host.close()
    print(f"{runs} mixed runs in {time.monotonic() - started:.0f} s, nothing left behind")


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """Run `qwq sandbox serve`; yield its address and process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["sandbox", "serve", "--port", str(port), "--workers", str(SERVER_WORKERS)]
    command = [sys.executable, "-m", "openqwq.cli", *words, "--queue", str(CLIENTS // 2)]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stderr=log, cwd=ROOT) as process,
    ):
        while b"running on" not in os.pread(log.fileno(), 2**16, 0):
            time.sleep(0.1)
            assert process.poll() is None, "the server ended"
        try:
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.wait()
            log.seek(0)
            print(
                *(f"  server: {line}" for line in log if not line.startswith("INFO")),
                sep="",
            )


@contextmanager
def load() -> Iterator[None]:
    """Keep every core busy."""
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def tree(root: int) -> list[int]:
    """Return a process, its children and theirs: a server, its workers and their zygotes."""
    found = [root]
    for pid in found:
        with suppress(OSError):  # it has ended
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found += map(int, children)
    return found


def megabytes(root: int) -> float:
    """Return the resident memory of a server and its workers, in MiB."""
    pages = 0
    for pid in tree(root):
        with suppress(OSError):  # it has ended
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def hostile(requests: int) -> list[str]:
    """Do part 2; return the breaches."""
    chance, counts, answers = random.Random(1), Counter[str](), 0
    sources = [
        attack.source for attack in suited() if attack.header.get("run") != "session"
    ]
    slowest, sizes, started = 0.0, list[float](), time.monotonic()

    async def one(client: RemoteSandbox, slots: asyncio.Semaphore) -> None:
        nonlocal slowest, answers
        limits = replace(LIMITS, processes=chance.choice((1, 1, 1, 4)))
        case = Case('{"pid": 1, "port": 1, "file": "/", "socket": "/", "abstract": "x"}')
        async with slots:
            begun = time.monotonic()
            result = await client.run(
                RunRequest(chance.choice(sources), cases=(case,), limits=limits)
            )
            slowest = max(slowest, time.monotonic() - begun)
        answers += 1
        counts[result.status] += 1
        if result.status == "error":
            print(f"error: {result.error}")

    with server() as (url, pid), load():
        async with RemoteSandbox(url) as client:
            await asyncio.gather(
                *[client.run(RunRequest("")) for _ in range(4 * SERVER_WORKERS)]
            )
            slots = asyncio.Semaphore(CLIENTS)
            for quarter in range(4):
                count = requests * (quarter + 1) // 4 - requests * quarter // 4
                await asyncio.gather(*[one(client, slots) for _ in range(count)])
                sizes.append(megabytes(pid))
            text = (await client.client.get("/metrics")).text
    deaths = int(text.split("\nopenqwq_sandbox_worker_deaths_total ")[1].split()[0])
    seconds, errors = time.monotonic() - started, counts["error"]
    print(
        f"{requests} hostile requests, {answers} answers, {errors} errors in {seconds:.0f} s"
    )
    print(f"  {dict(counts)}, {counts.total() / seconds:.0f}/s, {deaths} deaths of workers")
    print(f"  slowest answer {slowest:.1f} s, with its turn in the queue")
    print(f"  server and workers after each quarter: {[round(size) for size in sizes]} MiB")
    factor, room = GROWTH
    breaches = {
        "an answer was lost": answers < requests,
        "the sandbox failed": errors > 0,
        f"an answer took over {PATIENCE} s": slowest > PATIENCE,
        "memory grew": sizes[-1] > factor * sizes[0] + room,
        "a worker died": deaths > 0,
    }
    return [name for name, holds in breaches.items() if holds]


def main() -> int:
    """Do both parts; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    print(f"{date.today()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at start")
    if options.runs:
        asyncio.run(mixed(options.runs))
    breaches = asyncio.run(hostile(options.requests)) if options.requests else []
    print(f"breaches: {', '.join(breaches) or 'none'}")
    return int(bool(breaches))


if __name__ == "__main__":
    sys.exit(main())

"""Math verifications a second, side by side with math-verify in process; then a hostile load.

Run: python bench/verify_math.py [passes]. Every kind of work is done three times before the clock
runs. Ours keeps parsed golds, never verdicts, and has one worker process a core.
"""

import asyncio
import json
import os
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path

import math_verify

from openqwq.types import Score, Task
from openqwq.verify.math import MathVerifier

WARM_UP = 3
TABLE = Path(__file__).parents[1].parent / "shared/data/math-equivalence/cases.jsonl"
REFUSED = ["10**10**10", "$5^{5^{5^{5}}}$", "9" * 100_000, "$100000000!$"]
ENDLESS = [
    "$\\sum_{i=1}^{10^9} \\sin(i)$",
    "$\\binom{10^9}{5\\cdot 10^8}$",
    "-" * 30_000 + "1",
]

Pairs = list[tuple[str, str]]


async def score(verifier: MathVerifier, pairs: Pairs) -> list[Score]:
    tasks = [Task("bench", "math", (), "math", answer=gold) for gold, _ in pairs]
    return await asyncio.gather(
        *map(verifier.score, tasks, (answer for _, answer in pairs))
    )


async def rate(work: Callable[[Pairs], Awaitable[object]], pairs: Pairs) -> float:
    start = time.perf_counter()
    await work(pairs)
    return len(pairs) / (time.perf_counter() - start)


async def compare(passes: int) -> None:
    rows = [json.loads(row) for row in TABLE.read_text().strip().split("\n")]
    table = [(row["gold"], row["prediction"]) for row in rows]
    integers = [(str(i), f"\\boxed{{{i + i % 2}}}") for i in range(4096)]

    async def in_process(pairs: Pairs) -> None:
        for gold, prediction in pairs:
            math_verify.verify(math_verify.parse(gold), math_verify.parse(prediction))

    async with MathVerifier(thinking=False, workers=os.cpu_count() or 1) as verifier:

        async def ours(pairs: Pairs) -> None:
            scores = await score(verifier, pairs)
            assert all(s.status in ("correct", "wrong") for s in scores)

        kinds = {
            "math-verify in process": (in_process, table),
            "ours": (ours, table),
            "ours, 4,096 integers": (ours, integers),
        }
        rates: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(WARM_UP + passes):
            for name, work in kinds.items():
                rates[name].append(await rate(*work))
    baseline = statistics.median(rates["math-verify in process"][WARM_UP:])
    print(f"{len(table)} pairs, {passes} passes; verifications/s: min, median, max, ratio")
    for name, every in rates.items():
        low, high = min(every[WARM_UP:]), max(every[WARM_UP:])
        middle = statistics.median(every[WARM_UP:])
        print(
            f"  {name:24s} {low:9.0f} {middle:9.0f} {high:9.0f} {middle / baseline:8.2f}x"
        )


def children() -> list[int]:
    """Return the processes that this one started."""
    listed = Path("/proc/self/task").glob("*/children")  # by the thread that started them
    return [int(pid) for path in listed for pid in path.read_text().split()]


def megabytes(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def load(count: int) -> None:
    """Half of the requests are refused at once, one in 250 never ends, the rest are ordinary."""

    def pair(i: int) -> tuple[str, str]:
        hostile = ENDLESS[i % 3] if i % 250 == 0 else REFUSED[i % 4]
        return str(i), hostile if i % 2 == 0 else f"$\\frac{{{2 * i}}}{{2}}$"

    resident, workers = list[str](), list[str]()
    async with MathVerifier(
        thinking=False, workers=os.cpu_count() or 1, deadline=1.0
    ) as verifier:
        counts: Counter[str] = Counter()
        start = time.perf_counter()
        for step in range(4):
            pairs = [pair(i) for i in range(step * count // 4, (step + 1) * count // 4)]
            counts.update(s.status for s in await score(verifier, pairs))
            resident.append(f"{megabytes(os.getpid()):.0f}")
            workers.append(f"{sum(map(megabytes, children())):.0f}")
        seconds = time.perf_counter() - start
    print(f"{count} requests, half hostile: {dict(counts)} in {seconds:.0f} s")
    print(f"  this process after each quarter: {', '.join(resident)} MiB")
    print(f"  its workers: {', '.join(workers)} MiB; load average {os.getloadavg()[0]:.1f}")


async def main(passes: int) -> None:
    print(f"{date.today()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at start")
    await compare(passes)
    await load(10_000)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7))

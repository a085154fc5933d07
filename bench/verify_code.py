"""Every code data set through the code verifier: references must pass, faulty programs must fail.

For HumanEval, MBPP (full and sanitized) and the LeetCode set: each reference solution, four gutted
versions of it, and up to ten mutants with one small fault each. For CodeContests and LiveCodeBench,
which come without solutions: a program that knows every answer, and one that gets the last wrong.

A mutant that passes is either equivalent to the reference or not told from it by the set's own
tests. To show that the fault is not ours, each such mutant is run once more against those tests
by a plain Python (they are faults in trusted solutions, not programs of a model): both must agree.

    python bench/verify_code.py [--mutants 10] [--sample N]

Prints a table; the exit status is 1 where a reference fails, a gutted program passes, or a verdict
differs from plain Python's.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "verify"))

from code_sets import SETS, Loader, faulty, gutted, oracle, stdin_sets, verdicts
from set_rows import WHOLE

from openqwq.types import Score, Task

Jobs = list[tuple[Task, str]]


def judged(jobs: Jobs, seconds: float) -> list[Score]:
    """Return the verdicts on programs."""
    return asyncio.run(verdicts(jobs, seconds))


def passes_plainly(job: tuple[Task, str]) -> bool:
    """Whether a program passes its set's tests in an ordinary Python, without our sandbox."""
    tests = job[0].tests
    assert tests and tests.entry_point
    name = tests.entry_point.partition(".")[0]
    # Apart, as in the sandbox: a program's own version of a helper is not the script's.
    code = f"""
theirs, script = {{}}, {{"__name__": "__main__"}}
exec({tests.setup!r}, theirs)
exec({job[1]!r}, theirs)
exec({tests.setup!r}, script)
script[{name!r}] = theirs[{name!r}]
script["candidate"] = eval({tests.entry_point.replace(".", "().", 1)!r}, theirs)
exec({tests.script or ""!r}, script)
"""
    command = [sys.executable, "-c", code]
    try:
        run = subprocess.run(command, capture_output=True, timeout=60, cwd="/var/tmp")
    except subprocess.TimeoutExpired:
        return False
    return run.returncode == 0


def chosen(jobs: Iterable[tuple[Task, str]], sample: int) -> Jobs:
    """Return a sample of jobs, or all of them."""
    every = list(jobs)
    return random.Random(0).sample(every, min(sample or len(every), len(every)))


def sweep(load: Loader, mutants: int, sample: int) -> bool:
    """Print one line for a set with solutions; return whether it is as it must be."""
    started, references = time.monotonic(), chosen(load(WHOLE), sample)
    hollow = [
        (t, m)
        for t, s in references
        for m in gutted(s, (t.tests and t.tests.entry_point) or "")
    ]
    broken = [
        (task, mutant) for task, source in references for mutant in faulty(source, mutants)
    ]
    right = Counter(score.status for score in judged(references, 20.0))
    empty = Counter(score.status for score in judged(hollow, 5.0))
    scores = judged(broken, 3.0)
    counts = Counter(score.status for score in scores)
    alive = [
        job for job, score in zip(broken, scores, strict=True) if score.status == "correct"
    ]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        agreed = sum(threads.map(passes_plainly, alive))
    print(
        f"{load.__name__:15} {right['correct']:4} of {len(references):4} references pass, "
        f"{empty['correct']} of {len(hollow):4} gutted ones; {len(broken):5} mutants: "
        f"{dict(counts)}, and {agreed} of the {len(alive)} passing ones pass plainly too "
        f"({time.monotonic() - started:.0f} s)"
    )
    errors = right["error"] + empty["error"] + counts["error"]
    whole = right["correct"] == len(references) and not empty["correct"]
    return whole and agreed == len(alive) and not errors


def sweep_oracles(sample: int) -> bool:
    """Print one line for the sets without solutions; return whether they are as they must be."""
    tasks = [
        (task, task.tests)
        for task, _ in chosen(((t, "") for t in stdin_sets(WHOLE)), sample)
    ]
    good = judged([(task, oracle(tests)) for task, tests in tasks if tests], 20.0)
    bad = judged([(task, oracle(tests, "7")) for task, tests in tasks if tests], 20.0)
    kinds = dict(Counter(task.kind for task, _ in tasks))
    right, wrong = (
        sum(s.status == "correct" for s in good),
        sum(s.status == "wrong" for s in bad),
    )
    print(f"{kinds}: {right} knowing programs pass, {wrong} with one wrong answer fail")
    return right == wrong == len(tasks)


def main() -> int:
    """Sweep every set; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=10, help="of each reference")
    parser.add_argument(
        "--sample", type=int, default=0, help="references of each set; 0: all"
    )
    options = parser.parse_args()
    print(f"{date.today()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at start")
    held = [sweep(load, options.mutants, options.sample) for load in SETS]
    held.append(sweep_oracles(options.sample))
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main())

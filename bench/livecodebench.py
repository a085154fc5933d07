"""Our judge of contest programs and LiveCodeBench's own grader, on our programs.

    git clone https://github.com/LiveCodeBench/LiveCodeBench
    python bench/livecodebench.py LiveCodeBench/lcb_runner/evaluation/testing_util.py

The official file is loaded from where you put it; it is not part of this repository. Each program
gets a fresh process there, as its own runner gives it. `livecodebench_programs.py` holds our
programs; none of them does harm outside a sandbox. The result goes to bench/results.
"""

import argparse
import asyncio
import contextlib
import hashlib
import importlib.util
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from livecodebench_programs import Program, programs

from openqwq.sandbox.local import LocalSandbox
from openqwq.types import CodeTests, TestCase
from openqwq.verify.contest import ContestVerifier

RESULTS = Path(__file__).with_name("results") / "livecodebench.json"
SECONDS = 2
# Programs that we judge otherwise on purpose, and why.
DIFFERENT: dict[str, str] = {}


def official_verdict(path: str, program: Program) -> bool:
    """Whether the official grader passes a program."""
    _, form, source, tests = program
    inputs, outputs = zip(*tests, strict=True)
    name = "f" if form == "call" else None
    sample = {
        "input_output": json.dumps({"inputs": inputs, "outputs": outputs, "fn_name": name})
    }
    parent, child = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=grade, args=(path, sample, source, child))
    process.start()
    child.close()
    results: list[Any] = [-1]
    if parent.poll((SECONDS + 1) * len(tests) + 5):
        with contextlib.suppress(EOFError):  # it died: the official runner fails every test
            results = parent.recv()
    process.kill()
    process.join()
    return all(each is True for each in results)


def grade(path: str, sample: dict[str, str], source: str, answer: Any) -> None:
    """Load the official file in this process and send its results."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    specification = importlib.util.spec_from_file_location("testing_util", path)
    assert specification and specification.loader
    grader = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(grader)
    sys.set_int_max_str_digits(50_000)  # as its runner does
    found, _ = grader.run_test(sample, test=source, timeout=SECONDS)
    plain = []
    for each in found:
        value = each.item() if hasattr(each, "item") else each
        plain.append(value)
    answer.send(plain)


async def our_verdicts(jobs: list[Program]) -> list[str]:
    """The status that we give each program."""
    async with LocalSandbox(2, packages=("numpy",)) as sandbox:
        verifier = ContestVerifier(sandbox, thinking=False, seconds=SECONDS)
        pending = []
        for name, form, source, tests in jobs:
            cases = []
            for given, expected in tests:
                if form == "call":
                    arguments = [json.loads(line) for line in given.split("\n")]
                    cases.append(TestCase(arguments, json.loads(expected)))
                else:
                    cases.append(TestCase(given, expected))
            point = "f" if form == "call" else None
            packed = CodeTests(form, tuple(cases), point)  # type: ignore[arg-type]
            pending.append(verifier.judge(source, packed, name))
        return [score.status for score in await asyncio.gather(*pending)]


def main() -> None:
    """Judge every program twice and print where the verdicts differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("official", help="testing_util.py of LiveCodeBench")
    options = parser.parse_args()
    jobs = list(programs())
    assert len({name for name, *_ in jobs}) == len(jobs)

    started = time.monotonic()
    official = [official_verdict(options.official, job) for job in jobs]
    between = time.monotonic()
    ours = asyncio.run(our_verdicts(jobs))
    ended = time.monotonic()

    differences = {}
    for job, theirs, status in zip(jobs, official, ours, strict=True):
        if theirs != (status == "correct"):
            verdict = "passes" if theirs else "fails"
            reason = DIFFERENT.get(job[0], "NOT EXPLAINED")
            differences[job[0]] = f"official {verdict}, ours {status}: {reason}"
    result = {
        "official_sha256": hashlib.sha256(Path(options.official).read_bytes()).hexdigest(),
        "programs": len(jobs),
        "official_passes": sum(official),
        "our_statuses": Counter(ours),
        "agreement": 1 - len(differences) / len(jobs),
        "differences": differences,
        "official_seconds": round(between - started, 1),
        "our_seconds": round(ended - between, 1),
        "python": sys.version.split()[0],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

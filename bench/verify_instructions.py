"""Agreement of the instruction rules with IFEval's published verdicts on five models' responses.

    python bench/verify_instructions.py

Prints a line for each instruction; the exit status is 1 where one agrees below 99.5%.
"""

import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "verify"))

from ifeval_agreement import DIFFERENT, Agreement, agreement  # noqa: E402
from set_rows import WHOLE  # noqa: E402

LEAST = 0.995


def line(name: str, *criteria: Agreement) -> str:
    """Return one row of the table."""
    shares = (
        f"{one.equal:5} of {one.total:5} {one.equal / one.total:8.2%}" for one in criteria
    )
    return f"{name:45} " + "   ".join(shares)


def together(every: Iterable[Agreement]) -> Agreement:
    """Return the sum over all instructions."""
    found = list(every)
    return Agreement(sum(one.equal for one in found), sum(one.total for one in found))


def main() -> int:
    """Print the table; return the exit status."""
    started = time.perf_counter()
    strict, loose = (agreement(WHOLE, kind) for kind in ("strict", "loose"))
    seconds = time.perf_counter() - started
    print(f"{'instruction':45} {'strict':>23}   {'loose':>23}")
    for name in sorted(strict):
        print(line(name, strict[name], loose[name]))
    every = [*strict.values(), *loose.values()]
    print(line("all", together(strict.values()), together(loose.values())))
    print(f"{sum(one.total for one in every)} verdicts in {seconds:.1f} s of one core")
    for key, reason in DIFFERENT.items():
        count = sum(each == key for one in every for each, _ in one.differing)
        print(f"not counted: prompt {key} {reason} ({count} differ)")
    return int(any(one.equal < LEAST * one.total for one in every))


if __name__ == "__main__":
    sys.exit(main())

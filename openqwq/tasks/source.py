"""What a procedural source of problems is, and how training and held-out ones stay apart."""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from openqwq.types import CodeTests, Message, OpenQwQError, Task

Split = Literal["train", "held_out"]
HELD_OUT_SHARE = 8  # one problem in this many is held out


@dataclass(frozen=True)
class Problem:
    """One drawn problem. Equal `key`s are the same problem, however it is worded."""

    key: str
    question: str
    thinking: str
    reply: str  # what a perfect model says after its thinking
    answer: str | None = None
    tests: CodeTests | None = None


@dataclass(frozen=True)
class Source:
    """A kind of problem: `draw` makes one from a random generator; `verifier` judges it."""

    kind: str
    verifier: str
    draw: Callable[[random.Random], Problem]


def split_of(kind: str, key: str) -> Split:
    """The side a problem belongs to, a pure function of the problem itself."""
    digest = hashlib.sha256(f"{kind}:{key}".encode()).digest()
    return "held_out" if digest[0] % HELD_OUT_SHARE == 0 else "train"


def draw_tasks(
    source: Source, split: Split, seed: int | str, start: int = 0, thinking_share: float = 1.0
) -> Iterator[Task]:
    """An endless stream of tasks of one split, of which task `i` depends on (seed, i) alone.

    A worked solution is attached; only `thinking_share` of them write their thinking out.
    Raises OpenQwQError if the source has no problem on that side in 1,000 draws.
    """
    index = start
    while True:
        rng = random.Random(f"{source.kind}/{split}/{seed}/{index}")
        for _ in range(1000):
            problem = source.draw(rng)
            if split_of(source.kind, problem.key) == split:
                break
        else:
            raise OpenQwQError(
                f"{source.kind} made no {split} problem in 1,000 draws: widen its range"
            )
        thinking = f"{problem.thinking}\n" if rng.random() < thinking_share else ""
        message: Message = {"role": "user", "content": problem.question}
        yield Task(
            id=f"{source.kind}:{problem.key}",
            kind=source.kind,
            messages=(message,),
            verifier=source.verifier,
            answer=problem.answer,
            tests=problem.tests,
            solution=f"{thinking}</think>\n\n{problem.reply}",
        )
        index += 1


def distinct(tasks: Iterator[Task], count: int) -> list[Task]:
    """The first `count` different problems of a stream; fewer where 20 draws each find no more."""
    found: dict[str, Task] = {}
    for task in islice(tasks, 20 * count):
        found.setdefault(task.id, task)
        if len(found) == count:
            break
    return list(found.values())

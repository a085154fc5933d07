"""What a procedural source of problems is, and how training and held-out ones stay apart."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

from openqwq.types import CodeTests, Message, OpenQwQError, Rule, Task, ToolCall

Split = Literal["train", "held_out"]
HELD_OUT_SHARE = 8  # one problem in this many is held out


@dataclass(frozen=True)
class Problem:
    """One drawn problem. Equal `key`s are the same problem, however it is worded.

    `hasty` is said without thinking where that is worse than `reply`. With `tools`, a worked
    solution makes `call`, is answered `result`, and only then replies.
    """

    key: str
    question: str
    thinking: str
    reply: str  # what a perfect model says after its thinking
    answer: str | None = None
    tests: CodeTests | None = None
    rules: tuple[Rule, ...] = ()
    hasty: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    call: ToolCall | None = None
    result: str = ""


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
    source: Source,
    split: Split,
    seed: int | str,
    start: int = 0,
    thinking_share: float = 1.0,
    tool_share: float = 1.0,
) -> Iterator[Task]:
    """An endless stream of tasks of one split, of which task `i` depends on (seed, i) alone.

    A worked solution is attached; only `thinking_share` of them write their thinking out, and only
    `tool_share` of those that could call a tool do.
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
        share = thinking_share if problem.call is None else tool_share
        yield _task(source, problem, rng.random() < share)
        index += 1


def _task(source: Source, problem: Problem, worked: bool) -> Task:
    """The task of a problem, its solution `worked` out or given at once."""
    message: Message = {"role": "user", "content": problem.question}
    task = Task(
        id=f"{source.kind}:{problem.key}",
        kind=source.kind,
        messages=(message,),
        verifier=source.verifier,
        answer=problem.answer,
        tests=problem.tests,
        rules=problem.rules,
        tools=problem.tools,
    )
    answer = f"</think>\n\n{problem.reply}"
    if not worked:
        return replace(task, solution=f"</think>\n\n{problem.hasty or problem.reply}")
    if problem.call is None:
        return replace(task, solution=f"{problem.thinking}\n{answer}")
    call = f"<tool_call>\n{json.dumps(problem.call)}\n</tool_call>"
    turn: Message = {"role": "assistant", "content": "", "tool_calls": [problem.call]}
    result: Message = {"role": "tool", "content": problem.result}
    return replace(
        task,
        solution=f"{problem.thinking}\n</think>\n\n{call}",
        continuation=replace(task, messages=(message, turn, result), solution=answer),
    )


def distinct(tasks: Iterator[Task], count: int) -> list[Task]:
    """The first `count` different problems of a stream; fewer where 20 draws each find no more."""
    found: dict[str, Task] = {}
    for task in islice(tasks, 20 * count):
        found.setdefault(task.id, task)
        if len(found) == count:
            break
    return list(found.values())

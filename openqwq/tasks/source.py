"""What a procedural source of problems is, and how training and held-out ones stay apart."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, cast

from openqwq.types import CodeTests, Message, OpenQwQError, Rule, Task

Split = Literal["train", "held_out"]
HELD_OUT_SHARE = 8  # one problem in this many is held out


@dataclass(frozen=True)
class Turn:
    """A worked reply, with its thinking and calls, and what the environment answers to it."""

    reply: Message
    answers: tuple[Message, ...]


@dataclass(frozen=True)
class Problem:
    """One drawn problem. Equal `key`s are the same problem, however it is worded.

    `hasty` is said without thinking where that is worse than `reply`. In an environment a worked
    solution plays `turns` first, whose thinking is their own, and only then replies.
    """

    key: str
    question: str
    thinking: str
    reply: str  # what a perfect model says after its thinking
    answer: str | None = None
    reference: object = None
    tests: CodeTests | None = None
    rules: tuple[Rule, ...] = ()
    hasty: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Source:
    """A kind of problem: `draw` makes one from a random generator; `verifier` judges it.

    `environment` names the world whose tools its problems are meant to be solved with.
    """

    kind: str
    verifier: str
    draw: Callable[[random.Random], Problem]
    environment: str = ""


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
    `tool_share` of those that could play in an environment do.
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
        share = tool_share if problem.turns else thinking_share
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
        environment=source.environment,
        answer=problem.answer,
        reference=problem.reference,
        tests=problem.tests,
        rules=problem.rules,
        tools=problem.tools,
    )
    if not worked:
        return replace(task, solution=completion_of("", problem.hasty or problem.reply))

    history = list(task.messages)
    earlier: list[Task] = []
    for turn in problem.turns:
        solution = completion_of(turn.reply.get("reasoning_content", ""), _said(turn.reply))
        earlier.append(replace(task, messages=tuple(history), solution=solution))
        shown = {
            key: value for key, value in turn.reply.items() if key != "reasoning_content"
        }
        history += [cast(Message, shown), *turn.answers]

    solution = completion_of(problem.thinking, problem.reply)
    made = replace(task, messages=tuple(history), solution=solution)
    for previous in reversed(earlier):
        made = replace(previous, continuation=made)
    return made


def _said(reply: Message) -> str:
    """A reply's text and calls, as the model writes them."""
    calls = [json.dumps(call) for call in reply.get("tool_calls", [])]
    blocks = [f"<tool_call>\n{call}\n</tool_call>" for call in calls]
    return "\n".join(filter(None, [reply["content"], *blocks]))


def completion_of(thinking: str, text: str) -> str:
    """What follows the prompt's `<think>`: the thinking, its end, and the text."""
    if not thinking:
        return f"</think>\n\n{text}"
    return f"{thinking}\n</think>\n\n{text}"


def distinct(tasks: Iterator[Task], count: int) -> list[Task]:
    """The first `count` different problems of a stream; fewer where 20 draws each find no more."""
    found: dict[str, Task] = {}
    for task in islice(tasks, 20 * count):
        found.setdefault(task.id, task)
        if len(found) == count:
            break
    return list(found.values())

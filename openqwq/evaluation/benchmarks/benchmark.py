"""What a benchmark is: items, how they are asked, who judges them, and its published figure."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from openqwq.evaluation.benchmarks.data import Library
from openqwq.evaluation.responders import ChatReply
from openqwq.evaluation.results import Record, pass_at_1
from openqwq.evaluation.statistics import Interval
from openqwq.text.template import Tools
from openqwq.types import Message, Task

# The next assistant turn to these messages, with these tools on offer.
AskModel = Callable[[Sequence[Message], Tools], Awaitable[ChatReply]]


async def one_question(task: Task, ask: AskModel) -> ChatReply:
    """Ask the task's own messages, once."""
    return await ask(task.messages, task.tools)


@dataclass(frozen=True)
class Benchmark:
    """`samples` are those of QwQ's published protocol; `options` are what `load` was given.

    `headline` makes the published kind of figure of all records.
    """

    name: str
    title: str
    samples: int
    load: Callable[[Library], list[Task]]
    conduct: Callable[[Task, AskModel], Awaitable[ChatReply]] = one_question
    headline: Callable[[Sequence[Record]], Interval] = pass_at_1


def seed_of(run_seed: int, task_id: str, sample: int) -> int:
    """The seed of one reply: a pure function, so that order and resumption do not matter."""
    digest = hashlib.sha256(f"{run_seed}/{task_id}/{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def mean_of(scores: Sequence[Interval]) -> Interval:
    """The mean of independent scores, with the interval of its error."""
    share = 1 / len(scores)
    mean = 0.0
    below = 0.0  # squares
    above = 0.0
    for score in scores:
        mean += share * score.value
        below += (share * (score.value - score.low)) ** 2
        above += (share * (score.high - score.value)) ** 2
    return Interval(mean, max(0.0, mean - below**0.5), min(1.0, mean + above**0.5))

"""What a benchmark is: items, how they are asked, who judges them, and its published figure."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from openqwq.evaluation.benchmarks.data import Library
from openqwq.evaluation.chat import ChatReply, Tools
from openqwq.evaluation.results import Record, pass_at_1
from openqwq.evaluation.statistics import Interval
from openqwq.types import Message, Task

# The next assistant turn to these messages, with these tools on offer.
Ask = Callable[[Sequence[Message], Tools], Awaitable[ChatReply]]


async def one_question(task: Task, ask: Ask) -> ChatReply:
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
    conduct: Callable[[Task, Ask], Awaitable[ChatReply]] = one_question
    headline: Callable[[Sequence[Record]], Interval] = pass_at_1


def seed_of(run_seed: int, task_id: str, sample: int) -> int:
    """The seed of one reply: a pure function, so that order and resumption do not matter."""
    digest = hashlib.sha256(f"{run_seed}/{task_id}/{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def weighted(values: Mapping[str, tuple[float, Interval]]) -> Interval:
    """The weighted sum of independent scores, with the interval of its error."""
    total = sum(weight for weight, _ in values.values())
    shares = [(weight / total, interval) for weight, interval in values.values()]
    mean = sum(share * interval.value for share, interval in shares)
    low = sum((share * (i.value - i.low)) ** 2 for share, i in shares) ** 0.5
    high = sum((share * (i.high - i.value)) ** 2 for share, i in shares) ** 0.5
    return Interval(mean, max(0.0, mean - low), min(1.0, mean + high))

"""Any reasoning-gym dataset as a source, judged by that dataset's own scorer."""

import asyncio
import random
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import reasoning_gym

from openqwq.sandbox.data import encode
from openqwq.tasks.source import Problem, Source
from openqwq.types import OpenQwQError, Score, Task
from openqwq.verify.answer import final_answer
from openqwq.verify.short_answer import short_answers
from openqwq.verify.workers import JudgePool

Entry = Mapping[str, Any]
MAX_CHARACTERS = 32_768


def chain_sum_thinking(entry: Entry) -> str:
    """`4-1=3 3+5=8` for 4 - 1 + 5: a running total."""
    terms = re.findall(r"[+-]|\d+", entry["question"].rpartition(":")[2])
    total = int(terms[0])
    steps: list[str] = []
    for sign, term in zip(terms[1::2], terms[2::2], strict=True):
        following = total + int(f"{sign}{term}")
        steps.append(f"{total}{sign}{term}={following}")
        total = following
    return " ".join(steps)


def spell_backward_thinking(entry: Entry) -> str:
    """`n u s` for nus: one letter at a time."""
    return " ".join(str(entry["answer"]))


def gcd_thinking(entry: Entry) -> str:
    """`78%46=32 46%32=14 ...`: Euclid's algorithm."""
    numbers = [int(n) for n in re.findall(r"\d+", entry["question"])]
    b, a = sorted(numbers[:2])
    steps: list[str] = []
    while b:
        steps.append(f"{a}%{b}={a % b}")
        a, b = b, a % b
    return " ".join(steps)


def _none(entry: Entry) -> str:
    return ""


# Datasets whose working we can write out, so that a cold start can show thinking.
THINKING: dict[str, Callable[[Entry], str]] = {
    "chain_sum": chain_sum_thinking,
    "spell_backward": spell_backward_thinking,
    "gcd": gcd_thinking,
}


@dataclass(frozen=True)
class GymEntry:
    """What a scorer of reasoning-gym compares with: the dataset's own entry."""

    entry: Entry


def gym(dataset: str, **options: Any) -> Source:
    """Problems of the reasoning-gym dataset `dataset` under its own `options`.

    Raises OpenQwQError for a name or an option that reasoning-gym does not know.
    """
    try:
        entries = reasoning_gym.create_dataset(dataset, size=2**31 - 1, seed=0, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise OpenQwQError(
            f"reasoning-gym refuses {dataset!r} with {options}: {error}"
        ) from error
    thinking = THINKING.get(dataset, _none)

    def draw(rng: random.Random) -> Problem:
        entry: dict[str, Any] = entries[rng.randrange(2**31 - 1)]
        question = entry["question"]
        answer = str(entry["answer"])
        return Problem(
            question,
            question,
            thinking(entry),
            answer,
            answer,
            GymEntry(plain_entry(entry)),
        )

    return Source(dataset, "gym", draw)


def plain_entry(value: Any) -> Any:
    """An entry without objects of other libraries, which become texts; its types are kept."""
    if isinstance(value, dict):
        return {plain_entry(key): plain_entry(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(plain_entry(part) for part in value)
    if value is None or isinstance(value, bool | int | float | str | bytes | complex):
        return value
    return str(value)


class GymVerifier(AbstractAsyncContextManager["GymVerifier"]):
    """Judges by reasoning-gym's scorer; partial credit is kept, full credit is `correct`.

    The answer is what is tagged, boxed, announced, in bold or alone after `</think>`. Scorers run
    in `workers` processes of `memory` bytes; `timeout`: no value in `deadline` CPU seconds.
    `error`: the scorer cannot read its own gold either. What it cannot read is `wrong`.
    """

    def __init__(
        self,
        thinking: bool = True,
        workers: int = 1,
        deadline: float = 10.0,
        memory: int = 2**31,
    ) -> None:
        self._thinking = thinking
        self._pool = JudgePool("openqwq.tasks.gym_worker", workers, deadline, memory)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._pool.close)

    async def score(self, task: Task, completion: str) -> Score:
        """See the class."""
        reply = final_answer(completion, self._thinking)
        if reply is None:
            return Score(0.0, "truncated", detail="no </think>")
        if len(reply) > MAX_CHARACTERS:
            return Score(
                0.0, "wrong", detail=f"the answer is over {MAX_CHARACTERS} characters"
            )
        if not isinstance(task.reference, GymEntry):
            return Score(0.0, "error", detail=f"task {task.id!r} is not of reasoning-gym")
        entry = encode(task.reference.entry)
        request = {"entry": entry, "answers": short_answers(reply)}
        found = await self._pool.ask(request)
        return Score(found.get("value", 0.0), found["status"], detail=found["detail"])

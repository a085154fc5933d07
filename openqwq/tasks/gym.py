"""Any reasoning-gym dataset as a source, judged by that dataset's own scorer."""

import json
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

import reasoning_gym

from openqwq.tasks.source import Problem, Source
from openqwq.types import OpenQwQError, Score, Task

Entry = Mapping[str, Any]


def chain_sum_thinking(entry: Entry) -> str:
    """`4-1=3 3+5=8` for 4 - 1 + 5: a running total."""
    terms = re.findall(r"[+-]|\d+", entry["question"].rpartition(":")[2])
    total, steps = int(terms[0]), []
    for sign, term in zip(terms[1::2], terms[2::2], strict=True):
        following = total + int(term) if sign == "+" else total - int(term)
        steps.append(f"{total}{sign}{term}={following}")
        total = following
    return " ".join(steps)


def spell_backward_thinking(entry: Entry) -> str:
    """`n u s` for nus: one letter at a time."""
    return " ".join(str(entry["answer"]))


def gcd_thinking(entry: Entry) -> str:
    """`78%46=32 46%32=14 ...`: Euclid's algorithm."""
    numbers = [int(n) for n in re.findall(r"\d+", entry["question"])]
    a, b = max(numbers[:2]), min(numbers[:2])
    steps = []
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


def gym(dataset: str, **options: Any) -> Source:
    """Problems of the reasoning-gym dataset `dataset` under its own `options`.

    Raises OpenQwQError for a name or an option that reasoning-gym does not know.
    """
    try:
        entries = reasoning_gym.create_dataset(dataset, size=2**31 - 1, seed=0, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise OpenQwQError(f"reasoning-gym refuses {dataset!r} with {options}: {error}") from error
    thinking = THINKING.get(dataset, _none)

    def draw(rng: random.Random) -> Problem:
        entry: dict[str, Any] = entries[rng.randrange(2**31 - 1)]
        answer = json.dumps(entry | {"dataset": dataset}, default=str)
        question = entry["question"]
        return Problem(question, question, thinking(entry), str(entry["answer"]), answer=answer)

    return Source(dataset, "gym", draw)


class GymVerifier:
    """Judges by reasoning-gym's scorer; partial credit is kept, full credit is `correct`."""

    async def score(self, task: Task, completion: str) -> Score:
        """The answer is all that stands after `</think>`."""
        _, closed, answer = completion.partition("</think>")
        if not closed:
            return Score(0.0, "truncated", detail="the thinking never ends")
        entry = json.loads(task.answer or "{}")
        try:
            scorer = reasoning_gym.get_score_answer_fn(entry["metadata"]["source_dataset"])
            value = float(scorer(answer.strip(), entry))
        except Exception as error:  # any of 100 third-party scorers: its failure is not the model's
            return Score(0.0, "error", detail=f"{type(error).__name__}: {error}")
        return Score(value, "correct" if value == 1.0 else "wrong")

"""Entries to look up in a JSON object: short prompts that teach a model to copy what it reads.

A call copies its tool's name and arguments out of a description of some hundred tokens. A model
learns to copy far sooner from objects of a few dozen, in the words that `calculators` trains on.
"""

import json
import random

from openqwq.tasks.calculators import SEEN, coined, coined_names
from openqwq.tasks.source import Problem, Source
from openqwq.types import OpenQwQError

WORDS = (*SEEN.verbs, *SEEN.nouns, *SEEN.texts, *SEEN.lists, *SEEN.operations)
WORD_SHARE = 0.2  # of the keys and texts: English, the others are coined
TEXT_SHARE = 0.6  # of the values: texts, and not numbers
MOST_DIGITS = 10  # a product's of two numbers with five


def lookups(max_entries: int, max_asked: int) -> Source:
    """Give some entries of a JSON object, of `max_entries` at most, and box the last one's value.

    The last entry asked for is a number, so that `math` can judge it.
    """
    if max_entries < 2:
        raise OpenQwQError(
            f"max_entries of lookups is {max_entries}: it must be at least 2"
        )
    if max_asked < 1:
        raise OpenQwQError(f"max_asked of lookups is {max_asked}: it must be at least 1")

    def draw(rng: random.Random) -> Problem:
        entries = _entries(rng, rng.randint(2, max_entries))
        numbers = [key for key, value in entries.items() if isinstance(value, int)]
        last = rng.choice(numbers)
        others = [key for key in entries if key != last]
        count = rng.randint(1, min(max_asked, len(entries)))
        asked = [*rng.sample(others, count - 1), last]

        question = f"{json.dumps(entries)}\nGive {', '.join(asked)} and box the last."
        given = {key: entries[key] for key in asked}
        answer = str(entries[last])
        reply = f"{json.dumps(given)}\n\\boxed{{{answer}}}"
        return Problem(question, question, "", reply, answer=answer)

    return Source("lookups", "math", draw)


def _entries(rng: random.Random, count: int) -> dict[str, str | int]:
    """`count` keys with their values, of which at least one is a number."""
    keys: dict[str, None] = {}
    if rng.random() < SEEN.alike_share:
        keys |= dict.fromkeys(coined_names(rng, SEEN, 2, alike=True))
    while len(keys) < count:
        keys[_word(rng)] = None

    entries: dict[str, str | int] = {}
    for key in keys:
        entries[key] = _word(rng) if rng.random() < TEXT_SHARE else _number(rng)
    entries[rng.choice(list(entries))] = _number(rng)
    return entries


def _word(rng: random.Random) -> str:
    return rng.choice(WORDS) if rng.random() < WORD_SHARE else coined(rng, SEEN)


def _number(rng: random.Random) -> int:
    return rng.randrange(10 ** rng.randint(1, MOST_DIGITS))

"""Finds benchmark items in training data by the word sequences they share (n-grams).

Thirteen words in a row, as in GPT-3's report (arXiv 2005.14165, appendix C). What several items of
a benchmark share is its boilerplate and does not count; a shorter item must appear whole.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwq.data.rows import read_rows
from openqwq.types import OpenQwQError, Task

WORDS = 13
FEWEST = 6  # a question of fewer words is no evidence
SHARED = 3  # items of one benchmark that share a sequence make it boilerplate
# Share of an item's sequences from which a training row holds it. Sister problems that share a
# diagram and differ in the question reach 0.87 in MATH.
REFUSED = 0.9

_Gram = tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """A training row that shares word sequences with a benchmark item; `share` of the item's."""

    row: int  # from 1
    item: str
    share: float
    words: str  # one shared sequence


class BenchmarkIndex:
    """The word sequences of every item's question."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        holders: dict[_Gram, set[str]] = defaultdict(set)
        for item, words in _questions(tasks):
            for gram in _grams(words):
                holders[gram].add(item)
        self._grams: dict[_Gram, list[str]] = {}
        self._sizes: dict[str, int] = defaultdict(int)
        for gram, items in holders.items():
            groups: dict[str, int] = defaultdict(int)
            for item in items:
                groups[item.partition("/")[0]] += 1
            kept = [item for item in sorted(items) if groups[item.partition("/")[0]] < SHARED]
            for item in kept:
                self._sizes[item] += 1
            if kept:
                self._grams[gram] = kept
        self._lengths = sorted({len(gram) for gram in self._grams})

    def search(self, text: str, row: int) -> list[Overlap]:
        """The items that share sequences with `text`, the fullest match first."""
        words = _words(text)
        found: dict[str, set[_Gram]] = defaultdict(set)
        for length in self._lengths:
            for start in range(len(words) - length + 1):
                gram = tuple(words[start : start + length])
                for item in self._grams.get(gram, ()):
                    found[item].add(gram)
        overlaps = [
            Overlap(row, item, len(grams) / self._sizes[item], " ".join(min(grams)))
            for item, grams in found.items()
        ]
        return sorted(overlaps, key=lambda overlap: -overlap.share)


def search_texts(index: BenchmarkIndex, texts: Iterable[str]) -> list[Overlap]:
    """Every row's fullest match, where it has any."""
    found = (index.search(text, row) for row, text in enumerate(texts, 1))
    return [overlaps[0] for overlaps in found if overlaps]


def require_clean(overlaps: Sequence[Overlap], source: str) -> None:
    """Raise OpenQwQError if a row holds an item (nearly) whole; lesser overlaps pass."""
    held = [overlap for overlap in overlaps if overlap.share >= REFUSED]
    if held:
        named = ", ".join(f"row {o.row} {o.item}" for o in held[:5])
        raise OpenQwQError(
            f"{source}: {len(held)} rows hold benchmark items ({named}): remove them, a model must"
            " not train on what it is evaluated with"
        )


def file_texts(path: Path) -> Iterator[str]:
    """The text of each row of a file: all its strings. Raises OpenQwQError as `read_rows` does."""
    for row in read_rows(path):
        yield " ".join(_strings(row))


def _questions(tasks: Sequence[Task]) -> Iterator[tuple[str, list[str]]]:
    """Each item's words without those with which all questions of its benchmark begin or end."""
    groups: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for task in tasks:
        text = " ".join(m["content"] for m in task.messages if m["role"] == "user")
        groups[task.id.partition("/")[0]][task.id] = _words(text)
    for questions in groups.values():
        several = len(questions) >= SHARED
        begin = _alike(list(questions.values())) if several else 0
        backwards = [words[begin:][::-1] for words in questions.values()]
        end = _alike(backwards) if several else 0
        for item, words in questions.items():
            yield item, words[begin : len(words) - end]


def _alike(sequences: Sequence[Sequence[str]]) -> int:
    """How many first words all have in common."""
    columns = enumerate(zip(*sequences, strict=False))  # as many as the shortest has words
    shortest = min(map(len, sequences))
    return next((i for i, column in columns if len(set(column)) > 1), shortest)


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for each in value:
                yield from _strings(each)
        case dict():
            for each in value.values():
                yield from _strings(each)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _grams(words: Sequence[str]) -> Iterator[_Gram]:
    length = min(WORDS, len(words))
    if length >= FEWEST:
        yield from (tuple(words[i : i + length]) for i in range(len(words) - length + 1))

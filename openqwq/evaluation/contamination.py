"""Finds benchmark items in training data by the word sequences they share (n-grams).

Thirteen words in a row, as in GPT-3's report (arXiv 2005.14165, appendix C). What several items of
a benchmark share is its boilerplate and does not count; a shorter item must appear whole.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwq.data.rows import read_rows
from openqwq.types import OpenQwQError, Task

WORDS = 13
FEWEST = 6  # a question of fewer words proves nothing
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
        self._sizes: Counter[str] = Counter()
        for gram, items in holders.items():
            sharing = Counter(map(_benchmark, items))
            kept = [item for item in sorted(items) if sharing[_benchmark(item)] < SHARED]
            self._sizes.update(kept)
            if kept:
                self._grams[gram] = kept
        self._lengths = sorted(set(map(len, self._grams)))

    def search(self, text: str, row: int) -> list[Overlap]:
        """The items that share sequences with `text`, the fullest match first."""
        words = _words(text)
        found: dict[str, set[_Gram]] = defaultdict(set)
        for length in self._lengths:
            for start in range(len(words) - length + 1):
                gram = tuple(words[start : start + length])
                for item in self._grams.get(gram, ()):
                    found[item].add(gram)
        overlaps: list[Overlap] = []
        for item, grams in found.items():
            share = len(grams) / self._sizes[item]
            overlaps.append(Overlap(row, item, share, " ".join(min(grams))))
        return sorted(overlaps, key=lambda overlap: -overlap.share)


def search_texts(index: BenchmarkIndex, texts: Iterable[str]) -> list[Overlap]:
    """Every row's fullest match, where it has any."""
    fullest: list[Overlap] = []
    for row, text in enumerate(texts, 1):
        fullest += index.search(text, row)[:1]
    return fullest


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
        groups[_benchmark(task.id)][task.id] = _words(text)
    for questions in groups.values():
        begin = 0
        end = 0
        if len(questions) >= SHARED:
            begin = _alike(list(questions.values()))
            end = _alike([words[begin:][::-1] for words in questions.values()])
        for item, words in questions.items():
            yield item, words[begin : len(words) - end]


def _benchmark(item: str) -> str:
    """The benchmark that an item belongs to."""
    return item.partition("/")[0]


def _alike(sequences: Sequence[Sequence[str]]) -> int:
    """How many first words all have in common."""
    count = 0
    for column in zip(*sequences, strict=False):  # as many as the shortest has words
        if len(set(column)) > 1:
            break
        count += 1
    return count


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
    if length < FEWEST:
        return
    for start in range(len(words) - length + 1):
        yield tuple(words[start : start + length])

"""What a run leaves on disk: one line per judged reply, appended and synced, and its summary."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean, median
from typing import Any

from openqwq.data.files import explained, write_atomically
from openqwq.evaluation.statistics import Interval, consensus, mean_interval, pass_at_k
from openqwq.types import Message, OpenQwQError


@dataclass(frozen=True)
class Record:
    """One reply to one item and its verdict; `status` "error" is no verdict: `detail` says why.

    `prediction` is the answer read from the reply, where its kind has one: it votes in cons@k.
    """

    task_id: str
    kind: str
    sample: int
    seed: int
    messages: Sequence[Message]
    reasoning: str = ""
    answer: str | None = None
    finish_reason: str = ""
    prompt_tokens: int = 0
    reasoning_tokens: int = 0
    completion_tokens: int = 0
    value: float = 0.0
    status: str = "error"
    detail: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)
    prediction: str | None = None
    # False: there is no reply, and so nothing to judge again
    generated: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """What identifies a record within its benchmark."""
        return self.task_id, self.sample


@dataclass(frozen=True)
class Summary:
    """A benchmark's figures over all items; an error counts as 0 and is also counted apart."""

    headline: Interval  # the published kind of figure, in [0, 1]
    items: int
    samples: int
    pass_at: Mapping[int, float]
    consensus: float | None  # cons@samples, where replies have a prediction
    errors: float  # shares of the replies
    truncated: float
    thinking_tokens: float  # mean over the replies that came
    median_thinking_tokens: float
    completion_tokens: int  # of all replies: the cost
    prompt_tokens: int
    parts: Mapping[str, float]  # means of the verdicts' parts, and each kind's score


def summarise(records: Sequence[Record], headline: Interval) -> Summary:
    """The figures of one benchmark's records."""
    groups = list(by_item(records).values())
    samples = min(map(len, groups))
    voting = samples > 1 and any(r.prediction for r in records)
    replies = [r for r in records if r.generated]
    thinking = [r.reasoning_tokens for r in replies] or [0]
    return Summary(
        headline,
        items=len(groups),
        samples=samples,
        pass_at=_pass_at(groups, samples),
        consensus=_consensus(groups) if voting else None,
        errors=fmean(r.status == "error" for r in records),
        truncated=fmean(r.finish_reason == "length" for r in records),
        thinking_tokens=fmean(thinking),
        median_thinking_tokens=median(thinking),
        completion_tokens=sum(r.completion_tokens for r in replies),
        prompt_tokens=sum(r.prompt_tokens for r in replies),
        parts=_parts(records),
    )


def _pass_at(groups: Sequence[Sequence[Record]], samples: int) -> dict[int, float]:
    """pass@k for each power of two that every item has samples for, up to 128."""
    rates: dict[int, float] = {}
    for k in (1, 2, 4, 8, 16, 32, 64, 128):
        if k > samples:
            break
        chances = []
        for group in groups:
            right = sum(record.value >= 1 for record in group)
            chances.append(pass_at_k(len(group), right, k))
        rates[k] = fmean(chances)
    return rates


def _consensus(groups: Sequence[Sequence[Record]]) -> float:
    votes = []
    for group in groups:
        predictions = [record.prediction for record in group]
        values = [record.value for record in group]
        votes.append(consensus(predictions, values))
    return fmean(votes)


def _parts(records: Sequence[Record]) -> dict[str, float]:
    """The mean of each part of the verdicts; of several kinds, the pass@1 of each as well."""
    values: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.parts.items():
            values.setdefault(name, []).append(value)
    means = {name: fmean(each) for name, each in values.items()}

    groups = by_kind(records)
    if len(groups) > 1:
        for kind, group in groups.items():
            means[kind] = fmean(item_values(group).values())
    return means


def by_item(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records grouped by item, each group in the order of its samples."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda r: r.sample):
        groups.setdefault(record.task_id, []).append(record)
    return groups


def by_kind(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records grouped by the kind of their item."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.kind, []).append(record)
    return groups


def item_values(records: Iterable[Record]) -> dict[str, float]:
    """Each item's mean over its samples."""
    means: dict[str, float] = {}
    for item, group in by_item(records).items():
        means[item] = fmean(record.value for record in group)
    return means


def pass_at_1(records: Sequence[Record]) -> Interval:
    """pass@1 with its clustered interval: most benchmarks' headline."""
    return mean_interval(list(item_values(records).values()))


class RecordFile:
    """A JSONL file of records; each append is synced, so that a kill loses at most one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Record]:
        """The newest record of each key; a last line that a kill cut short is removed.

        Raises OpenQwQError for a damaged line elsewhere.
        """
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        found: dict[tuple[str, int], Record] = {}
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = Record(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise OpenQwQError(
                    f"{self.path} line {number} is damaged ({error}): delete that line and --resume"
                ) from error
            found[record.key] = record
        return list(found.values())

    def append(self, record: Record) -> None:
        """Add one record durably."""
        with explained(self.path), self.path.open("ab") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())

    def replace(self, records: Iterable[Record]) -> None:
        """Replace the file with these records, atomically."""
        write_atomically(self.path, b"".join(map(_line, records)))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a run; raises OpenQwQError naming a missing or damaged file."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise OpenQwQError(
            f"{path} cannot be read ({error}): name a run of qwq eval"
        ) from error


def summary_json(summary: Summary) -> dict[str, Any]:
    """A summary as JSON data, with rates as they are (in [0, 1])."""
    return asdict(summary)


def summary_from_json(data: Mapping[str, Any]) -> Summary:
    """The inverse of `summary_json`."""
    values = {f.name: data[f.name] for f in fields(Summary)}
    values["headline"] = Interval(**values["headline"])
    values["pass_at"] = {int(k): value for k, value in values["pass_at"].items()}
    return Summary(**values)


def _line(record: Record) -> bytes:
    # JSON escapes what UTF-8 cannot hold: a model can say half of a surrogate pair
    return json.dumps(asdict(record)).encode() + b"\n"

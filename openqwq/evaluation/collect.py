"""A teacher's answers as training rows: asked several times, judged, and the right ones kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from openqwq.data.files import write_atomically
from openqwq.evaluation.evaluation import EvaluationSettings, evaluate, open_run
from openqwq.evaluation.own_tasks import own_selection
from openqwq.evaluation.responders import Responder
from openqwq.evaluation.results import Record, RecordFile, by_item
from openqwq.types import Message, OpenQwQError, Task, Verifier

Keep = Literal["shortest", "all"]


@dataclass(frozen=True)
class Collected:
    """What came of a collection."""

    asked: int  # tasks
    replies: int
    accepted: int  # replies that the verifier found right
    solved: int  # tasks with such a reply
    written: int  # rows


async def collect(
    tasks: Mapping[str, Sequence[Task]],
    settings: EvaluationSettings,
    responder: Responder,
    judges: Mapping[str, Verifier],
    hashes: Mapping[str, str],
    out: Path,
    keep: Keep = "shortest",
    resume: bool = False,
) -> Collected:
    """Ask each table's tasks `settings.samples` times and write the accepted replies to `out`.

    Every reply is saved in the directory next to `out` that `replies_directory` names, as soon as
    it is judged: an interrupted collection goes on with `resume`, and `out` is written even then.
    Raises OpenQwQError where a table cannot be judged, the model cannot be reached, or a resumed
    collection has other settings.
    """
    samples = settings.samples or 1
    selections = [own_selection(name, chosen, samples) for name, chosen in tasks.items()]
    directory = replies_directory(out)
    open_run(directory, settings, selections, hashes, resume)
    try:
        await evaluate(directory, settings, selections, responder, judges)
    finally:
        every: dict[str, Task] = {}
        for chosen in tasks.values():
            every |= {task.id: task for task in chosen}
        records: list[Record] = []
        for selection in selections:
            records += RecordFile(directory / f"{selection.name}.jsonl").read()
        found = write_accepted(records, every, settings.model, out, keep)
    return found


def replies_directory(out: Path) -> Path:
    """Where all replies of a collection are kept."""
    return out.with_suffix(".replies")


def require_own_file(out: Path) -> None:
    """Raise OpenQwQError where the rows could not be read back, or would replace another file."""
    if out.suffix not in (".jsonl", ".ndjson"):
        raise OpenQwQError(
            f"--out is {out}: rows are written as JSON lines, name it .jsonl"
        )
    if out.exists() and not replies_directory(out).exists():
        raise OpenQwQError(
            f"{out} exists, and qwq collect did not write it: choose another --out, or remove it"
        )


def write_accepted(
    records: Sequence[Record], tasks: Mapping[str, Task], model: str, out: Path, keep: Keep
) -> Collected:
    """Write the accepted replies as `messages` rows: of each task all, or the shortest one.

    Rows name their answer where every task has one: a file whose rows only partly can be judged
    is refused by a stage.
    """
    judged_by_answer = all(task.answer is not None for task in tasks.values())
    rows: list[dict[str, Any]] = []
    accepted = 0
    solved = 0
    groups = by_item(records)
    for identity, group in groups.items():
        right = [record for record in group if is_accepted(record)]
        accepted += len(right)
        solved += bool(right)
        if keep == "shortest":
            right = sorted(right, key=_length)[:1]
        rows += [_row(record, tasks[identity], model, judged_by_answer) for record in right]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_atomically(out, "".join(lines).encode(errors="replace"))
    return Collected(len(groups), len(records), accepted, solved, len(rows))


def is_accepted(record: Record) -> bool:
    """Whether the verifier found a reply right; of a reward without a verdict, 1 or more is."""
    complete = record.answer is not None and record.finish_reason != "length"
    right = record.status == "correct" or (record.status == "scored" and record.value >= 1)
    return complete and right


def _length(record: Record) -> tuple[int, int]:
    """Tokens; characters where an endpoint does not count them."""
    return record.completion_tokens, len(record.reasoning) + len(record.answer or "")


def _row(record: Record, task: Task, model: str, with_answer: bool) -> dict[str, Any]:
    reply = Message(role="assistant", content=record.answer or "")
    if record.reasoning:
        reply["reasoning_content"] = record.reasoning
    row: dict[str, Any] = {
        "id": f"{record.task_id}/{record.sample}",
        "messages": [*task.messages, reply],
        "model": model,
    }
    if with_answer:
        row["answer"] = task.answer
    if task.tools:
        row["tools"] = list(task.tools)
    return row


def summary(found: Collected, out: Path) -> str:
    """What to tell of a collection."""
    return (
        f"{found.accepted} of {found.replies} replies are right, to {found.solved} of "
        f"{found.asked} tasks; {found.written} rows in {out}"
    )

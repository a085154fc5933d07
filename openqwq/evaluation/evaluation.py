"""Runs benchmarks: every reply is asked for, judged and saved by itself, so a run can always go on.

A reply's seed depends on the run's seed, its item and its sample number alone. What a run needs to
be the same run stands in run.json, and a resumed run that differs is refused.
"""

import asyncio
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from openqwq import __version__
from openqwq.data.files import write_atomically
from openqwq.evaluation.benchmarks.benchmark import Benchmark, seed_of
from openqwq.evaluation.benchmarks.mathematics import voted_answer
from openqwq.evaluation.progress import Display, Progress
from openqwq.evaluation.responders import ChatReply, Responder
from openqwq.evaluation.results import (
    Record,
    RecordFile,
    Summary,
    item_values,
    read_json,
    summarise,
    summary_from_json,
    summary_json,
)
from openqwq.evaluation.statistics import Comparison, compare
from openqwq.text.template import Tools
from openqwq.types import (
    Message,
    OpenQwQError,
    SamplingParams,
    Score,
    Task,
    Verifier,
)
from openqwq.verify.completion_text import CompletionText

PRESETS = {
    "qwq": SamplingParams(log_probs=False),  # the model card's own, 32,768 tokens
    "greedy": SamplingParams(temperature=0.0, top_p=1.0, top_k=0, log_probs=False),
}
HOPELESS = 16  # failed replies without any success before them: the endpoint is not there
JUDGED_AT_ONCE = 32  # saved replies


@dataclass(frozen=True)
class EvaluationSettings:
    """How a model is evaluated; `samples` and `limit` None mean the benchmark's own and all."""

    model: str
    preset: str
    params: SamplingParams
    seed: int = 0
    samples: int | None = None
    limit: int | None = None
    concurrency: int = 8


@dataclass(frozen=True)
class Selection:
    """A benchmark, or its items whose kind begins with `kind` (bfcl/live), as a run names it."""

    benchmark: Benchmark
    kind: str
    tasks: Sequence[Task]

    @property
    def name(self) -> str:
        """The name of its files: the benchmark and the kind."""
        if not self.kind:
            return self.benchmark.name
        kind = self.kind.replace(" ", "_")
        return f"{self.benchmark.name}-{kind}"


def select(
    benchmark: Benchmark, kind: str, tasks: Sequence[Task], limit: int | None
) -> Selection:
    """The wanted items; a limit draws that many of them, the same ones each time.

    Raises OpenQwQError where there are none.
    """
    wanted = [task for task in tasks if task.kind.startswith(kind)]
    if not wanted:
        kinds = ", ".join(dict.fromkeys(task.kind for task in tasks))
        raise OpenQwQError(
            f"{benchmark.name} has no items of kind {kind!r}: use one of {kinds}"
        )
    if limit is not None and limit < len(wanted):
        if limit < 1:
            raise OpenQwQError(f"--limit is {limit}: it must be at least 1")
        chosen = set(random.Random(0).sample(range(len(wanted)), limit))
        wanted = [task for index, task in enumerate(wanted) if index in chosen]
    return Selection(benchmark, kind, wanted)


def open_run(
    directory: Path,
    settings: EvaluationSettings,
    selections: Sequence[Selection],
    hashes: Mapping[str, str],
    resume: bool,
) -> None:
    """Write run.json, or check with `resume` that it says the same.

    Raises OpenQwQError naming each setting that differs, or a directory that holds a run already.
    """
    path = directory / "run.json"
    described = _description(settings, selections, hashes)
    if not path.exists():
        write_atomically(path, json.dumps(described, indent=1).encode())
        return
    if not resume:
        raise OpenQwQError(
            f"{directory} holds a run: go on with --resume, or choose another --out"
        )
    changes = _changes(read_json(path), described)
    if changes:
        told = "; ".join(changes)
        raise OpenQwQError(
            f"cannot resume {directory}: {told:.600}; use the settings it was begun with"
            " (--tasks, --limit, --lcb-window, ...), or choose another --out"
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions of a run; another version of ours may go on."""
    changes: list[str] = []
    for key, value in now.items():
        if key != "version" and before.get(key) != value:
            changes.append(f"{key} was {before.get(key)!r}, is {value!r}")
    return changes


def _description(
    settings: EvaluationSettings, selections: Sequence[Selection], hashes: Mapping[str, str]
) -> dict[str, Any]:
    """What a run is, as it is read back from run.json."""
    params = asdict(settings.params)
    del params["seed"]
    del params["stop_token_ids"]
    described = {
        "version": __version__,
        "model": settings.model,
        "preset": settings.preset,
        "params": params,
        "seed": settings.seed,
        "tasks": {selection.name: _drawn(selection, settings) for selection in selections},
        "data": dict(sorted(hashes.items())),
    }
    return dict(json.loads(json.dumps(described)))


def _drawn(selection: Selection, settings: EvaluationSettings) -> dict[str, Any]:
    """How many items and samples, and which items: another window can hold as many."""
    ids = "\n".join(task.id for task in selection.tasks)
    return {
        "items": len(selection.tasks),
        "samples": settings.samples or selection.benchmark.samples,
        "ids": hashlib.sha256(ids.encode()).hexdigest()[:12],
    }


async def evaluate(
    directory: Path,
    settings: EvaluationSettings,
    selections: Sequence[Selection],
    responder: Responder,
    judges: Mapping[str, Verifier],
) -> dict[str, Summary]:
    """Every missing reply of every selection, then scores.json; returns the summaries.

    Raises OpenQwQError where all of the first 16 replies failed.
    """
    display = Display()
    for selection in selections:
        runner = _Runner(directory, settings, selection, responder, judges)
        with display.stage(selection.name, runner.total, "reply") as progress:
            await runner.run(progress)
    return score_run(directory, selections)


async def rescore(
    directory: Path, selections: Sequence[Selection], judges: Mapping[str, Verifier]
) -> dict[str, Summary]:
    """Judge the selections' saved replies again, without generating; returns the new summaries.

    Replies to items outside a selection stay as they are. Raises OpenQwQError where it has none.
    """
    for selection in selections:
        file = RecordFile(directory / f"{selection.name}.jsonl")
        tasks = {task.id: task for task in selection.tasks}
        records = file.read()
        if not any(r.task_id in tasks for r in records):
            raise OpenQwQError(
                f"{file.path} holds no replies to judge again: evaluate first"
            )
        file.replace(await _judged_again(records, tasks, judges))
    return score_run(directory, selections)


async def _judged_again(
    records: Sequence[Record], tasks: Mapping[str, Task], judges: Mapping[str, Verifier]
) -> list[Record]:
    """The records with new verdicts of those replies that belong to `tasks`."""
    slots = asyncio.Semaphore(JUDGED_AT_ONCE)

    async def again(record: Record) -> Record:
        if not record.generated or record.task_id not in tasks:
            return record
        async with slots:
            return await _judged(record, tasks[record.task_id], judges)

    return await asyncio.gather(*map(again, records))


def score_run(directory: Path, selections: Sequence[Selection]) -> dict[str, Summary]:
    """Summaries of what a run holds, also written to its scores.json (other tasks' are kept)."""
    path = directory / "scores.json"
    kept = read_json(path) if path.exists() else {}
    for selection in selections:
        records = RecordFile(directory / f"{selection.name}.jsonl").read()
        if records:
            summary = summarise(records, selection.benchmark.headline(records))
            kept[selection.name] = summary_json(summary)
    write_atomically(path, json.dumps(kept, indent=1).encode())
    return {s.name: summary_from_json(kept[s.name]) for s in selections if s.name in kept}


def compare_runs(a: Path, b: Path) -> dict[str, Comparison]:
    """A paired test for each benchmark that both runs hold, on the items they share by name.

    Raises OpenQwQError where their data or items differ, or nothing is shared.
    """
    first = read_json(a / "run.json")
    second = read_json(b / "run.json")
    shared = [name for name in first["tasks"] if name in second["tasks"]]
    if not shared:
        raise OpenQwQError(
            f"{a} and {b} share no benchmark: evaluate both on the same --tasks"
        )
    changed: list[str] = []
    for file, digest in first["data"].items():
        if second["data"].get(file, digest) != digest:
            changed.append(file)
    if changed:
        raise OpenQwQError(
            f"{a} and {b} used different data ({', '.join(changed)}): run one again"
        )
    result = {}
    for name in shared:
        values_a = item_values(RecordFile(a / f"{name}.jsonl").read())
        values_b = item_values(RecordFile(b / f"{name}.jsonl").read())
        apart = values_a.keys() ^ values_b.keys()
        if apart:
            raise OpenQwQError(
                f"{name}: {len(apart)} items are in one run only; use the same --limit and "
                "--resume both"
            )
        result[name] = compare(values_a, values_b)
    return result


class _Runner:
    """One selection's missing replies, `concurrency` at a time."""

    def __init__(
        self,
        directory: Path,
        settings: EvaluationSettings,
        selection: Selection,
        responder: Responder,
        judges: Mapping[str, Verifier],
    ) -> None:
        self._settings = settings
        self._selection = selection
        self._responder = responder
        self._judges = judges
        self._file = RecordFile(directory / f"{selection.name}.jsonl")
        self._samples = settings.samples or selection.benchmark.samples
        self.total = self._samples * len(selection.tasks)  # replies
        self._done = 0  # of them, here and by earlier processes
        self._judged = 0  # replies of this process with a verdict
        self._correct = 0  # of those
        self._failures = 0
        self._any_reply = False

    async def run(self, progress: Progress) -> None:
        present = {r.key for r in self._file.read() if r.generated}
        jobs: list[tuple[Task, int]] = []
        for sample in range(self._samples):
            for task in self._selection.tasks:
                if (task.id, sample) not in present:
                    jobs.append((task, sample))
        self._done = self.total - len(jobs)
        progress(self._done, {})
        waiting = iter(jobs)

        async def work() -> None:
            for task, sample in waiting:
                await self._one(task, sample)
                self._done += 1
                progress(self._done, self._metrics())

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._settings.concurrency, len(jobs))):
                    group.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the first one ended the others

    async def _one(self, task: Task, sample: int) -> None:
        seed = seed_of(self._settings.seed, task.id, sample)
        record = Record(task.id, task.kind, sample, seed, task.messages)
        params = replace(self._settings.params, seed=seed)

        async def ask(messages: Sequence[Message], tools: Tools) -> ChatReply:
            return await self._responder.reply(messages, tools, params)

        try:
            reply = await self._selection.benchmark.conduct(task, ask)
        except (OpenQwQError, OSError, TimeoutError) as error:
            self._count_failure(error)
            record = replace(record, detail=f"no reply: {error or repr(error)}")
        else:
            self._any_reply = True
            record = replace(record, generated=True, **vars(reply))
            record = await _judged(record, task, self._judges)
        self._file.append(record)
        if record.status not in ("error", "scored"):
            self._judged += 1
            self._correct += record.status == "correct"

    def _metrics(self) -> dict[str, float]:
        """The share of right replies, where any has a verdict."""
        return {"correct": self._correct / self._judged} if self._judged else {}

    def _count_failure(self, error: Exception) -> None:
        self._failures += 1
        if not self._any_reply and self._failures >= HOPELESS:
            raise OpenQwQError(
                f"{self._settings.model}: all {self._failures} replies failed ({error}):"
                " correct that, then go on with --resume"
            ) from error


def _completion(record: Record) -> CompletionText:
    """The reply as judges read it; the thinking reaches those that ask for it."""
    answer = record.answer or ""
    reply = Message(role="assistant", content=answer)
    if record.reasoning:
        reply["reasoning_content"] = record.reasoning
    return CompletionText(
        f"{record.reasoning}</think>{answer}",
        record.reasoning,
        answer,
        (*record.messages, reply),
    )


async def _judged(record: Record, task: Task, judges: Mapping[str, Verifier]) -> Record:
    prediction: str | None = None
    if record.answer is None:
        score = Score(0.0, "truncated", detail="the thinking never ended")
    else:
        score = await judges[task.verifier].score(task, _completion(record))
        if task.verifier == "math":
            prediction = voted_answer(record.answer)
    return replace(
        record,
        value=score.value,
        status=score.status,
        detail=score.detail,
        parts=dict(score.parts),
        prediction=prediction,
    )

"""`qwq collect`: a teacher's right answers become training rows, whatever interrupts it."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from openqwq.config import DataConfig
from openqwq.data.hub import DataLock
from openqwq.evaluation.collect import Collected, Keep, collect, replies_directory
from openqwq.evaluation.evaluation import PRESETS, EvaluationSettings
from openqwq.evaluation.responders import ChatReply, Tools
from openqwq.tasks.rows import open_rows
from openqwq.types import Message, OpenQwQError, SamplingParams, Score, Task

SYSTEM = Message(role="system", content="Be brief.")


def asked(number: int) -> Task:
    messages = (SYSTEM, Message(role="user", content=f"{number} + 1?"))
    return Task(f"own:{number}", "own", messages, "math", answer=str(number + 1))


TASKS = [asked(number) for number in range(3)]


class Exact:
    async def score(self, task: Task, completion: str) -> Score:
        right = completion.partition("</think>")[2] == task.answer
        return Score(float(right), "correct" if right else "wrong")


class Teacher:
    """Knows what follows 0 and 1, thinks longer each time, and never answers after `patience`."""

    def __init__(self, patience: int = 100) -> None:
        self.patience = patience
        self.asked = 0

    async def reply(
        self, messages: Sequence[Message], tools: Tools, params: SamplingParams
    ) -> ChatReply:
        if self.asked == self.patience:
            await asyncio.Event().wait()
        self.asked += 1
        number = int(messages[-1]["content"].split()[0])
        answer = str(number + 1) if number < 2 else "?"
        return ChatReply("so " * self.asked, answer, "stop", 5, self.asked, self.asked + 1)


async def collected(
    out: Path,
    teacher: Teacher,
    *,
    keep: Keep = "shortest",
    resume: bool = False,
    seed: int = 0,
    tasks: Sequence[Task] = TASKS,
) -> Collected:
    settings = EvaluationSettings(
        "teacher", "qwq", PRESETS["qwq"], seed, samples=3, concurrency=1
    )
    tables = {"own": tasks}
    return await collect(
        tables, settings, teacher, {"math": Exact()}, {}, out, keep, resume
    )


def rows(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


async def test_the_shortest_right_reply_of_each_task_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "traces.jsonl"
    found = await collected(out, Teacher())
    assert found == Collected(asked=3, replies=9, accepted=6, solved=2, written=2)
    first, _ = rows(out)
    assert first["id"] == "own:0/0" and first["model"] == "teacher"
    assert first["messages"] == [
        *TASKS[0].messages,
        {"role": "assistant", "content": "1", "reasoning_content": "so "},
    ]


async def test_all_right_replies_are_kept_where_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "traces.jsonl"
    found = await collected(out, Teacher(), keep="all")
    assert found.written == 6
    assert len({str(row["id"]) for row in rows(out)}) == 6


async def test_rows_of_tasks_with_and_without_an_answer_train_together(
    tmp_path: Path,
) -> None:
    class Anyone:
        async def score(self, task: Task, completion: str) -> Score:
            return Score(1.0, "correct")

    out = tmp_path / "traces.jsonl"
    tables = {
        "own": TASKS[:1],
        "programs": [replace(TASKS[1], verifier="code", answer=None)],
    }
    settings = EvaluationSettings(
        "teacher", "qwq", PRESETS["qwq"], 0, samples=1, concurrency=1
    )
    judges = {"math": Anyone(), "code": Anyone()}
    await collect(tables, settings, Teacher(), judges, {}, out)
    assert len(rows(out)) == 2
    table = open_rows("traces", DataConfig(rows=str(out)), DataLock())
    assert table.size == 2


async def test_the_rows_are_ready_for_training(tmp_path: Path) -> None:
    out = tmp_path / "traces.jsonl"
    await collected(out, Teacher())
    table = open_rows("traces", DataConfig(rows=str(out)), DataLock())
    task = table.rows[0].task
    assert task.messages == TASKS[0].messages
    assert task.demonstration[0]["reasoning_content"] == "so "
    assert (task.answer, task.verifier) == ("1", "math")


async def test_nothing_is_lost_on_interruption_and_nothing_asked_again(
    tmp_path: Path,
) -> None:
    out = tmp_path / "traces.jsonl"
    teacher = Teacher(patience=4)
    running = asyncio.create_task(collected(out, teacher))
    while teacher.asked < 4:
        await asyncio.sleep(0.01)
    running.cancel()  # as Ctrl-C does
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(rows(out)) == 2
    with pytest.raises(OpenQwQError, match="go on with --resume"):
        await collected(out, Teacher())
    rest = Teacher()
    found = await collected(out, rest, resume=True, keep="all")
    assert (rest.asked, found.replies, found.written) == (5, 9, 6)
    assert replies_directory(out).is_dir()


async def test_a_resumed_collection_with_other_settings_is_refused_by_name(
    tmp_path: Path,
) -> None:
    out = tmp_path / "traces.jsonl"
    await collected(out, Teacher())
    with pytest.raises(OpenQwQError, match="seed was 0, is 1"):
        await collected(out, Teacher(), resume=True, seed=1)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            Task("own:1", "own", TASKS[0].messages, ""),
            r"data\.own has no verifier \(own:1\)",
        ),
        (
            Task("own:1", "own", TASKS[0].messages, "math", environment="python"),
            "played in the environment 'python'",
        ),
    ],
)
async def test_what_cannot_be_judged_is_refused_before_anything_is_asked(
    tmp_path: Path, task: Task, said: str
) -> None:
    teacher = Teacher()
    with pytest.raises(OpenQwQError, match=said):
        await collected(tmp_path / "traces.jsonl", teacher, tasks=[task])
    assert teacher.asked == 0

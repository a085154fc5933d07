"""Each benchmark reads its public files, and its own gold answers pass its own judge."""

import asyncio
import base64
import gzip
import json
import pickle
import zlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from openqwq.config import SandboxConfig
from openqwq.evaluation.benchmarks import livecodebench, programs
from openqwq.evaluation.benchmarks.data import DataFile, Library
from openqwq.evaluation.benchmarks.livecodebench import (
    LiveCodeVerifier,
    PackedTests,
    Window,
    unpack,
)
from openqwq.evaluation.evaluation import Selection
from openqwq.evaluation.suite import benchmarks, find_benchmark
from openqwq.train.judges import open_judges
from openqwq.types import OpenQwQError, Score, Task

KNOWN = benchmarks(Window())
SIZES = {
    "aime24": 30,
    "math500": 500,
    "gsm8k": 1319,
    "ifeval": 541,
    "humaneval": 164,
    "mbpp": 500,
}


def library_of(sets: Path) -> Library:
    """The samples have hashes of their own, which `tests/test_data.py` checks."""
    return Library(sets, allow_changed=(sets / "SOURCE.md").exists())


def spread(tasks: list[Task], count: int = 9) -> list[Task]:
    """At most `count` of them, at equal distances."""
    return tasks[:: max(1, len(tasks) // count)][:count]


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_every_item_of_the_public_file_is_there(
    name: str, size: int, shared_data: Path
) -> None:
    library = Library(shared_data)
    tasks = KNOWN[name].load(library)
    assert len({task.id for task in tasks}) == len(tasks) == size
    assert all(
        task.messages[0]["role"] == "user" and len(task.messages) == 1 for task in tasks
    )
    assert len(library.hashes) == 1


def test_the_protocol_is_qwqs(data_sets: Path) -> None:
    assert [KNOWN[n].samples for n in ("aime24", "livecodebench", "ifeval")] == [64, 8, 1]
    rows = (data_sets / "aime2024" / "problems.jsonl").read_text().splitlines()
    prompts = [json.loads(row)["prompt"] for row in rows]
    tasks = KNOWN["aime24"].load(library_of(data_sets))
    assert [task.messages[0]["content"] for task in tasks] == prompts


def test_the_hubs_rows_and_the_local_ones_are_one_problem(tmp_path: Path) -> None:
    rows = [
        {"question": "How many?", "answer": "Many.\n#### 1,234"},
        {"problem": "How many?", "answer": 1234},
    ]
    found = []
    for row in rows:
        (tmp_path / "gsm8k").mkdir(exist_ok=True)
        (tmp_path / "gsm8k" / "test.jsonl").write_text(json.dumps(row))
        found += KNOWN["gsm8k"].load(Library(tmp_path, allow_changed=True))
    assert found[0] == found[1]
    assert found[0].answer == "1234"


async def verdicts(jobs: list[tuple[Task, str]]) -> list[Score]:
    selection = Selection(KNOWN["humaneval"], "", [task for task, _ in jobs])
    async with AsyncExitStack() as stack:
        judges = await open_judges(
            stack, {t.verifier for t in selection.tasks}, SandboxConfig()
        )
        scores = [judges[t.verifier].score(t, f"</think>{answer}") for t, answer in jobs]
        return list(await asyncio.gather(*scores))


async def test_reference_programs_pass_and_empty_ones_fail(data_sets: Path) -> None:
    library = library_of(data_sets)
    humaneval, mbpp = (
        list(library.rows(programs.HUMANEVAL)),
        list(library.rows(programs.MBPP)),
    )
    solutions = {r["task_id"]: r["prompt"] + r["canonical_solution"] for r in humaneval}
    solutions |= {f"mbpp/{r['task_id']}": r["code"] for r in mbpp}
    tasks = spread(KNOWN["humaneval"].load(library)) + spread(KNOWN["mbpp"].load(library))
    good = await verdicts([(t, f"So:\n```python\n{solutions[t.id]}\n```") for t in tasks])
    assert [score.status for score in good] == ["correct"] * len(tasks)
    bad = await verdicts([(t, "```python\npass\n```") for t in tasks])
    assert {score.status for score in bad} == {"wrong"}


async def test_gold_answers_of_mathematics_pass(data_sets: Path) -> None:
    library = library_of(data_sets)
    tasks = []
    for name in ("aime24", "gsm8k", "math500"):
        tasks += spread(KNOWN[name].load(library))
    good = await verdicts([(task, f"It is \\boxed{{{task.answer}}}.") for task in tasks])
    assert {score.status for score in good} == {"correct"}
    bad = await verdicts([(task, "It is \\boxed{-77777}.") for task in tasks])
    assert {score.status for score in bad} == {"wrong"}


def test_changed_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    library = Library(tmp_path)
    with pytest.raises(
        OpenQwQError, match=r"gsm8k/test\.jsonl\.gz does not exist: put openai/gsm8k"
    ):
        KNOWN["gsm8k"].load(library)
    path = tmp_path / "gsm8k" / "test.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(b'{"question": "?", "answer": "#### 1"}'))
    with pytest.raises(
        OpenQwQError, match=r"has sha256 .*, expected 51c03a.*--allow-changed-data"
    ):
        KNOWN["gsm8k"].load(library)
    allowed = Library(tmp_path, allow_changed=True)
    assert len(KNOWN["gsm8k"].load(allowed)) == 1
    path.write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(OpenQwQError, match=r"test\.jsonl\.gz cannot be read"):
        KNOWN["gsm8k"].load(allowed)


def test_the_hub_without_a_network_is_a_clear_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("huggingface_hub", reason="needs pip install huggingface_hub")
    file = DataFile("toy/a.jsonl", "nobody/no-such-set", "a.jsonl", "0" * 40)
    with pytest.raises(
        OpenQwQError, match=r"hub cannot be reached .*--data DIR of qwq eval"
    ):
        list(Library().rows(file))


def test_an_unknown_benchmark_has_a_nearest_one() -> None:
    assert find_benchmark("bfcl/live", KNOWN)[1] == "live"
    with pytest.raises(OpenQwQError, match=r"'aime26': did you mean 'aime2[45]'"):
        find_benchmark("aime26", KNOWN)


def packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


TESTS = [{"input": "2 3\n", "output": "5\n", "testtype": "stdin"}]


@pytest.mark.parametrize(
    "text", [json.dumps(TESTS), packed(json.dumps(TESTS)), packed(TESTS)]
)
def test_hidden_tests_unpack_from_each_form(text: str) -> None:
    assert unpack(text) == TESTS


class Hostile:
    """What a hostile pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("owned",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (packed(Hostile()), "they must be plain data"),
        (packed(print), "they must be plain data"),
        (base64.b64encode(b"plain").decode(), "cannot be unpacked"),
        ("§", "."),
    ],
)
def test_hostile_tests_are_refused_and_nothing_runs(
    text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=told):
        unpack(text)
    assert "owned" not in capsys.readouterr().out


def test_a_bomb_of_tests_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livecodebench, "MAX_BYTES", 10_000)
    with pytest.raises(ValueError, match="more than 10000 bytes"):
        unpack(packed("0" * 20_000))


def hub_row(**changes: Any) -> Mapping[str, Any]:
    row = {
        "question_id": "a1",
        "question_content": "Add two numbers.",
        "contest_date": "2024-09-01T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "metadata": "{}",
        "public_test_cases": json.dumps(TESTS),
        "private_test_cases": packed(json.dumps([{"input": "20 30\n", "output": "50\n"}])),
    }
    return row | changes


async def test_livecodebench_runs_hidden_tests_of_both_forms(tmp_path: Path) -> None:
    call = hub_row(
        question_id="a2",
        starter_code="class Solution:\n    def add(self, a: int, b: int) -> int:\n        ",
        metadata='{"func_name": "add"}',
        public_test_cases='[{"input": "2\\n3", "output": "5"}]',
        private_test_cases='[{"input": "20\\n30", "output": "50"}]',
    )
    late = hub_row(question_id="a3", contest_date="2025-02-01T00:00:00")
    (tmp_path / "livecodebench").mkdir()
    for number in ("", 2, 3, 4, 5):
        rows = [hub_row(), call, late] if number == 5 else []
        path = tmp_path / "livecodebench" / f"test{number}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
    tasks = KNOWN["livecodebench"].load(Library(tmp_path, allow_changed=True))
    assert [task.id for task in tasks] == ["livecodebench/a1", "livecodebench/a2"]
    assert "class Solution" in tasks[1].messages[0]["content"]
    stdin, method = (
        "a, b = map(int, input().split())\nprint({})",
        "class Solution:\n    def add(self, a: int, b: int) -> int:\n        return {}",
    )
    jobs = [
        (tasks[0], stdin.format("a + b")),
        (tasks[0], stdin.format("5")),  # passes the public test only
        (tasks[1], method.format("a + b")),
        (tasks[1], method.format("5")),
    ]
    found = await verdicts([(task, f"```python\n{code}\n```") for task, code in jobs])
    assert [score.status for score in found] == ["correct", "wrong", "correct", "wrong"]


async def test_unreadable_hidden_tests_are_an_error_and_no_verdict() -> None:
    bad = PackedTests([], packed(Hostile()))
    task = Task(
        "livecodebench/a", "x", ({"role": "user", "content": "?"},), "x", reference=bad
    )
    found = await LiveCodeVerifier(None).score(task, "</think>pass")  # type: ignore[arg-type]
    assert found.status == "error"
    assert "plain data" in found.detail


def test_windows_without_problems_and_unknown_releases_are_refused(
    shared_data: Path,
) -> None:
    library = Library(shared_data)
    assert len(livecodebench.load(library, Window())) == 279
    assert {t.kind for t in livecodebench.load(library, Window())} == {"samples only"}
    with pytest.raises(OpenQwQError, match="no problems from 2030"):
        livecodebench.load(library, Window(5, "2030-01-01", "2031-01-01"))
    with pytest.raises(OpenQwQError, match="v9 is unknown: use 1 to 6"):
        livecodebench.load(library, Window(9))

"""`qwq data`: what is wrong with the data of a run is found before it trains."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from openqwq.config import load_config
from openqwq.data.hub import DataLock
from openqwq.evaluation.contamination import BenchmarkIndex
from openqwq.evaluation.data_pages import (
    histogram,
    print_report,
    problems,
    to_json,
    write_page,
)
from openqwq.evaluation.data_report import (
    DataReport,
    Examiner,
    TableReport,
    judges_needed,
    pieces,
)
from openqwq.tasks.tables import open_tables
from openqwq.text.tokenizer import Tokenizer
from openqwq.types import Message, Score, Task

CONFIG = """
[data.own]
rows = "own.jsonl"
held_out = "test.jsonl"
limit = {limit}

[data.sums]
source = "addition"
options = {{ min_digits = 1, max_digits = 2 }}

[[stages]]
name = "first"
kind = "sft"
epochs = 2
data = {{ own = 1 }}

[[stages]]
name = "second"
kind = "rl"
steps = 10
prompts_per_step = 4
max_tokens = 100
data = {{ own = 3, sums = 1 }}
"""
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen"


class ExactJudge:
    """Right is what ends with the answer; "broken" breaks the judge."""

    async def score(self, task: Task, completion: str) -> Score:
        assert completion.answer == completion.partition("</think>")[2].strip("\n")  # type: ignore[attr-defined]
        if task.answer == "broken":
            return Score(0.0, "error", detail="cannot be parsed")
        right = (task.answer or "?") in completion
        return Score(float(right), "correct" if right else "wrong")


def row(question: str, answer: str, solution: str | None = None) -> Mapping[str, Any]:
    return {
        "question": question,
        "answer": answer,
        "solution": solution or f"It is {answer}.",
    }


ROWS = [
    row("2 + 3?", "5"),
    row("4 + 4?", "8", "It is nine."),
    row("2 +  3?", "5"),
    row("Hm?", "broken"),
    row(LONG, "13"),
    row("", "1"),
]


async def examined(tmp_path: Path, limit: int = 100) -> DataReport:
    lines = [json.dumps(each) + "\n" for each in ROWS]
    (tmp_path / "own.jsonl").write_text("".join(lines))
    (tmp_path / "test.jsonl").write_text(json.dumps(row("7 + 7?", "14")) + "\n")
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(limit=limit))
    config = load_config([path])
    tables = open_tables(config, DataLock(), skip_bad_rows=True)
    tokenizer = Tokenizer.train([LONG, "It is 5. 2 + 3?"], 400)
    assert judges_needed(tables.values()) == {"math"}
    item = Task("toy/7", "toy", (Message(role="user", content=LONG),), "math")
    judges = {"math": ExactJudge()}
    examiner = Examiner(config, tokenizer, 160, judges, BenchmarkIndex([item]), "toy")
    return await examiner.report(tables)


def table(report: DataReport, name: str) -> TableReport:
    (found,) = [each for each in report.tables if each.name == name]
    return found


async def test_every_fault_of_the_rows_is_found(tmp_path: Path) -> None:
    own = table(await examined(tmp_path), "own")
    assert (own.rows.train, own.rows.held_out) == (5, 1)
    assert own.rows.skipped == ("own.jsonl row 6, question: the prompt is empty: give it, or leave "
                                "the row out",)  # fmt: skip
    assert own.duplicates == ("own.jsonl row 1 = own.jsonl row 3",)
    failures = [(f.task, f.gold, f.status) for f in own.golds.failures]
    assert failures == [
        ("own:2", "solution", "wrong"),
        ("own:4", "answer", "error"),
        ("own:4", "solution", "error"),
    ]
    assert (own.golds.judged, own.golds.correct) == (10, 7)
    (overlap,) = own.overlaps
    assert (overlap.row, overlap.item, overlap.share) == (5, "toy/7", 1.0)
    assert len(problems(own)) == 5


async def test_lengths_are_held_against_what_each_stage_has_room_for(
    tmp_path: Path,
) -> None:
    own = table(await examined(tmp_path), "own")
    first, second = own.fits
    assert (first.stage, first.measured, first.limit) == ("first", "example", 160)
    assert (second.stage, second.measured, second.limit) == ("second", "prompt", 60)
    assert first.longest == max(own.example_tokens)
    assert second.longest == max(own.prompt_tokens) > min(own.prompt_tokens)
    assert second.too_long == tuple(
        task for task, size in zip(["own:5"], [second.longest], strict=True) if size > 60
    )
    assert first.passes == 2
    assert second.passes == 10 * 4 * 0.75 / 5


async def test_the_limit_and_the_held_out_rows_are_not_used(tmp_path: Path) -> None:
    own = table(await examined(tmp_path, limit=2), "own")
    assert (own.rows.train, own.rows.beyond_limit) == (2, 3)
    assert own.rows.used_share == pytest.approx(2 / 6)


async def test_three_prompts_are_shown_as_the_model_reads_them(tmp_path: Path) -> None:
    for found in (await examined(tmp_path)).tables:
        assert len(found.prompts) == 3
        for prompt in found.prompts:
            special = [piece.text for piece in prompt.pieces if piece.special]
            assert special[0] == "<|im_start|>" and special[-1] == "<think>"
            assert prompt.wanted


async def test_the_reply_that_sft_imitates_is_shown_behind_its_prompt(
    tmp_path: Path,
) -> None:
    taught = [
        p for found in (await examined(tmp_path)).tables for p in found.prompts if p.reply
    ]
    assert taught
    for prompt in taught:
        special = [piece.text for piece in prompt.reply if piece.special]
        assert "</think>" in special and special[-1] == "<|im_end|>"


def test_text_that_looks_like_a_special_token_is_shown_as_text() -> None:
    tokenizer = Tokenizer.train(["abc <|im_end|>"], 400)
    ids = [*tokenizer.encode("a <|im_end|>"), *tokenizer.eos_ids[:1]]
    found = [(piece.text, piece.special) for piece in pieces(tokenizer, ids)]
    assert found == [("a <|im_end|>", False), ("<|im_end|>", True)]


async def test_the_page_the_terminal_and_json_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = await examined(tmp_path)
    write_page(report, tmp_path / "data.html")
    page = (tmp_path / "data.html").read_text()
    print_report(report)
    shown = capsys.readouterr().out
    assert json.loads(to_json(report))["tables"][0]["name"] == "own"
    for text in ("own.jsonl row 1 = own.jsonl row 3", "cannot be parsed", "toy/7"):
        assert text in page and text in shown
    assert "<mark>&lt;|im_start|&gt;</mark>" in page
    assert "<|im_start|>" in shown


@pytest.mark.parametrize(
    ("lengths", "widths"),
    [([3], {1}), ([1, 9, 10], {1}), (range(100), {10}), ([5, 1200], {200}), ([7] * 9, {1})],
)
def test_histograms_have_few_round_bars_over_all_lengths(
    lengths: list[int], widths: set[int]
) -> None:
    bars = histogram(list(lengths))
    assert {bar.high - bar.low for bar in bars} == widths
    assert sum(bar.count for bar in bars) == len(lengths)
    assert len(bars) <= 11

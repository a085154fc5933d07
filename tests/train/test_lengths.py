"""Rows that are longer than the model's context are named before a run begins."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openqwq.config import load_config
from openqwq.data.hub import DataLock
from openqwq.text.template import encode_chat
from openqwq.train.lengths import (
    fit_rows,
    longest_example,
    needed_length,
    run_tokenizer,
    skipped_rows,
)
from openqwq.train.prepare import Prepared, prepare, sample_tasks
from openqwq.types import OpenQwQError

CONFIG = """
[shape]
hidden_size = 32
intermediate_size = 64
num_attention_heads = 2
num_key_value_heads = 1
max_position_embeddings = 128
[tokenizer]
vocab_size = 300
[data.own]
rows = "own.jsonl"
[[stages]]
name = "first"
kind = "{kind}"
steps = 2
data = {{ own = 1 }}
"""
LONG = "long " * 200


def prepared(tmp_path: Path, kind: str, **changed: str) -> Prepared:
    rows = [
        {"question": f"{n} + 1?", "answer": str(n + 1), "solution": "Count."}
        for n in range(5)
    ]
    rows[3].update(changed)
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(kind=kind))
    return prepare(load_config([path]), DataLock())


@pytest.mark.parametrize(
    ("kind", "column", "what", "room"),
    [("rl", "question", "prompt", 127), ("sft", "solution", "conversation", 128)],
)
def test_a_row_longer_than_the_context_is_named_or_left_out(
    tmp_path: Path, kind: str, column: str, what: str, room: int
) -> None:
    run = prepared(tmp_path, kind, **{column: LONG})
    said = rf"data\.own: own\.jsonl row 4, {what}: it has \d{{3,}} tokens, .* room for {room}: "
    with pytest.raises(OpenQwQError, match=said):
        fit_rows(run)
    kept = fit_rows(run, skip_bad_rows=True)
    assert kept.tables["own"].size == 4
    (row,) = skipped_rows(kept)
    assert row.startswith("left out: own.jsonl row 4, ")


def test_a_reply_that_no_stage_imitates_may_be_long(tmp_path: Path) -> None:
    run = prepared(tmp_path, "rl", solution=LONG)
    assert fit_rows(run).tables["own"].size == 5


def test_the_longest_rows_are_those_that_prompts_are_measured_by(tmp_path: Path) -> None:
    run = prepared(tmp_path, "rl", question=LONG)
    (task,) = sample_tasks(run, count=1)
    assert task.id == "own:4"


def test_a_row_above_the_micro_batch_is_named_with_the_key_that_limits_it(
    tmp_path: Path,
) -> None:
    run = prepared(tmp_path, "sft", solution="long " * 8)
    (stage,) = run.config.stages
    tokenizer, _ = run_tokenizer(run.config, run.tables)
    limit = longest_example(run, stage, tokenizer) - 1

    optimiser = replace(stage.optimiser, max_tokens_per_micro_batch=limit)
    limited = set_in_stage(run, optimiser=optimiser)
    key = r"stages\.first\.optimiser\.max_tokens_per_micro_batch"
    said = (
        rf"own\.jsonl row 4, conversation: .* room for {limit}: shorten it, or raise {key}"
    )
    with pytest.raises(OpenQwQError, match=said):
        fit_rows(limited)


def test_a_thinking_budget_makes_room_for_a_longer_solution(tmp_path: Path) -> None:
    run = prepared(tmp_path, "sft", solution=f"<think>{LONG}</think>4")
    assert "room for" in str(fault_of(run))
    (stage,) = run.config.stages
    assert fault_of(set_in_stage(run, thinking_budgets=(8,))) is None
    tokenizer, _ = run_tokenizer(run.config, run.tables)
    short = replace(stage, thinking_budgets=(8,))
    assert (
        longest_example(run, short, tokenizer)
        < 128
        < longest_example(run, stage, tokenizer)
    )


def fault_of(run: Prepared) -> OpenQwQError | None:
    try:
        fit_rows(run)
    except OpenQwQError as error:
        return error
    return None


def test_the_engine_has_room_for_what_a_stage_is_evaluated_with(tmp_path: Path) -> None:
    """A reply of the evaluation, behind a held-out prompt longer than all training prompts."""
    run = prepared(tmp_path, "sft")
    tokenizer, _ = run_tokenizer(run.config, run.tables)
    (tmp_path / "held_out.jsonl").write_text(
        json.dumps({"question": LONG, "answer": "1"}) + "\n"
    )
    text = (tmp_path / "run.toml").read_text()
    text = text.replace(
        'rows = "own.jsonl"', 'rows = "own.jsonl"\nheld_out = "held_out.jsonl"'
    )
    (tmp_path / "run.toml").write_text(text + "[evaluation]\nmax_tokens = 3000\n")
    evaluated = prepare(load_config([tmp_path / "run.toml"]), DataLock())
    (task,) = evaluated.tables["own"].held_out(9, 0)
    prompt = len(encode_chat(tokenizer, task.messages))
    assert needed_length(run, tokenizer) < prompt + 3000
    assert needed_length(evaluated, tokenizer) == prompt + 3000


def set_in_stage(run: Prepared, **changed: Any) -> Prepared:
    (stage,) = run.config.stages
    return replace(run, config=replace(run.config, stages=(replace(stage, **changed),)))

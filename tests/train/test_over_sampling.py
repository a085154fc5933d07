"""RL steps that end without their longest completions, and what becomes of these."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from small import rl_stage, small_config, tables_of, write_config
from test_rl import TOKENIZER, EndsOften, Judge, judged_by, model, parity

from openqwq.cli import main
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.engine.threads import CallersThread
from openqwq.train.curriculum import Curriculum
from openqwq.train.learner import Learner
from openqwq.train.over_sampling import OverSamplingTrainer, Pending
from openqwq.train.rollouts import RolloutRunner
from openqwq.train.run import InterruptedRun, Run
from openqwq.types import Completion

SETTINGS = (
    "stages.stage1.steps=4",
    "stages.stage1.prompts_per_step=3",
    "stages.stage1.group_size=2",
    "stages.stage1.max_tokens=24",
    "stages.stage1.over_sampling=1.0",
    "stages.stage1.max_refills=1",
    'stages.stage1.skip_checks=["rewards"]',
)


class Watched(Engine):
    """An engine that remembers which completions it was asked to go on with."""

    def __init__(self) -> None:
        limits = EngineLimits(32, 64)
        super().__init__(model(), TOKENIZER, limits, thread=CallersThread())
        self.begun: list[Completion] = []

    async def generate(self, *arguments: Any, **named: Any) -> list[Completion]:
        if named.get("begun") is not None:
            self.begun.append(named["begun"])
        return await super().generate(*arguments, **named)


def trainer(folder: Path, *more: str, resume: bool = False) -> OverSamplingTrainer:
    config = small_config(*SETTINGS, *more)
    stage = rl_stage(config)
    run = Run(folder, config, resume)
    engine = Watched()
    learner = Learner(model(), stage.optimiser, stage.steps)
    runner = RolloutRunner(engine, EndsOften(), judged_by(math=Judge(parity)))  # type: ignore[arg-type]
    curriculum = Curriculum(tables_of(config), stage.data, "0")
    return OverSamplingTrainer(run, stage, learner, runner, engine, curriculum)


def train(made: OverSamplingTrainer) -> list[dict[str, Any]]:
    """What the run reports of its steps, which comes after where it begins."""
    records: list[dict[str, Any]] = []
    try:
        asyncio.run(made.train(lambda step, record: records.append(dict(record))))
    finally:
        made.link.close()  # type: ignore[attr-defined]
    return records[1:]


def test_a_step_leaves_its_longest_completions_and_later_steps_go_on_with_them(
    tmp_path: Path,
) -> None:
    made = trainer(tmp_path / "run")
    records = train(made)
    engine = made.runner.generate
    assert isinstance(engine, Watched)
    assert [record["unfinished"] > 0 for record in records] == [True] * 4
    assert max(record["max_staleness"] for record in records) > 0
    assert all(begun.finish_reason == "cancelled" for begun in engine.begun)
    assert any(begun.token_ids for begun in engine.begun)
    statuses = [status for record in records for status in record["status"]]
    assert set(statuses) <= {"correct", "wrong", "truncated"}
    assert all(record["dropped"] == 0 for record in records)


def test_dropped_completions_are_counted_and_never_taken_up(tmp_path: Path) -> None:
    made = trainer(tmp_path / "run", "stages.stage1.unfinished=drop")
    records = train(made)
    engine = made.runner.generate
    assert isinstance(engine, Watched)
    assert engine.begun == []
    assert records[-1]["dropped"] > 0
    assert {record["max_staleness"] for record in records} <= {0, 1}


def test_a_resumed_run_goes_on_with_the_same_completions(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    train(whole)
    stopped = trainer(tmp_path / "stopped")

    def stop(step: int, record: Any) -> None:
        if step == 2:
            stopped.run.save("stage1", parts)
            raise InterruptedRun("stop")

    parts = {
        "learner": stopped.learner,
        "curriculum": stopped.curriculum,
        "pending": stopped.pending,
    }
    with pytest.raises(InterruptedRun):
        asyncio.run(stopped.train(stop))
    stopped.link.close()  # type: ignore[attr-defined]
    resumed = trainer(tmp_path / "stopped", resume=True)
    train(resumed)
    for (name, a), (_, b) in zip(
        whole.learner.named_params(), resumed.learner.named_params(), strict=True
    ):
        assert a.equal(b), name


def test_what_is_pending_survives_being_saved() -> None:
    pending = Pending()
    completion = Completion([1, 2], [-0.5, 0.0], [True, False], [3, 3], "cancelled", 4, 0)
    state = {"asked": [{"number": 7, "completions": [vars(completion)]}], "dropped": 2}
    pending.load_state(state)
    assert pending.state() == state
    assert (pending.asked[0].oldest_version(), pending.asked[0].complete) == (3, False)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("cluster.learners=1", 'cluster.mode = "asynchronous"'),
        ("stages.stage1.data.calculator=1", "the environment 'calculator' answers"),
    ],
)
def test_where_replies_cannot_be_taken_up_the_run_is_refused_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, told: str
) -> None:
    config = write_config(
        tmp_path / "run.toml", "stages.stage1.over_sampling=0.5", override
    )
    assert main(["train", str(config), "--out", str(tmp_path / "run")]) != 0
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_stage_of_a_config_logs_what_was_left_unfinished(tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "run.toml",
        *SETTINGS[:-2],
        'stages.stage1.skip_checks=["rewards","ends"]',
    )
    out = tmp_path / "run"
    main(["train", str(config), "--out", str(out), "--set", "stages.sft.steps=5"])
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["stage"] == "stage1" and "unfinished" in row]
    assert len(steps) == 4

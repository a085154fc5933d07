"""The overlapped loop in one process: our engine draws while the learner updates."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import judged_by, rl_stage, small_config, tables_of

from openqwq.cluster.asynchronous import AsynchronousTrainer
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.curriculum import Curriculum
from openqwq.train.learner import Learner
from openqwq.train.rollouts import RolloutRunner
from openqwq.train.run import Run
from openqwq.types import OpenQwQError, Score, Task

TOKENIZER = Tokenizer.train(["user\nWhat is 1 + 2?\nassistant\n\\boxed{3}"] * 9, 290)
SETTINGS = ("stages.stage1.steps=4", "stages.stage1.max_tokens=6")
SETTINGS += ("stages.stage1.prompts_per_step=4", "stages.stage1.group_size=4")
SETTINGS += (
    "stages.stage1.checkpoint_every=2",
    "cluster.mode=asynchronous",
    "cluster.max_staleness=2",
)


class EndsOften:
    """TOKENIZER with a hundred end-of-turn ids, so that a random model ends its turns."""

    eos_ids = tuple(range(100))

    def __getattr__(self, name: str) -> Any:
        return getattr(TOKENIZER, name)


class Parity:
    """Odd lengths are right."""

    status = ""

    async def score(self, task: Task, completion: str) -> Score:
        right = completion == task.solution or len(completion) % 2 == 1
        return Score(
            float(right), self.status or ("correct" if right else "wrong"), detail="why"
        )  # type: ignore[arg-type]


class InFlight:
    """The engine as a link that interrupts nobody."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def push(self, named_params: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        self.engine.push(named_params, version, in_flight=True)


def model() -> Qwen2:
    made = Qwen2(
        ModelConfig(TOKENIZER.vocab_size, 16, 32, 1, 2, 1, 8, tie_word_embeddings=True)
    )
    made.initialise(torch.Generator().manual_seed(0), std=0.3)
    return made


def trainer(directory: Path, judge: Parity, resume: bool = False) -> AsynchronousTrainer:
    config = small_config(*SETTINGS)
    engine = Engine(model(), TOKENIZER, EngineLimits(32, 64))
    stage = rl_stage(config)
    runner = RolloutRunner(engine, EndsOften(), judged_by(math=judge))  # type: ignore[arg-type]
    return AsynchronousTrainer(
        Run(directory, config, resume),
        stage,
        Learner(model(), stage.optimiser, stage.steps),
        runner,
        InFlight(engine),
        Curriculum(tables_of(config), stage.data, "0"),
    )


def train(made: AsynchronousTrainer, stop_after: int = 99) -> None:
    def progress(step: int, record: Any) -> None:
        if step == stop_after:
            raise ConnectionError("killed")

    try:
        asyncio.run(made.train(progress))
    finally:
        made.run.close()
        made.link.engine.close()  # type: ignore[attr-defined]


def test_steps_overlap_within_the_staleness_and_a_killed_run_asks_its_prompts_again(
    tmp_path: Path,
) -> None:
    first = trainer(tmp_path / "run", Parity())
    with pytest.raises(ConnectionError):
        train(first, stop_after=3)
    saved = first.run.load_state("stage1")
    assert saved is not None
    pending = saved["pending"]["numbers"]
    assert saved["learner"]["done"] == 2
    assert len(pending) == len(set(pending)) >= 4  # one step's prompts were under way
    again = trainer(tmp_path / "run", Parity(), resume=True)
    asked: list[int] = []
    task = again.curriculum.task
    again.curriculum.task = lambda number: asked.append(number) or task(number)  # type: ignore[func-returns-value,method-assign]
    train(again)
    assert asked[: len(pending)] == pending
    records = again.run.log_lines("stage1")
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert all(0 <= r["staleness"] <= r["max_staleness"] <= 2 for r in records)
    assert any(record["staleness"] > 0 for record in records)
    assert all(0 <= record["learner_idle_share"] <= 1 for record in records)


def test_a_batch_that_nobody_could_judge_is_refused_with_the_reason(tmp_path: Path) -> None:
    judge = Parity()
    judge.status = "error"
    with pytest.raises(OpenQwQError, match=r"whole batch of step 0 \(why\): repair them"):
        train(trainer(tmp_path / "run", judge))

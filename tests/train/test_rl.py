"""The RL loop's own decisions: advantages, refills, controls, refusals."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import judged_by, rl_stage, small_config, tables_of

from openqwq.config import OptimiserConfig, RewardConfig, RlStage
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.checks import check_mask
from openqwq.train.curriculum import Curriculum
from openqwq.train.episodes import Attempt, TokenRecord
from openqwq.train.learner import Learner
from openqwq.train.objective import objective
from openqwq.train.packing import pack_trajectories
from openqwq.train.rewards import stage_rewards
from openqwq.train.rl import Batch, Trainer, group_rewards
from openqwq.train.rollouts import RolloutRunner, trajectories_of
from openqwq.train.run import Run
from openqwq.types import Completion, OpenQwQError, SamplingParams, Score, Task
from openqwq.verify.judge import RewardModelJudge

TOKENIZER = Tokenizer.train(["user\nWhat is 1 + 2?\nassistant\n\\boxed{3}"] * 9, 290)


def model() -> Qwen2:
    made = Qwen2(
        ModelConfig(TOKENIZER.vocab_size, 16, 32, 1, 2, 1, 8, tie_word_embeddings=True)
    )
    made.initialise(torch.Generator().manual_seed(0), std=0.3)
    return made


class Judge:
    """Scores by a function of the text; gold solutions pass."""

    def __init__(self, value: Callable[[str], float], status: str | None = None) -> None:
        self.value, self.status, self.calls = value, status, 0

    async def score(self, task: Task, completion: str) -> Score:
        self.calls += 1
        if completion == task.solution:
            return Score(1.0, "correct")
        value = self.value(completion)
        return Score(value, self.status or ("correct" if value else "wrong"))  # type: ignore[arg-type]


def parity(text: str) -> float:
    return float(len(text) % 2)


def trainer(
    tmp_path: Path, judge: Judge, *overrides: str, engine_model: Qwen2 | None = None
) -> Trainer:
    # Random weights hardly ever end by themselves: every id is made an end-of-turn token.
    config = small_config("stages.stage1.steps=2", "stages.stage1.max_tokens=6", *overrides)
    stage = rl_stage(config)
    run = Run(tmp_path / "run", config, resume=False)
    engine = Engine(engine_model or model(), TOKENIZER, EngineLimits(32, 64))
    learner = Learner(model(), stage.optimiser, stage.steps)
    runner = RolloutRunner(engine, EndsOften(), judged_by(math=judge))  # type: ignore[arg-type]
    curriculum = Curriculum(tables_of(config), stage.data, "0")
    return Trainer(run, stage, learner, runner, engine, curriculum)


class EndsOften:
    """TOKENIZER with a hundred end-of-turn ids, so that a random model ends its turns."""

    eos_ids = tuple(range(100))

    def __getattr__(self, name: str) -> Any:
        return getattr(TOKENIZER, name)


def train(made: Trainer) -> list[dict[str, Any]]:
    """What the run reports of its steps, which comes after where it begins."""
    records: list[dict[str, Any]] = []
    try:
        asyncio.run(made.train(lambda step, record: records.append(dict(record))))
    finally:
        made.link.close()  # type: ignore[attr-defined]
    return records[1:]


def test_a_run_trains_on_its_own_samples_and_logs_every_step(tmp_path: Path) -> None:
    made = trainer(tmp_path, Judge(parity))
    before = [p.clone() for _, p in made.learner.named_params()]
    records = train(made)
    assert len(records) == 2 == len(made.run.log_lines("stage1"))
    # weights really reach the sampler
    assert all(r["log_prob_gap"] < 1e-5 for r in records)
    after = [p for _, p in made.learner.named_params()]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert records[0]["groups"] >= 8 and 0 < records[0]["groups_trained"] <= 8


def test_a_batch_that_is_cut_off_and_dropped_says_so(tmp_path: Path) -> None:
    overrides = ("stages.stage1.truncated=drop", "stages.stage1.max_tokens=1")
    made = trainer(tmp_path, Judge(parity, status="truncated"), *overrides)
    with pytest.raises(
        OpenQwQError, match=r"was cut off.*raise stages\.stage1\.max_tokens \(1\)"
    ):
        train(made)


def test_identical_completions_of_a_task_are_judged_once(tmp_path: Path) -> None:
    made = trainer(tmp_path, judge := Judge(parity))
    task = made.curriculum.next_tasks(1)[0]
    params = SamplingParams(temperature=0.0, max_tokens=4)
    (attempts,) = asyncio.run(made.runner.groups([(task, params)], 8))
    assert (len(attempts), judge.calls) == (8, 1)


def test_a_completion_cut_off_by_its_limit_scores_zero_whatever_the_judge_says(
    tmp_path: Path,
) -> None:
    made = trainer(tmp_path, Judge(lambda text: 1.0))
    task = made.curriculum.next_tasks(1)[0]
    params = SamplingParams(max_tokens=2)
    ((attempt, *_),) = asyncio.run(made.runner.groups([(task, params)], 2))
    assert (attempt.score.value, attempt.score.status) == (0.0, "truncated")


def test_errors_of_a_judge_are_counted_and_never_trained_on(tmp_path: Path) -> None:
    class HalfBroken(Judge):
        async def score(self, task: Task, completion: str) -> Score:
            score = await super().score(task, completion)
            broken = completion != task.solution and len(completion) % 3 == 0
            return Score(0.0, "error", detail="it broke") if broken else score

    (record, *_) = train(trainer(tmp_path, HalfBroken(parity)))
    assert record["errors"] == record["status"]["error"] > 0
    assert sum(record["status"].values()) == record["groups"] * 8


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (Judge(lambda text: 0.0), r"every reward of the first batch is 0\.0"),
        (Judge(lambda text: 1.0), r"every reward of the first batch is"),
        (Judge(parity, status="error"), "judges failed on the whole batch of step 0"),
    ],
)
def test_a_first_batch_that_teaches_nothing_is_refused(
    tmp_path: Path, judge: Judge, message: str
) -> None:
    # Truncated completions score 0; with every id an end of turn there are none.
    made = trainer(tmp_path, judge)
    made.runner.tokenizer.eos_ids = tuple(range(TOKENIZER.vocab_size))
    try:
        with pytest.raises(OpenQwQError, match=message):
            train(made)
    finally:
        made.runner.tokenizer.eos_ids = tuple(range(100))
        del made.runner.tokenizer.eos_ids


def test_verdicts_that_are_all_the_same_are_refused_where_they_decide(
    tmp_path: Path,
) -> None:
    """Rewards differ, as with a second one, but no group would be trained."""
    made = trainer(tmp_path, Judge(parity, status="wrong"))
    made.runner.tokenizer.eos_ids = tuple(range(TOKENIZER.vocab_size))
    try:
        with pytest.raises(
            OpenQwQError, match="every completion of the first batch is wrong"
        ):
            train(made)
    finally:
        del made.runner.tokenizer.eos_ids


def test_a_gold_answer_that_fails_its_own_verifier_is_refused(tmp_path: Path) -> None:
    class Strict(Judge):
        async def score(self, task: Task, completion: str) -> Score:
            return (
                Score(0.0, "wrong")
                if completion == task.solution
                else await super().score(task, completion)
            )

    with pytest.raises(OpenQwQError, match="judges the gold solution of addition:"):
        train(trainer(tmp_path, Strict(parity)))


def test_a_policy_that_never_ends_its_turn_is_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path, Judge(parity))
    made.runner.tokenizer.eos_ids = (TOKENIZER.vocab_size + 5,)
    try:
        with pytest.raises(OpenQwQError, match="no completion of the first batch ends"):
            train(made)
    finally:
        del made.runner.tokenizer.eos_ids


def test_a_sampler_with_other_weights_than_the_learner_is_refused(tmp_path: Path) -> None:
    class Deaf:
        """A weight link that does nothing."""

        def __init__(self, engine: Engine) -> None:
            self.close = engine.close

        def push(self, named_params: object, version: int) -> None: ...

    other = model()
    with torch.no_grad():
        other.model.norm.weight.mul_(1.01)
    made = trainer(tmp_path, Judge(parity), engine_model=other)
    with pytest.raises(OpenQwQError, match="sampler and learner differ by up to"):
        train(replace(made, link=Deaf(made.link)))  # type: ignore[arg-type]


def attempt(
    ids: list[int], drawn: list[bool], value: float = 1.0, records: int = 1
) -> Attempt:
    task = Task("t", "k", (), "math")
    completion = Completion(ids, [-1.0] * len(ids), drawn, [3] * len(ids), "stop", 2, 1)
    record = TokenRecord()
    record.give([7, 8])
    record.take(completion)
    score = Score(value, "correct" if value else "wrong", {"a": 0.5})
    return Attempt(task, [record] * records, [completion] * records, "text", score)


def test_a_trajectory_aligns_every_list_and_marks_only_sampled_tokens() -> None:
    (record,) = trajectories_of(attempt([1, 2, 3], [True, False, True]), "g", 0.25)
    assert record.token_ids == [7, 8, 1, 2, 3]
    assert record.sampled_mask == [False, False, True, False, True]
    assert record.log_probs == [0, 0, -1, -1, -1]
    assert record.weight_version == [0, 0, 3, 3, 3]
    assert (record.reward, record.reward_parts, record.group_id) == (1.0, {"a": 0.5}, "g")
    assert record.advantage == 0.25


def test_a_loss_on_a_token_that_was_not_sampled_is_refused() -> None:
    good = attempt([1, 2, 3], [True, False, True])
    (record,) = trajectories_of(good, "g")
    check_mask([good], pack_trajectories([record], 100))
    record.sampled_mask[3] = True
    with pytest.raises(OpenQwQError, match="never sampled"):
        check_mask([good], pack_trajectories([record], 100))


def scored(rewards: Sequence[float], length: int = 1) -> list[Attempt]:
    return [attempt([1] * length, [True] * length, value) for value in rewards]


def batch_of(tmp_path: Path, groups: dict[str, list[Attempt]], **changes: Any) -> Batch:
    made = trainer(tmp_path, Judge(parity))
    made.link.close()  # type: ignore[attr-defined]
    made = replace(made, stage=replace(made.stage, **changes))
    return made.batch(list(groups.items()), 0)


def test_groups_without_variance_are_not_trained_on(tmp_path: Path) -> None:
    values = {"mixed": [1.0, 0.0, 0.0, 1.0], "easy": [1.0, 1.0], "hard": [0.0, 0.0]}
    batch = batch_of(tmp_path, {key: scored(found) for key, found in values.items()})
    assert [(t.group_id, t.advantage) for t in batch.trained] == [
        ("mixed", a) for a in (0.5, -0.5, -0.5, 0.5)
    ]


def test_by_verdict_a_group_of_one_status_says_nothing_however_its_rewards_differ(
    tmp_path: Path,
) -> None:
    right = [attempt([1], [True], value) for value in (1.0, 1.1, 0.9)]
    by_verdict = batch_of(tmp_path / "a", {"g": right}, informative="verifier")
    by_reward = batch_of(tmp_path / "b", {"g": right}, informative="reward")
    assert (len(by_verdict.trained), len(by_reward.trained)) == (0, 3)


def test_an_attempt_of_several_records_counts_once_in_its_group_and_trains_them_all(
    tmp_path: Path,
) -> None:
    long = attempt([1], [True], 1.0, records=3)
    kept = batch_of(tmp_path, {"g": [long, *scored([0.0, 0.0, 0.0])]}).trained
    assert [t.advantage for t in kept] == [0.75, 0.75, 0.75, -0.25, -0.25, -0.25]
    assert {t.group_id for t in kept} == {"g"} and [t.reward for t in kept[:3]] == [1.0] * 3


def test_shuffled_rewards_are_the_same_rewards_elsewhere_and_reproducible(
    tmp_path: Path,
) -> None:
    groups = {f"g{i}": scored([0.0] * 5 + [1.0] * 5) for i in range(10)}
    one = batch_of(tmp_path / "a", groups, shuffle_rewards=True)
    again = batch_of(tmp_path / "b", groups, shuffle_rewards=True)
    plain = batch_of(tmp_path / "c", groups)
    assert [t.advantage for t in one.trained] == [t.advantage for t in again.trained]
    assert [t.advantage for t in one.trained] != [t.advantage for t in plain.trained]


def test_the_length_penalty_is_added_to_the_reward() -> None:
    stage = RlStage("rl", max_tokens=10, overlong_buffer=4)
    values = [group_rewards(scored([1.0], n), stage)[0] for n in (6, 8, 10)]
    assert values == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(("rule", "worth"), [("zero", 0.0), ("lowest", -3.0)])
def test_being_cut_off_never_wins(rule: str, worth: float) -> None:
    cut = replace(attempt([1], [True], 0.0), score=Score(0.0, "truncated"))
    others = scored([-3.0, -1.0])
    stage = RlStage("rl", truncated=rule)  # type: ignore[arg-type]
    assert group_rewards([*others, cut], stage) == [-3.0, -1.0, worth]


def test_attempts_that_were_cut_off_may_be_dropped(tmp_path: Path) -> None:
    cut = replace(attempt([1], [True], 0.0), score=Score(0.0, "truncated"))
    batch = batch_of(tmp_path, {"g": [cut, *scored([0.0, 1.0])]}, truncated="drop")
    assert [t.advantage for t in batch.trained] == [-0.5, 0.5]


def test_groups_without_variance_are_refilled_and_the_round_limit_is_kept(
    tmp_path: Path,
) -> None:
    easy_then_mixed = Judge(lambda text: 1.0)
    made = trainer(
        tmp_path,
        easy_then_mixed,
        "stages.stage1.max_refills=3",
        "stages.stage1.prompts_per_step=2",
    )
    made.runner.tokenizer.eos_ids = tuple(range(TOKENIZER.vocab_size))
    try:
        batch = asyncio.run(made._collect())
    finally:
        del made.runner.tokenizer.eos_ids
        made.link.close()  # type: ignore[attr-defined]
    assert (len(batch.groups), batch.refills, batch.trained) == (8, 3, [])
    assert len(made.curriculum.retired) == len({a.task.id for a in batch.judged})


@pytest.mark.parametrize("objective", ["cispo", "dapo", "gspo"])
def test_every_objective_runs(tmp_path: Path, objective: str) -> None:
    records = train(
        trainer(tmp_path, Judge(parity), f"stages.stage1.objective={objective}")
    )
    assert all(torch.isfinite(torch.tensor(r["loss"])) for r in records)


def test_the_kl_penalty_is_the_closed_form_and_pulls_towards_the_reference() -> None:
    stage = RlStage("rl", kl_coefficient=0.5)
    made, frozen = (Learner(model(), OptimiserConfig(lr=1e-3), 1) for _ in range(2))
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.mul_(1.1)
    records = [r for a in scored([1.0] * 3, 5) for r in trajectories_of(a, "g", 0.0)]
    (batch,) = pack_trajectories(records, 100)
    log_probs, _ = made.log_probs(batch)
    loss, metrics = objective(stage, frozen)(log_probs, batch, float(len(log_probs)))
    gap = frozen.log_probs(batch)[0].detach() - log_probs  # log(reference / policy)
    expected = (gap.exp() - 1 - gap).mean()
    torch.testing.assert_close(loss, 0.5 * expected)
    torch.testing.assert_close(metrics["reference_kl"] / len(log_probs), expected)
    with pytest.raises(OpenQwQError, match="give reference_log_probs"):
        objective(stage)(log_probs, batch, 1.0)
    loss.backward()
    assert all(p.grad is None for p in frozen.model.parameters())
    assert any(p.grad is not None and bool(p.grad.any()) for p in made.model.parameters())


async def test_a_reward_model_is_clamped_as_each_table_says() -> None:
    async def rate(task: Task, answer: str) -> float:
        return 9.0

    stage = RlStage(
        "rl",
        rewards=(RewardConfig("stage:taste", clip=1.0),),
        rewards_of={"toy": (RewardConfig("stage:taste", clip=2.0),)},
    )
    rewards = stage_rewards(stage, {}, {"stage:taste": RewardModelJudge(rate)})
    for kind, clip in (("toy", 2.0), ("other", 1.0)):
        task = Task("t", kind, (), "")
        score = await rewards.score(task, "</think>yes")
        assert score.value == pytest.approx(1 / (1 + math.exp(-clip)))

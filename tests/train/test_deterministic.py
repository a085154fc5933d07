"""In deterministic mode sampler and learner agree on every log-prob to the last bit."""

import asyncio
import random
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from small import rl_stage, small_config

from openqwq.config import OptimiserConfig
from openqwq.engine.engine import Engine
from openqwq.engine.limits import EngineLimits
from openqwq.model import checkpoint
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.text.tokenizer import Tokenizer
from openqwq.train.checks import MAX_LOG_PROB_GAP, check_log_prob_gap
from openqwq.train.learner import Learner
from openqwq.train.objective import objective
from openqwq.train.packing import pack_trajectories
from openqwq.train.placement import LocalPlacement
from openqwq.train.prepare import Prepared
from openqwq.train.rl import Batch, Trainer
from openqwq.train.run import Run
from openqwq.train.run_policies import Policies
from openqwq.types import Completion, OpenQwQError, SamplingParams, Trajectory

TOKENIZER = Tokenizer.train(["the quick brown fox jumps over the lazy dog\n\n"] * 4, 300)
SHAPES = [
    ModelConfig(300, 32, 52, 2, 4, 2, 8),
    ModelConfig(331, 36, 100, 2, 3, 1, 12, tie_word_embeddings=True),
    ModelConfig(300, 96, 256, 1, 6, 2, 16, attention_bias=False),
]


pytestmark = pytest.mark.usefixtures("one_thread")


def policy(shape: ModelConfig, seed: int = 0) -> Qwen2:
    model = Qwen2(shape)
    model.initialise(torch.Generator().manual_seed(seed), std=0.2)
    return model


def rollouts(engine: Engine, seed: int) -> list[Trajectory]:
    """Groups of random size after random prompts, some with a common beginning; one step on."""
    rng = random.Random(seed)
    common = rng.choices(range(256), k=35)

    async def group(number: int) -> list[Trajectory]:
        prompt = common * rng.randint(0, 1) + rng.choices(range(256), k=rng.randint(1, 40))
        params = SamplingParams.for_training(rng.randint(1, 60), (), rng.randrange(10**6))
        answers = await engine.generate(prompt, params, rng.choice([1, 2, 5]))
        turn = [*prompt, *answers[0].token_ids, *common]
        again = await engine.generate(turn, params, 1)  # goes on from the cache
        return [
            trajectory(ids, answer, f"{number} {len(ids)}")
            for ids, answer in [*((prompt, a) for a in answers), (turn, again[0])]
        ]

    async def groups() -> list[list[Trajectory]]:
        return await asyncio.gather(*(group(i) for i in range(5)))

    return [t for group in asyncio.run(groups()) for t in group]


def trajectory(prompt: list[int], answer: Completion, group: str) -> Trajectory:
    sampled = len(answer.token_ids)
    return Trajectory(
        prompt + answer.token_ids,
        [False] * len(prompt) + [True] * sampled,
        [0.0] * len(prompt) + answer.log_probs,
        [0] * (len(prompt) + sampled),
        "task",
        group,
        "",
        0.0,
        {},
        "correct",
        0,
        random.Random(sampled).uniform(-1, 1),
    )


@pytest.mark.parametrize(("shape", "threads"), list(zip(SHAPES, [1, 1, 2], strict=True)))
def test_the_learner_recomputes_every_sampled_log_prob_in_any_packing(
    shape: ModelConfig, threads: int
) -> None:
    torch.set_num_threads(threads)
    model = policy(shape)
    model.make_invariant()
    learner = Learner(model, OptimiserConfig("adamw", 1e-3), 10)
    engine = Engine(model, TOKENIZER, EngineLimits(11, 256, 50, 3))
    for step in range(2):
        sampled = rollouts(engine, step)
        assert sum(sum(t.sampled_mask) for t in sampled) > 100
        packings = [pack_trajectories(sampled, budget) for budget in (260, 700, 10_000)]
        for batch in (batch for packing in packings for batch in packing):
            with torch.no_grad():
                assert torch.equal(learner.log_probs(batch)[0], batch.sampler_log_probs)
            assert torch.equal(learner.log_probs(batch)[0], batch.sampler_log_probs)
        metrics = learner.train_step(packings[1], objective(rl_stage(small_config())))
        assert metrics["log_prob_gap"] == metrics["mismatch_kl"] == 0.0
        assert metrics["max_ratio"] == 1.0 and metrics["grad_norm"] > 0
        engine.push(learner.named_params(), step + 1)
    assert engine.statistics().reused_prompt_tokens > 50
    engine.close()


def test_the_switch_makes_both_roles_of_a_run_exact_and_only_with_it(
    tmp_path: Path,
) -> None:
    """Ordinary runs are allowed a gap, and have one; exact ones stop at the least."""
    gaps = []
    saved = tmp_path / "policy"
    checkpoint.save(policy(SHAPES[2]), saved, TOKENIZER)
    for deterministic in (True, False):
        config = small_config(f"deterministic={str(deterministic).lower()}")
        run = Run(tmp_path / str(deterministic), config, resume=False)
        policies = Policies(run, Prepared(config, {}), TOKENIZER)
        place = LocalPlacement().policy(policies, rl_stage(config), str(saved))
        with place as (learner, engine, _, _):
            assert isinstance(engine, Engine) and isinstance(learner, Learner)
            records = rollouts(engine, 0)
        model = learner.model
        batches = pack_trajectories(records, 700)
        assert model.invariant == deterministic
        with torch.no_grad():
            found = [learner.log_probs(b)[0] - b.sampler_log_probs for b in batches]
        gaps.append(float(torch.cat(found).abs().max()))
        learner.done = 1  # of a resumed run, which checks nothing else
        for record in records:
            record.weight_version = [1] * len(record.token_ids)
        batch = Batch([], [], records, [], 0)
        trainer = Trainer(run, rl_stage(config), learner, None, engine, None)  # type: ignore[arg-type]
        asyncio.run(trainer.check(batch))
        with torch.no_grad():
            model.model.norm.weight += 1e-6
        refused = "sampler and learner differ by up to .*e-0.*limit 0e"
        with pytest.raises(OpenQwQError, match=refused) if deterministic else nullcontext():
            asyncio.run(trainer.check(batch))
    assert gaps[0] == 0.0 < gaps[1] < MAX_LOG_PROB_GAP


def test_a_gap_that_is_no_number_is_refused() -> None:
    model = policy(SHAPES[0])
    engine = Engine(model, TOKENIZER, EngineLimits(11, 256))
    batches = pack_trajectories(rollouts(engine, 0), 700)
    engine.close()
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(OpenQwQError, match="differ by up to nan"):
        check_log_prob_gap(Learner(model, OptimiserConfig(), 1), batches)


def test_it_is_refused_with_learners_elsewhere() -> None:
    with pytest.raises(
        OpenQwQError, match=r"deterministic is true with cluster\.learners 2"
    ):
        small_config("deterministic=true", "cluster.learners=2")
    for other in ("deterministic=true", "cluster.learners=2"):
        with pytest.raises(OpenQwQError, match=r"device is 'cuda' with deterministic"):
            small_config(other, "device=cuda")

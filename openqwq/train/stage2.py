"""What stage 2 adds: preferences and a reward model, rules on thinking, tools, replay."""

import json
from collections.abc import Sequence
from copy import deepcopy
from itertools import chain

from openqwq.config import Stage2Config
from openqwq.data.files import write_atomically
from openqwq.model.qwen2 import Qwen2
from openqwq.tasks.instructions import TasteVerifier
from openqwq.tasks.source import Source, Split, distinct, draw_tasks
from openqwq.train.preferences import Pair, ranked_pairs, save_pairs
from openqwq.train.reward_model import RewardModel, judge_pairs, report_json, train_reward_model
from openqwq.train.rollout import Sampler
from openqwq.train.run import Run
from openqwq.types import OpenQwQError, SamplingParams, Verifier
from openqwq.verify.instructions import InstructionVerifier
from openqwq.verify.judge import RewardModelJudge
from openqwq.verify.partial import PartialCredit
from openqwq.verify.thinking import ThinkingRules

Mix = Sequence[tuple[Source, float]]


def stage2_mix(old: Mix, new: Mix, replay_share: float) -> list[tuple[Source, float]]:
    """`new` sources and, with `replay_share` of the prompts, `old` ones; weights within each kept.

    Raises OpenQwQError for a share outside [0, 1) and for no new source.
    """
    if not new or not 0 <= replay_share < 1:
        raise OpenQwQError(
            f"stage2 has {len(new)} tasks and replay_share {replay_share}: it needs at least one "
            "task and a share from 0 to below 1; or set stage2.steps = 0"
        )
    mix = [*_scaled(new, 1 - replay_share)]
    return mix + _scaled(old, replay_share) if replay_share else mix


def _scaled(mix: Mix, share: float) -> list[tuple[Source, float]]:
    total = sum(weight for _, weight in mix)
    return [(source, weight * share / total) for source, weight in mix]


def training_verifiers(config: Stage2Config, model: RewardModel | None) -> dict[str, Verifier]:
    """The judges of stage 2: rules that see the thinking too, and a reward model for taste."""
    rules = PartialCredit(InstructionVerifier(), config.partial_credit)
    thinking = ThinkingRules(rules, config.thinking_limit, penalty=config.thinking_penalty)
    judges: dict[str, Verifier] = {"instructions": thinking}
    if model:
        clip = config.reward_model.clip
        judges["preference"] = RewardModelJudge(model.rate, clip, TasteVerifier())
    return judges


async def prepare_reward_model(
    run: Run, sampler: Sampler, sources: Sequence[Source], policy: Qwen2
) -> RewardModel:
    """The run's reward model, made the first time from answers of `policy`, ranked by taste.

    Leaves `preferences/*.jsonl`, `reward_model/` and `reward_model.json` (how it does on pairs of
    held-out prompts) in the run's directory.
    """
    directory, config = run.directory / "reward_model", run.config.stage2.reward_model
    if directory.exists():
        return RewardModel.load(directory).to(policy.device)
    pairs = {
        "train": await _pairs(run, sampler, sources, "train", config.prompts),
        "held_out": await _pairs(run, sampler, sources, "held_out", config.held_out_prompts),
    }
    (run.directory / "preferences").mkdir(exist_ok=True)
    for name, found in pairs.items():
        if not found:
            raise OpenQwQError(
                f"the answers to the {name} prompts of {', '.join(s.kind for s in sources)} are "
                "all equally good: there is nothing to prefer; train the cold start longer"
            )
        save_pairs(found, run.directory / "preferences" / f"{name}.jsonl")
    model = RewardModel(deepcopy(policy), sampler.tokenizer)
    log = train_reward_model(model, pairs["train"], config, run.config.seed)
    report = {
        "train_pairs": len(pairs["train"]),
        "held_out": report_json(judge_pairs(model, pairs["held_out"])),
        "log": log,
    }
    write_atomically(run.directory / "reward_model.json", json.dumps(report, indent=1).encode())
    model.save(directory)
    return RewardModel.load(directory).to(policy.device)  # as a resumed run does


async def _pairs(
    run: Run, sampler: Sampler, sources: Sequence[Source], split: Split, prompts: int
) -> list[Pair]:
    config = run.config.stage2
    streams = (draw_tasks(s, split, f"{run.config.seed}/preferences") for s in sources)
    tasks = list(chain.from_iterable(distinct(stream, prompts) for stream in streams))
    stops = sampler.tokenizer.eos_ids
    requests = [
        (task, SamplingParams.for_training(config.max_tokens, stops, 1000 * i))
        for i, task in enumerate(tasks)
    ]
    answers, limit = config.reward_model.answers_per_prompt, config.reward_model.pairs_per_prompt
    groups = await sampler.groups(requests, answers)
    return [pair for group in groups for pair in ranked_pairs(group, limit)]

"""A reward_model stage: pairs from rows, or from the policy's own answers, and the fit."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from openqwq.config import PairsConfig, RewardModelStage
from openqwq.data.files import write_atomically
from openqwq.evaluation.progress import Progress
from openqwq.evaluation.statistics import mean_interval
from openqwq.model.qwen2 import Qwen2
from openqwq.tasks.table import DataTable, permuted
from openqwq.train.preference_report import PreferenceReport, judge_pairs, report_json
from openqwq.train.preferences import ranked_pairs, save_pairs
from openqwq.train.reward_model import RewardModel, train_reward_model
from openqwq.train.rollouts import Prompt, RolloutRunner
from openqwq.train.run import Run
from openqwq.types import OpenQwQError, Pair, SamplingParams, Task

Sides = Mapping[str, Sequence[Pair]]  # `train` and `held_out`
# held out; of fewer, even a reward model that is always right may be a coin
LEAST_PAIRS = 4


def row_pairs(
    tables: Mapping[str, DataTable], weights: Mapping[str, float], seed: int
) -> Sides:
    """The preference rows of the tables, each as often as its weight says.

    A weight of 2 takes a table's training pairs twice, one of 0.1 a tenth of them. Raises
    OpenQwQError where that is none.
    """
    train: list[Pair] = []
    held_out: list[Pair] = []
    for name, weight in weights.items():
        pairs = tables[name].pairs
        count = round(len(pairs) * weight)
        if not count:
            raise OpenQwQError(
                f"the weight {weight:g} of {name!r} is none of its {len(pairs)} pairs: raise it"
            )
        whole, rest = divmod(count, len(pairs))
        train += list(pairs) * whole
        for number in range(rest):
            train.append(pairs[permuted(len(pairs), number, f"{seed}/pairs/{name}")])
        held_out += tables[name].held_out_pairs
    return {"train": train, "held_out": held_out}


async def sampled_pairs(
    tables: Mapping[str, DataTable],
    stage: RewardModelStage,
    config: PairsConfig,
    runner: RolloutRunner,
    seed: int,
) -> Sides:
    """Pairs of the policy's own answers, ranked by the tables' verifiers.

    A table's weight multiplies how many of its prompts are answered.
    """
    train: list[Task] = []
    held_out: list[Task] = []
    for name, table in tables.items():
        count = max(1, round(config.prompts * stage.data[name]))
        if table.size is not None:
            count = min(count, table.size)
        numbers = range(count)
        train += [table.draw(number, f"{seed}/preferences/{name}") for number in numbers]
        held_out += table.held_out(config.held_out, seed)
    return {
        "train": await _ranked(train, config, runner),
        "held_out": await _ranked(held_out, config, runner),
    }


async def _ranked(
    tasks: Sequence[Task], config: PairsConfig, runner: RolloutRunner
) -> list[Pair]:
    stops = runner.tokenizer.eos_ids
    distinct = list({task.id: task for task in tasks}.values())
    prompts: list[Prompt] = []
    for i, task in enumerate(distinct):
        prompts.append(
            (task, SamplingParams.for_training(config.max_tokens, stops, 1000 * i))
        )
    pairs: list[Pair] = []
    for group in await runner.groups(prompts, config.answers):
        pairs += ranked_pairs(group, config.per_prompt)
    return pairs


def fit_reward_model(
    run: Run,
    stage: RewardModelStage,
    policy: Qwen2,
    runner: RolloutRunner,
    pairs: Sides,
    progress: Progress,
) -> None:
    """Train the stage's reward model and save it as the run's `NAME`.

    Also writes `preferences/NAME-*.jsonl` and `NAME.json`: how it does on held-out pairs. Raises
    OpenQwQError where there is nothing to learn from, and where the reward model may rank held-out
    pairs no better than a coin.
    """
    for side, found in pairs.items():
        if not found and (side == "train" or stage.pairs is not None):
            raise OpenQwQError(
                f"stage {stage.name!r} has no {side} pairs: the answers to the prompts of "
                f"{', '.join(stage.data)} are all equally good; train the policy longer, or raise "
                f"stages.{stage.name}.pairs.answers"
            )
        path = run.directory / "preferences" / f"{stage.name}-{side}.jsonl"
        save_pairs(found, path)
    model = RewardModel(deepcopy(policy), runner.tokenizer)
    log = train_reward_model(model, pairs["train"], stage, run.config.seed, progress)
    held_out = judge_pairs(model, pairs["held_out"])
    report: dict[str, Any] = {
        "train_pairs": len(pairs["train"]),
        "held_out": report_json(held_out),
        "log": log,
    }
    write_atomically(
        run.directory / f"{stage.name}.json", json.dumps(report, indent=1).encode()
    )
    if "chance" not in stage.skip_checks:
        require_better_than_chance(stage, held_out)
    for step, record in enumerate(log):
        run.log(stage.name, step, record)
    with run.replacing(stage.name) as directory:
        model.save(directory)


def require_better_than_chance(stage: RewardModelStage, held_out: PreferenceReport) -> None:
    """Raise OpenQwQError unless the 95% interval of the held-out accuracy lies above a half.

    A reward model of noise still rates, and RL follows whatever it happens to like, such as short
    answers. Fewer than `LEAST_PAIRS` say nothing, and it passes.
    """
    if held_out.pairs < LEAST_PAIRS:
        return
    right = round(held_out.accuracy * held_out.pairs)
    found = mean_interval([1.0] * right + [0.0] * (held_out.pairs - right))
    if found.low > 0.5:
        return
    raise OpenQwQError(
        f"the reward model of stage {stage.name!r} ranks {right} of {held_out.pairs} held-out pairs"
        f" right: {100 * found.value:.0f}%, 95% interval {100 * found.low:.0f} to"
        f" {100 * found.high:.0f}%, which may be chance. Give more pairs, check those in"
        f" preferences/{stage.name}-train.jsonl, or train more or fewer epochs in a new --out. To"
        f' go on all the same: stages.{stage.name}.skip_checks = ["chance"]'
    )

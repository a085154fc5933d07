"""Rules on settings that no type can state: ranges, names, and keys that exclude each other."""

import dataclasses
import re
from collections.abc import Collection, Mapping
from math import inf
from typing import Any

from openqwq.config.build import joined, key_of, near
from openqwq.config.stages import DistillStage, RewardModelStage, RlStage, SftStage, Stage
from openqwq.config.tree import Config, DataConfig, ShapeConfig
from openqwq.types import OpenQwQError

# Least and greatest value by key; other counts are at least 1, other numbers at least 0.
RANGES: Mapping[str, tuple[float, float]] = {
    "seed": (0, inf),
    "steps": (0, inf),
    "every": (0, inf),
    "threads": (0, inf),
    "learners": (0, inf),
    "max_staleness": (0, inf),
    "max_length": (0, inf),
    "slots": (0, inf),
    "max_tokens_per_micro_batch": (0, inf),
    "warmup_steps": (0, inf),
    "max_refills": (0, inf),
    "overlong_buffer": (0, inf),
    "group_size": (2, inf),  # completions that are compared
    "answers": (2, inf),
    "thinking_share": (0, 1),
    "tool_share": (0, 1),
    "decay_share": (0, 1),
    "final_lr_share": (0, 1),
    "partial_credit": (0, 1),
    "penalty": (0, 1),
    "max_error_share": (0, 1),
    "weight": (-inf, inf),
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
TABLE_RESERVED = {"mean", "none"}
# Keys of a table that say how a row is read.
FOR_ROWS = (
    *("prompt", "messages", "answer", "answer_pattern", "solution", "tests", "rules"),
    *("tools", "chosen", "rejected"),
)
# Stages are saved under their names, next to these.
STAGE_RESERVED = {
    *("config", "data", "evaluation", "finished", "log", "plots", "preferences", "python"),
    *("report", "rollouts", "tensorboard", "timing", "tokenizer"),
    *("mean", "none", "previous", "start", "verifier"),
}


def check_config(config: Config) -> None:
    """Raise OpenQwQError for the first setting that no run can use."""
    _check_ranges(config, "")
    if config.model and config.shape is not None:
        raise OpenQwQError(
            f"model is {config.model!r} and there is a [shape]: a model has a shape of its own; "
            "leave one of them out ([plan.shape] is for --plan)"
        )
    for path, shape in (("shape", config.shape), ("plan.shape", config.plan.shape)):
        if shape is not None:
            _check_shape(path, shape)
    _check_machine(config)
    for name, table in config.data.items():
        check_name(f"data.{name}", name, TABLE_RESERVED)
        _check_table(name, table)
    seen: set[str] = set()
    for stage in config.stages:
        check_name(f"stages.{stage.name}", stage.name, STAGE_RESERVED)
        if stage.name in seen:
            raise OpenQwQError(
                f"two stages are named {stage.name!r}: give each its own name"
            )
        seen.add(stage.name)
        _check_stage(config, stage)
    for name in config.evaluation.data:
        _require_table(config, name, "evaluation.data")


def check_name(path: str, name: str, reserved: Collection[str]) -> None:
    """Raise OpenQwQError for a name that cannot be a file's, or that a run keeps for itself."""
    if not NAME.fullmatch(name):
        raise OpenQwQError(
            f"{path}: {name!r} is not a name: use letters, digits, '-' and '_'"
        )
    if name in reserved:
        raise OpenQwQError(f"{path}: the name {name!r} is reserved: choose another")


def _check_ranges(table: Any, path: str) -> None:
    """Raise OpenQwQError for a number in `table`, or below it, that no run can use."""
    if dataclasses.is_dataclass(table):
        for entry in dataclasses.fields(table):
            value = getattr(table, entry.name)
            _check_ranges(value, joined(path, key_of(entry.name)))
    elif isinstance(table, tuple):
        for index, item in enumerate(table):
            _check_ranges(item, joined(path, getattr(item, "name", str(index))))
    elif isinstance(table, Mapping):
        if path.rpartition(".")[2] != "options":
            for key, item in table.items():
                _check_ranges(item, joined(path, key))
    elif isinstance(table, int | float) and not isinstance(table, bool):
        _check_number(table, path)


def _check_number(value: float, path: str) -> None:
    least = 1 if isinstance(value, int) else 0
    low, high = RANGES.get(path.rpartition(".")[2], (least, inf))
    if not low <= value <= high:
        rule = f"at least {low}" if high == inf else f"from {low} to {high}"
        raise OpenQwQError(f"{path} is {value!r}: it must be {rule}")


def _check_shape(path: str, shape: ShapeConfig) -> None:
    """Raise OpenQwQError for a shape whose attention cannot be computed."""
    heads = shape.num_attention_heads
    size = shape.hidden_size // heads
    if size == 0 or size % 2:
        raise OpenQwQError(
            f"{path}.num_attention_heads is {heads} with hidden_size {shape.hidden_size}, which "
            f"gives heads of size {size}: it must be even and above 0"
        )
    if heads % shape.num_key_value_heads:
        raise OpenQwQError(
            f"{path}.num_key_value_heads is {shape.num_key_value_heads}: it must divide "
            f"num_attention_heads, {heads}"
        )


def _check_machine(config: Config) -> None:
    learners = config.cluster.learners
    if config.deterministic and learners:
        raise OpenQwQError(
            f"deterministic is true with cluster.learners {learners}: it needs sampler and learner "
            "in one process, cluster.learners = 0"
        )
    if config.deterministic and config.precision == "bf16":
        raise OpenQwQError("deterministic is true with precision 'bf16': it needs 'fp32'")
    if config.device == "cuda" and (config.deterministic or learners):
        raise OpenQwQError(
            f"device is 'cuda' with deterministic {str(config.deterministic).lower()} and "
            f"cluster.learners {learners}: a deterministic run needs the CPU, and a cluster has "
            "GPUs by cluster.gpus_per_learner and cluster.gpus_per_sampler"
        )


def _check_table(name: str, table: DataConfig) -> None:
    path = f"data.{name}"
    own_tasks = bool(table.environment) and table.environment != "none"
    origins = [key for key in ("rows", "source") if getattr(table, key)]
    if len(origins) > 1:
        raise OpenQwQError(f"{path} has both rows and source: a table has one origin")
    if not origins and not own_tasks:
        raise OpenQwQError(
            f"{path} has no origin: give it rows (a file), a source (a generator), or an "
            "environment with tasks"
        )
    if isinstance(table.held_out, float) and not 0 < table.held_out < 1:
        raise OpenQwQError(
            f"{path}.held_out is {table.held_out}: a share lies between 0 and 1"
        )
    if bool(table.chosen) != bool(table.rejected):
        raise OpenQwQError(f"{path} needs both chosen and rejected, or neither")
    if not table.rows:
        _check_no_row_keys(path, table)
    if table.answer_pattern:
        try:
            groups = re.compile(table.answer_pattern).groups
        except re.error as error:
            raise OpenQwQError(
                f"{path}.answer_pattern {table.answer_pattern!r} is not a regular expression: "
                f"{error}"
            ) from None
        if not groups:
            raise OpenQwQError(
                f"{path}.answer_pattern {table.answer_pattern!r} has no group: put the answer in "
                "parentheses"
            )


def _check_no_row_keys(path: str, table: DataConfig) -> None:
    """Raise OpenQwQError for a key that a source, or an environment's own tasks, do not read."""
    keys: tuple[str, ...] = FOR_ROWS
    origin = "the source writes its own problems"
    if not table.source:
        keys = (*FOR_ROWS, "system", "verifier")
        origin = f"{table.environment} has its own tasks, and judges them itself"
    for key in keys:
        if getattr(table, key):
            raise OpenQwQError(f"{path}.{key} is for rows: {origin}; leave it out")


def _check_stage(config: Config, stage: Stage) -> None:
    path = f"stages.{stage.name}"
    if not stage.data:
        raise OpenQwQError(f"{path}.data is empty: name at least one table and its weight")
    for name, weight in stage.data.items():
        _require_table(config, name, f"{path}.data")
        if not 0 < weight < inf:
            raise OpenQwQError(f"{path}.data.{name} is {weight}: a weight is above 0")

    if isinstance(stage, RewardModelStage):
        if stage.steps:
            raise OpenQwQError(
                f"{path}.steps: a reward model counts epochs; set {path}.epochs"
            )
    elif bool(stage.steps) == bool(stage.epochs):
        raise OpenQwQError(
            f"{path} has steps {stage.steps} and epochs {stage.epochs:g}: give exactly one of them"
        )
    if isinstance(stage, RlStage | DistillStage) and not stage.steps:
        raise OpenQwQError(
            f"{path}.epochs is {stage.epochs:g}: stages of this kind count steps; set {path}.steps"
        )

    for key in ("beta1", "beta2"):
        beta = getattr(stage.optimiser, key)
        if beta >= 1:
            raise OpenQwQError(
                f"{path}.optimiser.{key} is {beta:g}: it must be at least 0 and below 1"
            )

    evaluate = stage.evaluate
    for name in [*(evaluate.data or ()), *evaluate.also]:
        _require_table(config, name, f"{path}.evaluate")
    if isinstance(stage, SftStage):
        _check_shares(config, stage)
    if isinstance(stage, RlStage | DistillStage) and not stage.temperature:
        raise OpenQwQError(
            f"{path}.temperature is 0: all replies of a group would be equal; it must be above 0"
        )
    if isinstance(stage, RlStage):
        if not stage.reward_seconds:
            raise OpenQwQError(f"{path}.reward_seconds is 0: it must be above 0")
        for name in stage.rewards_of:
            _require_table(config, name, f"{path}.rewards_of")
        if not stage.rewards:
            raise OpenQwQError(
                f"{path}.rewards is empty: name a judge, or leave the key out"
            )
        for budget in stage.thinking_budgets:
            if not 0 <= budget < stage.max_tokens:
                raise OpenQwQError(
                    f"{path}.thinking_budgets has {budget}: a budget is below max_tokens, "
                    f"{stage.max_tokens}, so that an answer fits"
                )


def _check_shares(config: Config, stage: SftStage) -> None:
    """Only a generator can write one solution with its thinking and another without."""
    for key in ("thinking_share", "tool_share"):
        generated = [name for name in stage.data if config.data[name].source]
        if getattr(stage, key) != 1.0 and not generated:
            raise OpenQwQError(
                f"stages.{stage.name}.{key} is {getattr(stage, key)}, but none of its tables is a "
                "generator: rows are learned as they are written"
            )


def _require_table(config: Config, name: str, path: str) -> None:
    if name not in config.data:
        advice = (
            f"did you mean {near(name, config.data)!r}?" if config.data else "there is none"
        )
        raise OpenQwQError(
            f"{path} names the table {name!r}, which is not in [data]: {advice}"
        )

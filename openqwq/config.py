"""One tree of frozen dataclasses; TOML files and dotted overrides fill it, nothing else does."""

import dataclasses
import difflib
import json
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Literal

from openqwq.types import OpenQwQError

# Least and greatest value by key; other counts are at least 1, other numbers at least 0.
RANGES = {
    **dict.fromkeys(["seed", "steps", "threads", "learners", "max_staleness"], (0, inf)),
    **dict.fromkeys(["warmup_steps", "max_refills", "overlong_buffer", "thinking_limit"], (0, inf)),
    **dict.fromkeys(["group_size", "answers_per_prompt"], (2, inf)),  # which are compared
    **dict.fromkeys(["thinking_share", "tool_share", "replay_share", "decay_share"], (0, 1)),
    **dict.fromkeys(["final_lr_share", "partial_credit", "thinking_penalty"], (0, 1)),
}


@dataclass(frozen=True)
class ShapeConfig:
    """The shape of a model made from nothing; its vocabulary is the tokenizer's."""

    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rope_theta: float = 10_000.0
    max_position_embeddings: int = 512


@dataclass(frozen=True)
class TokenizerConfig:
    """A byte-level BPE trained on the run's own tasks."""

    vocab_size: int = 400
    tasks_per_source: int = 500


@dataclass(frozen=True)
class SourceConfig:
    """One source of problems: its name, its options, and its weight in the mix."""

    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True)
class OptimiserConfig:
    """How gradients become weights. The rate warms up, holds, then decays linearly."""

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-6
    warmup_steps: int = 10
    decay_share: float = 0.0  # of all steps, at the end
    final_lr_share: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_tokens_per_micro_batch: int = 8192


@dataclass(frozen=True)
class SftConfig:
    """The cold start: worked solutions, of which `thinking_share` show their thinking.

    Of those to problems with a tool, `tool_share` call it; the rest answer at once.
    """

    steps: int = 1000
    batch_size: int = 96
    thinking_share: float = 0.2
    tool_share: float = 0.4
    checkpoint_every: int = 200
    optimiser: OptimiserConfig = OptimiserConfig("muon", 5e-3, 50, 0.7, 0.02)


@dataclass(frozen=True)
class RlConfig:
    """RL on verifiable rewards (DESIGN section 6)."""

    steps: int = 100
    prompts_per_step: int = 16
    group_size: int = 16
    max_tokens: int = 96
    objective: Literal["cispo", "dapo", "gspo"] = "cispo"
    cispo_cap: float = 5.0
    dapo_clip_low: float = 0.2
    dapo_clip_high: float = 0.28
    gspo_clip_low: float = 3e-4
    gspo_clip_high: float = 4e-4
    token_mask: bool = False  # drop tokens whose ratio is outside [0.5, 5]
    sequence_mask: bool = False  # drop sequences whose mean ratio is outside [0.99, 1.01]
    divide_by_batch_std: bool = False
    max_refills: int = 1  # rounds of new prompts for groups without variance
    retire_pass_rate: float = 0.9
    overlong_buffer: int = 0  # tokens before max_tokens over which a penalty grows; 0: none
    shuffle_rewards: bool = False  # the control: rewards that say nothing
    kl_coefficient: float = 0.0  # of the k3 penalty against the weights the stage began with
    checkpoint_every: int = 10
    optimiser: OptimiserConfig = OptimiserConfig("adamw", 3e-4, 5, 0.5, 0.1)


@dataclass(frozen=True)
class RewardModelConfig:
    """The Bradley-Terry reward model: preference pairs of the policy's own answers, and its fit."""

    prompts: int = 320  # to train on
    held_out_prompts: int = 40
    answers_per_prompt: int = 6
    pairs_per_prompt: int = 2  # at most: the best answer against the worst, and so on inwards
    epochs: int = 3
    batch_size: int = 32  # pairs
    centre: float = 0.01  # weight of the pull of a pair's rewards towards mean 0
    clip: float = 5.0  # rewards beyond it count as it
    optimiser: OptimiserConfig = OptimiserConfig("adamw", 1e-3, 5, 1.0, 0.05)


@dataclass(frozen=True)
class Stage2Config(RlConfig):
    """RL on instructions, preferences and tools: `tasks`, beside some of stage 1's replayed."""

    steps: int = 0
    kl_coefficient: float = 1e-3
    tasks: tuple[SourceConfig, ...] = ()
    replay_share: float = 0.25  # of the prompts, from stage 1's tasks
    max_turns: int = 4  # replies in an episode with tools
    partial_credit: float = 0.5  # share of an instruction's reward: the fraction of rules that hold
    thinking_limit: int = 100  # words of thinking that a rule-judged answer may take
    thinking_penalty: float = 1.0  # share of the reward lost with thinking that breaks a rule
    reward_model: RewardModelConfig = RewardModelConfig()


@dataclass(frozen=True)
class EngineConfig:
    """What the engine runs at once; see `engine.EngineLimits`."""

    slots: int = 256
    max_length: int = 256
    prefill_tokens: int = 4096
    lanes: int = 16


@dataclass(frozen=True)
class SandboxConfig:
    """Where programs run: on this machine, at an isolation level that must be named to be lower.

    A program that a task gives no limits of its own may use these, for each test: seconds, and
    bytes of address space and of output. `packages` are installed ones that it may import, or
    directories of packages.
    """

    workers: int = 2
    level: str = "full"
    wall_seconds: float = 10.0
    cpu_seconds: float = 10.0
    memory_bytes: int = 512 * 2**20
    output_bytes: int = 2**20
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out problems for each source, and completions for each."""

    problems: int = 100
    samples: int = 4
    temperature: float = 1.0
    seed: int = 1234


@dataclass(frozen=True)
class ClusterConfig:
    """Who runs where on Ray; with `learners` 0 everything is in one process."""

    learners: int = 0  # ranks that share the trained weights
    samplers: int = 1
    sampler: Literal["torch", "vllm"] = "torch"  # the engine in each
    verifiers: int = 1
    address: str = ""  # of a running Ray cluster; empty: one is started on this machine
    cpus_per_actor: float = 1.0
    gpus_per_learner: float = 0.0
    gpus_per_sampler: float = 0.0
    threads_per_actor: int = 1  # of PyTorch
    mode: Literal["synchronous", "one_step_off", "asynchronous"] = "synchronous"
    max_staleness: int = 8  # asynchronous: updates a sample may be behind, at most
    timeout: float = 1800.0  # seconds that one call to an actor may take
    precision: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False  # keep only layer inputs for the backward pass
    offload: bool = False  # shards in host memory
    gpu: Literal["A100", "H100", "H200", "B200"] = "H200"  # for `qwq train --plan`
    gpus_per_node: int = 8
    mean_completion: float = 0.4  # of rl.max_tokens, that the plan reckons with


@dataclass(frozen=True)
class Config:
    """Everything a run depends on."""

    seed: int = 0
    model: str = ""  # a checkpoint to begin with (directory, GGUF, hub id) in place of a cold start
    threads: int = 0  # of PyTorch; 0: as many as cores
    device: Literal["cpu", "cuda"] = "cpu"  # of a run in one process
    deterministic: bool = False  # RL's sampler and learner agree on log-probs to the last bit
    shape: ShapeConfig = ShapeConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    tasks: tuple[SourceConfig, ...] = ()
    sft: SftConfig = SftConfig()
    rl: RlConfig = RlConfig()
    stage2: Stage2Config = Stage2Config()
    engine: EngineConfig = EngineConfig()
    sandbox: SandboxConfig = SandboxConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    cluster: ClusterConfig = ClusterConfig()

    def __post_init__(self) -> None:
        _check_ranges(self, "")
        if self.deterministic and self.cluster.learners:
            raise OpenQwQError(
                f"deterministic is true with cluster.learners {self.cluster.learners}: it needs "
                "sampler and learner in one process, cluster.learners = 0"
            )
        if self.device == "cuda" and (self.deterministic or self.cluster.learners):
            raise OpenQwQError(
                f"device is 'cuda' with deterministic {str(self.deterministic).lower()} and "
                f"cluster.learners {self.cluster.learners}: a deterministic run needs the CPU, and "
                "a cluster has GPUs by cluster.gpus_per_learner and cluster.gpus_per_sampler"
            )


def _check_ranges(table: Any, path: str) -> None:
    """Raise OpenQwQError for a number in `table`, or below it, that no run can use."""
    for entry in dataclasses.fields(table):
        value, full = getattr(table, entry.name), f"{path}{entry.name}"
        if dataclasses.is_dataclass(value):
            _check_ranges(value, f"{full}.")
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if dataclasses.is_dataclass(item):
                    _check_ranges(item, f"{full}.{index}.")
        elif entry.type in (int, float):
            low, high = RANGES.get(entry.name, (int(entry.type is int), inf))
            if not low <= value <= high:
                rule = f"at least {low}" if high == inf else f"from {low} to {high}"
                raise OpenQwQError(f"{full} is {value!r}: it must be {rule}")


def load_config(files: Sequence[Path], overrides: Sequence[str] = ()) -> Config:
    """Defaults, then `files` from left to right, then `key.sub=value` overrides.

    Raises OpenQwQError naming the key, where it stands, its value and the nearest valid key.
    """
    tree: dict[str, Any] = {}
    for file in files:
        try:
            _merge(tree, tomllib.loads(file.read_text("utf-8")))
        except FileNotFoundError:
            raise OpenQwQError(f"config file {file} does not exist: check the path") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise OpenQwQError(f"config file {file} is not valid TOML: {error}") from None
    for override in overrides:
        _override(tree, override)
    where = ", ".join(map(str, files)) or "the overrides"
    config: Config = _build(Config, tree, Config(), "", where)
    return config


def dump_config(config: Config) -> str:
    """The resolved tree as TOML that `load_config` reads back to an equal tree."""
    return "\n".join(_dump(dataclasses.asdict(config), "")).lstrip("\n") + "\n"


def _merge(tree: dict[str, Any], update: Mapping[str, Any]) -> None:
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _override(tree: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    if not equals:
        raise OpenQwQError(f"override {text!r} has no '=': write key.sub=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    *parents, last = path.strip().split(".")
    node: Any = tree
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else _item(node, parent, path)
    if isinstance(node, dict):
        node[last] = parsed
    else:
        _item(node, last, path)
        node[int(last)] = parsed


def _item(node: Any, index: str, path: str) -> Any:
    if not isinstance(node, list) or not index.isdecimal() or int(index) >= len(node):
        length = f"a list of {len(node)}" if isinstance(node, list) else f"{node!r}, no table"
        raise OpenQwQError(f"override {path}: {index!r} does not exist, as above it is {length}")
    return node[int(index)]


def _build(kind: Any, value: Any, default: Any, path: str, where: str) -> Any:
    """`value` as `kind`: dataclasses and tuples by recursion, the rest checked."""
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(typing.cast(type, kind), value, default, path, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and isinstance(value, list):
        items = enumerate(value)
        return tuple(_build(arguments[0], item, None, f"{path}.{i}", where) for i, item in items)
    expected = getattr(kind, "__name__", str(kind))
    if origin is Literal:
        fits, expected = value in arguments, " or ".join(map(repr, arguments))
    elif kind is float and type(value) is int:
        return float(value)
    else:
        fits = isinstance(value, dict if origin is Mapping else kind)
        fits &= kind is bool or not isinstance(value, bool)
    if not fits:
        raise OpenQwQError(f"{path} in {where} is {value!r}: it must be {expected}")
    return value


def _build_dataclass(kind: type, value: Any, default: Any, path: str, where: str) -> Any:
    """`default` (a fresh `kind` if there is none) with the fields that `value` gives."""
    if not isinstance(value, dict):
        raise OpenQwQError(f"{path} in {where} is {value!r}: it must be a table")
    hints, changes = typing.get_type_hints(kind), {}
    for key, item in value.items():
        full = f"{path}.{key}".lstrip(".")
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)[0]
            raise OpenQwQError(f"unknown key {full} in {where}: did you mean {near!r}?")
        changes[key] = _build(hints[key], item, getattr(default, key, None), full, where)
    if default is not None:
        return dataclasses.replace(default, **changes)
    for entry in dataclasses.fields(kind):
        optional = entry.default is not MISSING or entry.default_factory is not MISSING
        if not optional and entry.name not in changes:
            raise OpenQwQError(f"{path} in {where} lacks {entry.name!r}: give it")
    return kind(**changes)


def _dump(tree: Mapping[str, Any], path: str) -> list[str]:
    lines, tables = [], []
    for key, value in tree.items():
        full = f"{path}.{key}".lstrip(".")
        if isinstance(value, Mapping) and key != "options":
            tables += ["", f"[{full}]", *_dump(value, full)]
        elif isinstance(value, (tuple, list)) and all(isinstance(item, Mapping) for item in value):
            for item in value:
                tables += ["", f"[[{full}]]", *_dump(item, full)]
        else:
            lines.append(f"{key} = {_scalar(value)}")
    return lines + tables


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # TOML has JSON's escapes except surrogate pairs, and asks for one more.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        pairs = {
            k if re.fullmatch(r"[A-Za-z0-9_-]+", k) else _scalar(k): v for k, v in value.items()
        }
        return "{ " + ", ".join(f"{k} = {_scalar(v)}" for k, v in pairs.items()) + " }"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_scalar, value)) + "]"
    return repr(value)

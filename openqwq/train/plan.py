"""What a stage in one process will need, from the model's shape alone: memory by part, seconds.

Every tensor that lives through a step is counted: weights, gradients, optimiser, the engine's copy
and cache, and what the backward pass keeps of a micro-batch. Sampling and learning take turns, so
the peak is the larger of the two on top of what both hold. SFT samples only to be evaluated, by
an engine that lives no longer than that.
"""

import functools
from dataclasses import dataclass, replace

import torch

from openqwq.config.stages import MOST_MICRO_BATCH
from openqwq.model.fit import parameter_counts
from openqwq.model.precision import DTYPES, product_rate
from openqwq.model.qwen2 import ModelConfig
from openqwq.types import OpenQwQError, Products

# at most, of a chunk of a frozen and of a trained head
HEAD_LOGITS = {True: 2**25, False: 2**27}
LEAST_MICRO_BATCH = 256  # tokens; below that products are slow
ENOUGH_TOKENS = 1024  # for products at their full speed on a CPU
# Larger tensors glibc gives back to the system when they are freed. A step that takes new memory
# for each of them is half as long again.
KEPT_TENSOR = 2**25  # bytes
RESERVE = 0.1  # of the memory, left free
# An adapter's passes free much between what they keep, and the allocator cannot use all of it.
GAPS = 1.12
# attention, norms, softmax and Python: their time over that of a step's products in fp32
OTHER_WORK = 0.25


@dataclass(frozen=True)
class Work:
    """One step of a stage: what is sampled, what is learned from, and in what form.

    SFT samples nothing: `slots` is 0. Lengths are tokens, means but for `max_length` and
    `evaluated_length`.
    """

    completions: int  # of a step; of SFT its examples
    group_size: int  # completions that share a prompt
    prompt_tokens: int
    completion_tokens: int
    slots: int
    lanes: int
    max_length: int  # prompt and completion of the longest
    prefill_tokens: int
    micro_batch_tokens: int
    products: Products
    rank: int = 0  # of an adapter on every linear layer; 0: all weights are trained
    recompute: bool = False
    reference: bool = False  # a frozen copy next to weights that are trained whole
    teacher: int = 0  # bytes of another policy that is loaded to compare with
    # the engine copies a frozen base into its own layout, to decode faster
    packs: bool = False
    # of the engine that evaluates an SFT stage; 0: none does
    evaluation_slots: int = 0
    evaluated_length: int = 0  # longest prompt and reply
    evaluated_within: bool = False  # between updates too, not only after the stage

    @property
    def learned_tokens(self) -> int:
        """Tokens of one update; the prompt of a group is computed once."""
        prompts = self.completions // self.group_size
        return prompts * self.prompt_tokens + self.completions * self.completion_tokens


@dataclass(frozen=True)
class StagePlan:
    """Peak bytes by part, and the seconds of one step by part."""

    memory: dict[str, int]
    seconds: dict[str, float]
    freed: int = 0  # of what is held, bytes that are gone when the stage is evaluated

    @property
    def peak(self) -> int:
        """What the process takes at most; of the phases only the largest counts."""
        phases = ("sampling", "learning", "evaluation")
        held = sum(size for part, size in self.memory.items() if part not in phases)
        evaluation = self.memory.get("evaluation", 0) - self.freed
        return held + max(self.memory["sampling"], self.memory["learning"], evaluation)


def plan_stage(
    config: ModelConfig, work: Work, process: int, timed: bool = True
) -> StagePlan:
    """The plan of one stage; `process` is Python with its imports, in bytes.

    Only what runs on this machine can be `timed`: its products are measured for that.
    """
    plan = _planned(config, work, process)
    return replace(plan, seconds=_seconds(config, work)) if timed else plan


def useful_tokens(config: ModelConfig) -> int:
    """The largest micro-batch that pays on a CPU, tokens: its widest tensor is a `KEPT_TENSOR`."""
    tokens = KEPT_TENSOR // (4 * config.intermediate_size)
    return min(max(tokens, ENOUGH_TOKENS), MOST_MICRO_BATCH)


def micro_batch_tokens(
    config: ModelConfig,
    work: Work,
    process: int,
    memory: int,
    most: int = MOST_MICRO_BATCH,
) -> int:
    """The largest micro-batch that fits into `memory` bytes, of at most about `most` tokens.

    Raises OpenQwQError, saying what to change, where not even a sequence of `max_length` fits.
    """
    least = max(LEAST_MICRO_BATCH, work.max_length)
    tokens = max(least, most)
    while tokens >= least:
        plan = _planned(config, replace(work, micro_batch_tokens=tokens), process)
        if plan.peak <= (1 - RESERVE) * memory:
            return tokens
        tokens -= 64
    smallest = replace(work, micro_batch_tokens=least)
    needed = _planned(config, smallest, process).peak
    raise OpenQwQError(
        f"a micro-batch of {least} tokens needs {_gib(needed)}, and {_gib(memory)} are free: "
        + advice(config, smallest, process, memory)
    )


def advice(config: ModelConfig, work: Work, process: int, memory: int) -> str:
    """The first change, or sum of changes, with which the stage fits into `memory` bytes."""
    changes = {
        "recompute activations": {"recompute": True},
        "train an adapter (lora = { rank = 16 })": {"rank": work.rank or 16},
        "halve engine.slots": _half_the_slots(work),
        "precision = 'bf16'": {"products": "bf16"},
    }
    taken: list[str] = []
    changed = work
    for name, change in changes.items():
        before = changed
        changed = replace(changed, **change)  # type: ignore[arg-type]
        if changed == before:
            continue
        taken.append(name)
        if _planned(config, changed, process).peak <= memory:
            return ", ".join(taken)
    return "choose a smaller model, or a machine with more memory"


def _half_the_slots(work: Work) -> dict[str, int]:
    return {
        "slots": (work.slots + 1) // 2,
        "evaluation_slots": (work.evaluation_slots + 1) // 2,
    }


def describe(name: str, plan: StagePlan, memory: int, hint: str) -> str:
    """The plan as lines of text; `hint` is what to change where it does not fit."""
    title = f"{name}: peak {_gib(plan.peak)}"
    if plan.seconds:
        title += f", {sum(plan.seconds.values()):.1f} s a step"
    lines = [title]
    for part, size in plan.memory.items():
        lines.append(f"  {part:<12} {_gib(size):>10}")
    for part, seconds in plan.seconds.items():
        lines.append(f"  {part:<12} {seconds:>8.1f} s")
    fits = plan.peak <= memory
    lines.append(f"  fits into {_gib(memory)}" if fits else f"  does not fit: {hint}")
    return "\n".join(lines)


def _planned(config: ModelConfig, work: Work, process: int) -> StagePlan:
    """The plan without seconds."""
    parameters, _ = parameter_counts(config)
    trained = adapter_parameters(config, work.rank) if work.rank else parameters
    width = DTYPES[work.products].itemsize
    base_width = width if work.rank else 4
    memory = {
        "process": process,
        "weights": base_width * parameters + (4 * trained if work.rank else 0),
        "gradients": 4 * trained,
        "optimiser": 8 * trained,
    }
    if work.reference and not work.rank:
        memory["reference"] = 4 * parameters
    if work.teacher:
        memory["teacher"] = work.teacher
    if work.slots:
        memory["engine"] = _engine_copy(config, work)
        rows = work.slots + work.lanes
        memory["cache"] = cache_bytes(config, rows, work.max_length)
    memory["sampling"] = _sampling(config, work) if work.slots else 0
    memory["learning"] = _learning(config, work)
    if work.evaluation_slots:
        rows = work.evaluation_slots + work.lanes
        cache = cache_bytes(config, rows, work.evaluated_length)
        memory["evaluation"] = _engine_copy(config, work) + cache + _sampling(config, work)
    freed = 0 if work.evaluated_within else memory["gradients"] + memory["optimiser"]
    return StagePlan(memory, {}, freed)


def _engine_copy(config: ModelConfig, work: Work) -> int:
    """The engine's own weights, in the layout in which it decodes."""
    if work.rank and not work.packs:
        return 0
    parameters, embedding = parameter_counts(config)
    width = DTYPES[work.products].itemsize
    tied_head = embedding if config.tie_word_embeddings else 0
    copy = width * (parameters + tied_head)
    if work.rank == 0:
        copy += (4 - width) * embedding
    return copy


def adapter_parameters(config: ModelConfig, rank: int) -> int:
    """A and B on each of a layer's seven matrices."""
    hidden = config.hidden_size
    inner = config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    sizes = 2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + inner)
    return config.num_hidden_layers * rank * sizes


def cache_bytes(config: ModelConfig, rows: int, max_length: int) -> int:
    """Keys and values of all rows in fp32; while they grow the shorter ones are still there."""
    keys = config.num_key_value_heads * config.head_dim
    capacity = 128
    before = 0
    while capacity < max_length:
        before = capacity
        capacity = 2 * capacity
    capacity = min(capacity, max_length)
    per_token = 4 * config.num_hidden_layers * keys * rows
    return per_token * (2 * capacity + (before + 1) // 2)


def _sampling(config: ModelConfig, work: Work) -> int:
    """A prefill's activations, or the logits of a decoding step, whichever is more."""
    hidden = config.hidden_size
    inner = config.intermediate_size
    rows = min(work.prefill_tokens, work.lanes * work.prompt_tokens)
    prefill = 4 * rows * (6 * hidden + 3 * inner)
    slots = max(work.slots, work.evaluation_slots)
    logits = 4 * 3 * config.vocab_size * min(slots, work.completions)
    return max(prefill, logits)


def _learning(config: ModelConfig, work: Work) -> int:
    """What the forward pass keeps of a micro-batch, and the largest temporary."""
    hidden = config.hidden_size
    inner = config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    tokens = min(work.micro_batch_tokens, work.learned_tokens)
    layer = 4 * tokens * (6 * hidden + 3 * queries + 4 * keys + 3 * inner + 7 * work.rank)
    kept = config.num_hidden_layers * layer
    if work.rank:
        kept = int(GAPS * kept)
    if work.recompute:
        kept = 4 * tokens * hidden * config.num_hidden_layers + layer
    chunk = min(HEAD_LOGITS[work.rank > 0], tokens * config.vocab_size)
    copies = 3 if work.rank else 4
    head = 4 * copies * chunk
    backward = 4 * tokens * (2 * inner + 2 * hidden)
    optimiser = 0 if work.rank else 8 * config.vocab_size * hidden
    return max(kept + head, kept + backward, optimiser)


def _seconds(config: ModelConfig, work: Work) -> dict[str, float]:
    """By the products' number and their measured rates here; other work is in fp32 always."""
    parameters, embedding = parameter_counts(config)
    multiplied = parameters if config.tie_word_embeddings else parameters - embedding
    dtype = DTYPES[work.products]

    @functools.cache
    def rate(rows: int, dtype: torch.dtype) -> float:
        return product_rate(config, rows, dtype)

    def seconds_of(operations: float, rows: int) -> float:
        products = operations / rate(rows, dtype)
        other = OTHER_WORK * operations / rate(rows, torch.float32)
        return products + other

    seconds = {}
    if work.slots:
        prompts = work.completions // work.group_size * work.prompt_tokens
        sampled = work.completions * work.completion_tokens
        rows = max(1, min(work.slots, work.completions))
        seconds["prefill"] = seconds_of(2 * (multiplied - embedding) * prompts, 1024)
        seconds["decode"] = seconds_of(2 * multiplied * sampled, rows)
    passes = 4 if work.rank else 6  # products of a weight, in numbers of operations a token
    if work.recompute:
        passes += 2
    seconds["update"] = seconds_of(passes * multiplied * work.learned_tokens, 1024)
    return seconds


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"

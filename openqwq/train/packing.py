"""Whole sequences laid end to end into flat micro-batches under a token budget, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from openqwq.model.attention import positions
from openqwq.types import OpenQwQError, Trajectory


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass; the hidden state at `loss_positions[i]` predicts `targets[i]`.

    Shared prefixes come first, then the sequences that go on from them (see `RaggedAttention`). A
    sequence's input stops before its last target, which nothing needs to see.
    """

    token_ids: Tensor  # (tokens,) int64
    position_ids: Tensor  # (tokens,) int64, from 0 in each sequence
    sequence_lengths: list[int]  # input tokens of each sequence, without its prefix
    prefix_lengths: list[int]
    prefix_of: list[int]  # (sequences,) index of each one's prefix, -1: none
    loss_positions: Tensor  # (loss_tokens,) int64, index into token_ids
    targets: Tensor  # (loss_tokens,) int64
    sampler_log_probs: Tensor  # (loss_tokens,) fp32, nats
    advantages: Tensor  # (loss_tokens,) fp32
    sequence_index: Tensor  # (loss_tokens,) int64, from 0 in each micro-batch

    def to(self, device: torch.device | str) -> "MicroBatch":
        """The same with its tensors on `device`."""
        moved: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                moved[name] = value.to(device)
        return replace(self, **moved)


@dataclass(frozen=True)
class WholeSequence:
    """A sequence of a micro-batch with its prefix and its last target."""

    token_ids: list[int]
    places: list[int]  # of its targets, in token_ids
    targets: list[int]  # the same, in the micro-batch's `targets`


def sequences_of(batch: MicroBatch) -> list[WholeSequence]:
    """The sequences of a micro-batch one by one, for what cannot read them laid together."""
    ids = batch.token_ids.tolist()
    prefixes: list[list[int]] = []
    start = 0
    for length in batch.prefix_lengths:
        prefixes.append(ids[start : start + length])
        start += length

    found: list[WholeSequence] = []
    for number, length in enumerate(batch.sequence_lengths):
        prefix = batch.prefix_of[number]
        before = prefixes[prefix] if prefix >= 0 else []
        targets = (batch.sequence_index == number).nonzero().flatten().tolist()
        last = int(batch.targets[targets[-1]])
        whole = [*before, *ids[start : start + length], last]
        # a target follows what predicts it
        shift = len(before) - start + 1
        places = (batch.loss_positions[targets] + shift).tolist()
        found.append(WholeSequence(whole, places, targets))
        start += length
    return found


def _check(trajectory: Trajectory, max_tokens: int) -> None:
    fault = _fault(trajectory, max_tokens)
    if fault:
        raise OpenQwQError(f"trajectory of task {trajectory.task_id!r} {fault}")


def _fault(trajectory: Trajectory, max_tokens: int) -> str:
    """Why a trajectory cannot be trained on; "" if it can."""
    tokens = len(trajectory.token_ids)
    log_probs = len(trajectory.log_probs)
    mask = trajectory.sampled_mask
    if trajectory.status == "error":
        return "was never scored: leave it out"
    if not tokens == len(mask) == log_probs:
        return (
            f"is not aligned: {tokens} ids, {len(mask)} mask values, {log_probs} log-probs"
        )
    if not any(mask):
        return "has no sampled token: leave it out"
    if mask[0]:
        return "has its first token sampled, which nothing predicts: unmask it"
    if tokens > max_tokens:
        return (
            f"has {tokens} tokens, above max_tokens_per_micro_batch {max_tokens}: raise that, "
            "or shorten completions"
        )
    return ""


@dataclass(frozen=True)
class _Family:
    """Trajectories of one group whose prompts agree in all but the last of `shared` + 1 tokens."""

    shared: int
    members: list[Trajectory]


def _families(trajectories: Sequence[Trajectory]) -> list[_Family]:
    """Samples of one prompt together; one without siblings shares nothing."""
    siblings: dict[tuple[str, tuple[int, ...]], list[Trajectory]] = {}
    for t in trajectories:
        # The last prompt token predicts the first sampled one, so each sample keeps its own.
        prefix = tuple(t.token_ids[: t.sampled_mask.index(True) - 1])
        siblings.setdefault((t.group_id, prefix), []).append(t)

    families: list[_Family] = []
    for (_, prefix), members in siblings.items():
        shared = len(prefix) if len(members) > 1 else 0
        families.append(_Family(shared, members))
    return families


@dataclass
class _Flat:
    """A micro-batch while it grows, as lists."""

    token_ids: list[int] = field(default_factory=list)
    prefix_lengths: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    # position of each sequence's first own token
    starts: list[int] = field(default_factory=list)
    prefix_of: list[int] = field(default_factory=list)
    predictors: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)

    def add_prefix(self, token_ids: list[int]) -> None:
        """Lay down what several sequences share."""
        self.token_ids += token_ids
        self.prefix_lengths.append(len(token_ids))

    def add_sequence(self, trajectory: Trajectory, shared: int, prefix: int) -> None:
        """Lay down what a trajectory adds to the `shared` tokens of its `prefix` (-1: none)."""
        # what predicts token i lies at before + i
        before = len(self.token_ids) - shared - 1
        last = shared
        for i, sampled in enumerate(trajectory.sampled_mask):
            if not sampled:
                continue
            self.predictors.append(before + i)
            self.targets.append(trajectory.token_ids[i])
            self.log_probs.append(trajectory.log_probs[i])
            self.advantages.append(trajectory.advantage)
            self.sequences.append(len(self.lengths))
            last = i

        self.token_ids += trajectory.token_ids[shared:last]
        self.lengths.append(last - shared)
        self.starts.append(shared)
        self.prefix_of.append(prefix)

    def micro_batch(self) -> MicroBatch:
        """The finished form."""
        starts = [0] * len(self.prefix_lengths) + self.starts
        return MicroBatch(
            token_ids=torch.tensor(self.token_ids),
            position_ids=positions(self.prefix_lengths + self.lengths, starts),
            sequence_lengths=self.lengths,
            prefix_lengths=self.prefix_lengths,
            prefix_of=self.prefix_of,
            loss_positions=torch.tensor(self.predictors),
            targets=torch.tensor(self.targets),
            sampler_log_probs=torch.tensor(self.log_probs, dtype=torch.float32),
            advantages=torch.tensor(self.advantages, dtype=torch.float32),
            sequence_index=torch.tensor(self.sequences),
        )


def _join(families: Sequence[_Family]) -> MicroBatch:
    """Shared prefixes first, each once, then what every member adds to its own."""
    flat = _Flat()
    for family in families:
        if family.shared:
            flat.add_prefix(family.members[0].token_ids[: family.shared])

    next_prefix = 0
    for family in families:
        prefix = -1
        if family.shared:
            prefix = next_prefix
            next_prefix += 1
        for trajectory in family.members:
            flat.add_sequence(trajectory, family.shared, prefix)
    return flat.micro_batch()


def pack_trajectories(
    trajectories: Sequence[Trajectory], max_tokens_per_micro_batch: int
) -> list[MicroBatch]:
    """Micro-batches of whole trajectories, whose loss covers exactly the sampled tokens.

    Samples of one prompt are laid together and share its tokens. Longest first, so that neighbours
    are alike in length and attention pads little; otherwise in the order given. Raises OpenQwQError
    for a trajectory that is unscored, misaligned, over the budget, without a sampled token, or with
    its first token sampled (nothing predicts it).
    """
    for trajectory in trajectories:
        _check(trajectory, max_tokens_per_micro_batch)

    packed: list[list[_Family]] = []
    room = 0
    for family in sorted(_families(trajectories), key=_longest, reverse=True):
        opened = False  # whether the prefix lies in the current micro-batch already
        for trajectory in sorted(family.members, key=_length, reverse=True):
            cost = _length(trajectory)
            if opened:
                cost -= family.shared
            if cost > room:
                packed.append([])
                room = max_tokens_per_micro_batch
                opened = False
                cost = _length(trajectory)
            if not opened:
                packed[-1].append(_Family(family.shared, []))
                opened = True
            packed[-1][-1].members.append(trajectory)
            room -= cost
    return [_join(families) for families in packed]


def _length(trajectory: Trajectory) -> int:
    return len(trajectory.token_ids)


def _longest(family: _Family) -> int:
    return max(_length(trajectory) for trajectory in family.members)


def pack_examples(
    examples: Sequence[tuple[list[int], list[bool]]], max_tokens_per_micro_batch: int
) -> list[MicroBatch]:
    """`pack_trajectories` for SFT's (token_ids, completion mask); advantages 1, log-probs 0."""
    trajectories: list[Trajectory] = []
    for i, (ids, mask) in enumerate(examples):
        name = f"example {i}"
        trajectory = Trajectory(
            token_ids=ids,
            sampled_mask=mask,
            log_probs=[0.0] * len(ids),
            weight_version=[],
            task_id=name,
            group_id=name,
            kind="",
            reward=0,
            reward_parts={},
            status="correct",
            reasoning_tokens=0,
            advantage=1.0,
        )
        trajectories.append(trajectory)
    return pack_trajectories(trajectories, max_tokens_per_micro_batch)

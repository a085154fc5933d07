"""Whole sequences laid end to end into flat micro-batches under a token budget, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
        tensors: dict[str, Any] = {
            n: v.to(device) for n, v in vars(self).items() if isinstance(v, Tensor)
        }
        return replace(self, **tensors)


def _check(trajectory: Trajectory, max_tokens: int) -> None:
    ids, mask = trajectory.token_ids, trajectory.sampled_mask
    faults = {
        "was never scored: leave it out": trajectory.status == "error",
        f"is not aligned: {len(ids)} ids, {len(mask)} mask values, {len(trajectory.log_probs)} "
        "log-probs": not len(ids) == len(mask) == len(trajectory.log_probs),
        "has no sampled token: leave it out": not any(mask),
        "has its first token sampled, which nothing predicts: unmask it": any(mask[:1]),
        f"has {len(ids)} tokens, above max_tokens_per_micro_batch {max_tokens}: raise that, "
        "or shorten completions": len(ids) > max_tokens,
    }
    for fault, found in faults.items():
        if found:
            raise OpenQwQError(f"trajectory of task {trajectory.task_id!r} {fault}")


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
    return [
        _Family(len(prefix) if len(members) > 1 else 0, members)
        for (_, prefix), members in siblings.items()
    ]


def _join(families: Sequence[_Family]) -> MicroBatch:
    """Shared prefixes first, each once, then what every member adds to its own."""
    inputs: list[int] = []
    prefix_lengths: list[int] = []
    for family in families:
        if family.shared:
            inputs += family.members[0].token_ids[: family.shared]
            prefix_lengths.append(family.shared)

    lengths: list[int] = []
    starts: list[int] = []  # position of each sequence's first own token
    prefix_of: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    log_probs: list[float] = []
    advantages: list[float] = []
    sequences: list[int] = []
    prefixes_seen = 0
    for family in families:
        prefix = -1
        if family.shared:
            prefix = prefixes_seen
            prefixes_seen += 1

        for trajectory in family.members:
            offset = len(inputs) - family.shared - 1  # what predicts token i lies at offset + i
            last = family.shared
            for i, sampled in enumerate(trajectory.sampled_mask):
                if not sampled:
                    continue
                predictors.append(offset + i)
                targets.append(trajectory.token_ids[i])
                log_probs.append(trajectory.log_probs[i])
                advantages.append(trajectory.advantage)
                sequences.append(len(lengths))
                last = i
            inputs += trajectory.token_ids[family.shared : last]
            lengths.append(last - family.shared)
            starts.append(family.shared)
            prefix_of.append(prefix)

    return MicroBatch(
        token_ids=torch.tensor(inputs),
        position_ids=positions(prefix_lengths + lengths, [0] * len(prefix_lengths) + starts),
        sequence_lengths=lengths,
        prefix_lengths=prefix_lengths,
        prefix_of=prefix_of,
        loss_positions=torch.tensor(predictors),
        targets=torch.tensor(targets),
        sampler_log_probs=torch.tensor(log_probs, dtype=torch.float32),
        advantages=torch.tensor(advantages, dtype=torch.float32),
        sequence_index=torch.tensor(sequences),
    )


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
    families = _families(trajectories)
    for family in sorted(families, key=lambda f: -max(len(t.token_ids) for t in f.members)):
        opened = False  # whether the prefix lies in the current micro-batch already
        for t in sorted(family.members, key=lambda t: -len(t.token_ids)):
            cost = len(t.token_ids) - (family.shared if opened else 0)
            if cost > room:
                packed.append([])
                room, opened, cost = max_tokens_per_micro_batch, False, len(t.token_ids)
            if not opened:
                packed[-1].append(_Family(family.shared, []))
                opened = True
            packed[-1][-1].members.append(t)
            room -= cost
    return [_join(members) for members in packed]


def pack_examples(
    examples: Sequence[tuple[list[int], list[bool]]], max_tokens_per_micro_batch: int
) -> list[MicroBatch]:
    """`pack_trajectories` for SFT's (token_ids, completion mask); advantages 1, log-probs 0."""
    records = []
    for i, (ids, mask) in enumerate(examples):
        zeros, name = [0.0] * len(ids), f"example {i}"
        records.append(Trajectory(ids, mask, zeros, [], name, name, "", 0, {}, "correct", 0, 1.0))
    return pack_trajectories(records, max_tokens_per_micro_batch)

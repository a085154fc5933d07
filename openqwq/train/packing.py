"""Whole sequences laid end to end into flat micro-batches under a token budget, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openqwq.model.attention import positions
from openqwq.types import OpenQwQError, Trajectory


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass; the hidden state at `loss_positions[i]` predicts `targets[i]`.

    A sequence's input stops before its last target, which nothing needs to see.
    """

    token_ids: Tensor  # (tokens,) int64
    position_ids: Tensor  # (tokens,) int64, from 0 in each sequence
    sequence_lengths: list[int]  # input tokens of each sequence
    loss_positions: Tensor  # (loss_tokens,) int64, index into token_ids
    targets: Tensor  # (loss_tokens,) int64
    sampler_log_probs: Tensor  # (loss_tokens,) fp32, nats
    advantages: Tensor  # (loss_tokens,) fp32
    sequence_index: Tensor  # (loss_tokens,) int64, from 0 in each micro-batch


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


def _join(trajectories: Sequence[Trajectory]) -> MicroBatch:
    inputs: list[int] = []
    lengths, loss_tokens = [], []
    for number, t in enumerate(trajectories):
        sampled = [i for i, drawn in enumerate(t.sampled_mask) if drawn]
        loss_tokens += [
            (len(inputs) + i - 1, t.token_ids[i], t.log_probs[i], t.advantage, number)
            for i in sampled
        ]
        lengths.append(sampled[-1])
        inputs += t.token_ids[: sampled[-1]]
    predictors, targets, log_probs, advantages, sequences = zip(*loss_tokens, strict=True)
    return MicroBatch(
        token_ids=torch.tensor(inputs),
        position_ids=positions(lengths),
        sequence_lengths=lengths,
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

    Longest first, so that neighbours are alike in length and attention pads little; otherwise in
    the order given. Raises OpenQwQError for a trajectory that is unscored, misaligned, over the
    budget, without a sampled token, or with its first token sampled (nothing predicts it).
    """
    packed: list[list[Trajectory]] = []
    room = 0
    for trajectory in sorted(trajectories, key=lambda t: -len(t.token_ids)):
        _check(trajectory, max_tokens_per_micro_batch)
        if len(trajectory.token_ids) > room:
            packed.append([])
            room = max_tokens_per_micro_batch
        packed[-1].append(trajectory)
        room -= len(trajectory.token_ids)
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

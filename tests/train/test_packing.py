import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openqwq.config import OptimiserConfig
from openqwq.model.qwen2 import ModelConfig, Qwen2
from openqwq.train.learner import Learner
from openqwq.train.loss import policy_loss, token_log_probs
from openqwq.train.packing import MicroBatch, pack_examples, pack_trajectories
from openqwq.types import OpenQwQError, Trajectory


def trajectory(
    token_ids: list[int], mask: list[bool], advantage: float = 0.0, name: str = "t"
) -> Trajectory:
    log_probs = [-0.25 * (i + 1) if drawn else 0.0 for i, drawn in enumerate(mask)]
    versions = [0] * len(token_ids)
    return Trajectory(
        token_ids,
        mask,
        log_probs,
        versions,
        name,
        name,
        "toy",
        0.0,
        {},
        "wrong",
        0,
        advantage,
    )


def random_trajectories(seed: int, count: int, longest: int) -> list[Trajectory]:
    rng = random.Random(seed)
    result = []
    for number in range(count):
        length = rng.randint(2, longest)
        mask = [False] + [rng.random() < 0.6 for _ in range(length - 1)]
        mask[rng.randrange(1, length)] = True
        ids = [rng.randrange(30) for _ in range(length)]
        result.append(trajectory(ids, mask, rng.uniform(-1, 1), f"t{number}"))
    return result


TWO = [
    trajectory([5, 6, 7, 8], [False, False, True, True], 0.5, "short"),
    trajectory([1, 2, 3, 4, 9, 9], [False, True, False, False, True, False], -1.0, "long"),
]


def test_a_micro_batch_lays_sequences_end_to_end_and_points_at_the_predicting_positions() -> (
    None
):
    (batch,) = pack_trajectories(TWO, 10)
    # the longer first, each up to its last predictor
    assert batch.sequence_lengths == [4, 3]
    assert batch.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert batch.loss_positions.tolist() == [0, 3, 5, 6]
    assert batch.targets.tolist() == [2, 9, 7, 8]
    assert batch.sampler_log_probs.tolist() == [-0.5, -1.25, -0.75, -1.0]
    assert batch.advantages.tolist() == [-1.0, -1.0, 0.5, 0.5]
    assert batch.sequence_index.tolist() == [0, 0, 1, 1]


def test_a_smaller_budget_opens_another_micro_batch() -> None:
    assert [batch.sequence_lengths for batch in pack_trajectories(TWO, 9)] == [[4], [3]]


def test_index_tensors_are_int64_and_value_tensors_fp32() -> None:
    (batch,) = pack_trajectories(TWO, 10)
    for name in (
        "token_ids",
        "position_ids",
        "loss_positions",
        "targets",
        "sequence_index",
    ):
        assert getattr(batch, name).dtype == torch.int64
    assert batch.sampler_log_probs.dtype == batch.advantages.dtype == torch.float32


def sampled_tokens(batch: MicroBatch) -> list[tuple[tuple[int, ...], int, float, float]]:
    """Per loss token: the input that predicts it, its id, its log-prob, its advantage."""
    rows = []
    starts = [sum(batch.sequence_lengths[:i]) for i in range(len(batch.sequence_lengths))]
    for position, target, log_prob, advantage, sequence in zip(
        batch.loss_positions.tolist(),
        batch.targets.tolist(),
        batch.sampler_log_probs.tolist(),
        batch.advantages.tolist(),
        batch.sequence_index.tolist(),
        strict=True,
    ):
        prefix = tuple(batch.token_ids[starts[sequence] : position + 1].tolist())
        assert batch.position_ids[position] == len(prefix) - 1
        rows.append((prefix, target, log_prob, advantage))
    return rows


@settings(deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 12), st.integers(12, 40))
def test_exactly_the_sampled_ids_are_targets_each_after_its_own_prefix(
    seed: int, count: int, budget: int
) -> None:
    trajectories = random_trajectories(seed, count, 12)
    expected = [
        (
            tuple(t.token_ids[:i]),
            t.token_ids[i],
            t.log_probs[i],
            torch.tensor(t.advantage).item(),
        )
        for t in trajectories
        for i, drawn in enumerate(t.sampled_mask)
        if drawn
    ]
    batches = pack_trajectories(trajectories, budget)
    assert sorted(row for batch in batches for row in sampled_tokens(batch)) == sorted(
        expected
    )
    assert all(len(batch.token_ids) <= budget for batch in batches)


def test_packing_is_deterministic_and_longest_first_with_ties_in_the_order_given() -> None:
    sizes = [3, 7, 3, 5, 7, 2]
    trajectories = [
        trajectory([number] * size, [False] + [True] * (size - 1))
        for number, size in enumerate(sizes)
    ]
    runs = [pack_trajectories(trajectories, 12) for _ in range(2)]
    for batches in runs:
        assert [batch.sequence_lengths for batch in batches] == [[6], [6, 4], [2, 2, 1]]
        order = [
            i for batch in batches for i in batch.token_ids.unique_consecutive().tolist()
        ]
        assert order == [1, 4, 3, 0, 2, 5]


class Toy(torch.nn.Module):
    """Embedding, position embedding and a causal mean inside each sequence."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Parameter(torch.randn(30, 8, dtype=dtype))
        self.position = torch.nn.Parameter(torch.randn(40, 8, dtype=dtype))
        self.head = torch.nn.Parameter(torch.randn(30, 8, dtype=dtype))

    def gradient(
        self, objective: str, batches: list[MicroBatch], normaliser: int
    ) -> Tensor:
        self.zero_grad()
        dtype = self.head.dtype
        for batch in batches:
            x = self.embedding[batch.token_ids] + self.position[batch.position_ids]
            hidden = torch.cat(
                [part.cumsum(0).tanh() for part in x.split(batch.sequence_lengths)]
            )[batch.loss_positions]
            log_probs, _ = token_log_probs(hidden, self.head, batch.targets)
            sampler = batch.sampler_log_probs.to(dtype) + log_probs.detach() + 1
            loss, _ = policy_loss(
                objective,
                log_probs,
                sampler,
                batch.advantages.to(dtype),
                batch.sequence_index,
                normaliser,
                token_bounds=(0.5, 5.0),
            )
            loss.backward()
        return torch.cat(
            [p.grad.flatten() for p in self.parameters() if p.grad is not None]
        )


@pytest.mark.parametrize("objective", ["cispo", "dapo", "gspo"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)]
)
def test_parameter_gradient_is_the_same_for_any_token_budget(
    objective: str, dtype: torch.dtype, tolerance: float
) -> None:
    trajectories = random_trajectories(11, 24, 20)
    normaliser = sum(sum(t.sampled_mask) for t in trajectories)
    toy = Toy(dtype)
    whole = toy.gradient(objective, pack_trajectories(trajectories, 10_000), normaliser)
    assert whole.norm() > 0
    for budget in (20, 33, 100):
        split = toy.gradient(objective, pack_trajectories(trajectories, budget), normaliser)
        assert (split - whole).norm() <= tolerance * whole.norm()


def test_sft_examples_become_the_same_record_with_unit_advantages() -> None:
    (batch,) = pack_examples([([1, 2, 3], [False, False, True])], 8)
    assert batch.token_ids.tolist() == [1, 2]
    assert batch.loss_positions.tolist() == [1]
    assert batch.targets.tolist() == [3]
    assert batch.advantages.tolist() == [1.0]
    assert batch.sampler_log_probs.tolist() == [0.0]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (trajectory([1, 2], [True, True]), "first token sampled"),
        (trajectory([1, 2], [False, False]), "no sampled token"),
        (trajectory([], []), "no sampled token"),
        (trajectory(list(range(11)), [False] + [True] * 10), "11 tokens.*micro_batch 10"),
        (replace(TWO[0], log_probs=[0.0]), "4 ids, 4 mask values, 1 log-probs"),
        (replace(TWO[0], sampled_mask=[False, True]), "4 ids, 2 mask values, 4 log-probs"),
        (replace(TWO[0], status="error"), "never scored"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_name(
    broken: Trajectory, message: str
) -> None:
    with pytest.raises(OpenQwQError, match=f"task '{broken.task_id}' .*{message}"):
        pack_trajectories([TWO[1], broken], 10)


def groups_of_samples(seed: int) -> list[Trajectory]:
    """Three groups of one to four samples of a prompt, some of which have two turns."""
    rng = random.Random(seed)
    records = []
    for group in range(3):
        prompt = [rng.randrange(30) for _ in range(rng.randint(1, 12))]
        for _ in range(rng.randint(1, 4)):
            reply = [rng.randrange(30) for _ in range(rng.randint(1, 9))]
            drawn = [True] + [rng.random() < 0.7 for _ in reply[1:]]
            record = trajectory(
                prompt + reply,
                [False] * len(prompt) + drawn,
                rng.uniform(-1, 1),
                f"g{group}",
            )
            records.append(record)
    return records


@pytest.mark.parametrize("budget", [22, 60, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_sharing_prompts_changes_neither_log_probs_nor_gradients(
    seed: int, budget: int
) -> None:
    model = Qwen2(ModelConfig(30, 16, 24, 2, 4, 2, 4))
    model.initialise(torch.Generator().manual_seed(seed), std=0.2)
    learner = Learner(model, OptimiserConfig(), 1)

    def run(records: list[Trajectory]) -> tuple[list[tuple[float, ...]], list[Tensor]]:
        model.zero_grad()
        rows: list[tuple[float, ...]] = []
        for batch in pack_trajectories(records, budget):
            assert len(batch.token_ids) <= budget
            log_probs, _ = learner.log_probs(batch)
            (log_probs * batch.advantages).sum().backward()
            columns = batch.advantages, batch.sampler_log_probs, batch.targets, log_probs
            rows += zip(*(column.tolist() for column in columns), strict=True)
        return sorted(rows), [
            p.grad.clone() for p in model.parameters() if p.grad is not None
        ]

    records = groups_of_samples(seed)
    alone = [replace(record, group_id=f"alone {i}") for i, record in enumerate(records)]
    rows, gradients = run(records)
    expected_rows, expected_gradients = run(alone)
    torch.testing.assert_close(torch.tensor(rows), torch.tensor(expected_rows))
    torch.testing.assert_close(gradients, expected_gradients)


def test_samples_of_one_prompt_compute_it_once() -> None:
    prompt, replies = list(range(10)), [[11, 12], [13], [14, 15, 16]]
    records = [
        trajectory(prompt + r, [False] * 10 + [True] * len(r), 1.0, "same") for r in replies
    ]
    (batch,) = pack_trajectories(records, 100)
    assert batch.prefix_lengths == [9]
    # the last prompt token and all but the last sample
    assert batch.sequence_lengths == [3, 2, 1]
    assert batch.token_ids.tolist() == [*range(9), 9, 14, 15, 9, 11, 9]
    assert batch.position_ids.tolist() == [*range(9), 9, 10, 11, 9, 10, 9]

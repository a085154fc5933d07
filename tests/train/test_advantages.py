import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openqwq.train.advantages import group_advantages, informative_groups, overlong_penalty
from openqwq.types import OpenQwQError

TRL: dict[str, Any] = json.loads(Path(__file__).with_name("trl_reference.json").read_text())
MEMBERS = st.lists(
    st.tuples(st.floats(-1.0, 1.0), st.sampled_from("abc")), min_size=1, max_size=24
)


@pytest.mark.parametrize(("divide", "scale_rewards"), [(False, "none"), (True, "batch")])
def test_advantages_equal_trl(divide: bool, scale_rewards: str) -> None:
    case = TRL["group_advantages"]
    groups = [str(i // case["group_size"]) for i in range(len(case["rewards"]))]
    advantages = group_advantages(case["rewards"], groups, divide_by_batch_std=divide)
    # TRL's standard deviation computes n / (n - 1) in fp32 even for fp64 rewards.
    assert advantages == pytest.approx(case[scale_rewards], rel=1e-7 if divide else 1e-12)


def test_overlong_penalty_equals_trl() -> None:
    case = TRL["overlong"]
    penalties = [
        overlong_penalty(n, case["max_length"], case["buffer"]) for n in case["lengths"]
    ]
    assert penalties == pytest.approx(case["penalties"], rel=1e-12)


def test_groups_may_be_interleaved_and_of_different_sizes() -> None:
    advantages = group_advantages([1.0, 5.0, 0.0, 7.0, 2.0], ["a", "b", "a", "b", "a"])
    assert advantages == [0.0, -1.0, -1.0, 1.0, 1.0]


def test_no_group_std_scales_the_advantages() -> None:
    assert group_advantages([0.0, 0.01, 0.0, 1.0], ["a", "a", "b", "b"]) == pytest.approx(
        [-0.005, 0.005, -0.5, 0.5]
    )


@given(MEMBERS)
def test_advantages_sum_to_zero_in_each_group(members: list[tuple[float, str]]) -> None:
    rewards, groups = (list(column) for column in zip(*members, strict=True))
    advantages = group_advantages(rewards, groups)
    for group in set(groups):
        total = math.fsum(a for a, g in zip(advantages, groups, strict=True) if g == group)
        assert total == pytest.approx(0.0, abs=1e-12)


@given(MEMBERS, st.floats(-10.0, 10.0))
def test_a_constant_added_to_every_reward_changes_nothing(
    members: list[tuple[float, str]], shift: float
) -> None:
    rewards, groups = (list(column) for column in zip(*members, strict=True))
    shifted = group_advantages([reward + shift for reward in rewards], groups)
    assert shifted == pytest.approx(group_advantages(rewards, groups), abs=1e-12)


@given(st.floats(-1.0, 1.0), st.integers(1, 20), st.booleans())
def test_a_constant_group_gets_exact_zeros_and_is_not_informative(
    reward: float, size: int, divide: bool
) -> None:
    rewards, groups = [reward] * size, ["a"] * size
    assert group_advantages(rewards, groups, divide_by_batch_std=divide) == [0.0] * size
    assert informative_groups(rewards, groups) == []


def test_informative_groups_come_in_order_of_appearance() -> None:
    rewards, groups = [1.0, 0.0, 0.5, 0.0, 0.0, 0.5], ["b", "b", "c", "a", "c", "c"]
    assert informative_groups(rewards, groups) == ["b", "c"]


def test_an_unscored_reward_is_refused_with_its_group() -> None:
    for reward in (math.nan, math.inf):
        with pytest.raises(OpenQwQError, match="group 'g7'"):
            group_advantages([0.0, reward], ["g7", "g7"])
        with pytest.raises(OpenQwQError, match="group 'g7'"):
            informative_groups([0.0, reward], ["g7", "g7"])


@pytest.mark.parametrize("buffer", [0, -1, 101])
def test_an_impossible_overlong_buffer_is_refused(buffer: int) -> None:
    with pytest.raises(OpenQwQError, match=r"1\.\.100"):
        overlong_penalty(50, 100, buffer)

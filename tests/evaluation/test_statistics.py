"""Scores and their uncertainty, against counting by hand and exact values."""

import math
from itertools import combinations
from statistics import fmean, stdev

import pytest

from openqwq.evaluation.statistics import compare, consensus, mean_interval, pass_at_k


@pytest.mark.parametrize(("samples", "correct"), [(4, 0), (4, 1), (6, 2), (5, 5)])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_sample(
    samples: int, correct: int
) -> None:
    values = [True] * correct + [False] * (samples - correct)
    for k in range(1, samples + 1):
        draws = [any(draw) for draw in combinations(values, k)]
        assert pass_at_k(samples, correct, k) == pytest.approx(sum(draws) / len(draws))


def test_pass_at_k_refuses_more_draws_than_samples() -> None:
    with pytest.raises(ValueError, match="from 1 to the 4 samples"):
        pass_at_k(4, 2, 5)


def test_the_interval_of_independent_items_is_wilsons() -> None:
    found = mean_interval([1.0] * 30 + [0.0] * 70)
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((0.2189, 0.3958), abs=2e-3)


def test_nothing_right_leaves_room_above_zero_and_never_below() -> None:
    found = mean_interval([0.0] * 30)
    assert 0.0 <= found.low < 1e-9
    assert found.high == pytest.approx(0.1135, abs=1e-3)


def test_samples_that_agree_within_an_item_do_not_narrow_the_interval() -> None:
    spread = mean_interval([0.0, 1.0] * 10)  # each item all right or all wrong
    steady = mean_interval([0.5] * 10 + [0.45, 0.55] * 5)
    assert spread.high - spread.low > 5 * (steady.high - steady.low)


@pytest.mark.parametrize(
    "values", [[1.0, -1.0, 1.0, -1.0], [-3.0, -2.6], [2.0, 3.0], [1.5, 0.5]]
)
def test_rewards_beyond_0_and_1_get_the_interval_of_their_standard_error(
    values: list[float],
) -> None:
    found = mean_interval(values)
    half = 1.96 * stdev(values) / len(values) ** 0.5
    assert found.value == pytest.approx(fmean(values))
    assert (found.low, found.high) == pytest.approx(
        (found.value - half, found.value + half)
    )


def test_one_reward_beyond_0_and_1_has_no_interval() -> None:
    found = mean_interval([-3.0])
    assert found.value == -3.0
    assert math.isnan(found.low) and math.isnan(found.high)


def test_the_commonest_answer_wins_and_the_earliest_breaks_ties() -> None:
    assert consensus(["7", "3", "3"], [0.0, 1.0, 1.0]) == 1.0
    assert consensus(["7", "3"], [0.0, 1.0]) == 0.0
    assert consensus([None, "3", None], [0.0, 1.0, 0.0]) == 1.0
    assert consensus([None], [0.0]) == 0.0


def test_few_differing_items_give_the_exact_sign_flip_probability() -> None:
    a = {str(i): 0.0 for i in range(10)}
    b = a | {str(i): 1.0 for i in range(5)}
    found = compare(a, b)
    assert found.p_value == pytest.approx(2 / 2**5)
    assert (found.better, found.worse, found.items) == (5, 0, 10)
    assert found.difference.value == pytest.approx(0.5)
    assert found.difference.low < 0.5 < found.difference.high


def test_equal_runs_do_not_differ_and_many_gains_are_significant() -> None:
    a = {str(i): float(i % 2) for i in range(60)}
    assert compare(a, a).p_value == 1.0
    better = dict.fromkeys(a, 1.0)
    assert compare(a, better).p_value < 0.001
    assert compare(better, a).difference.value == pytest.approx(-0.5)

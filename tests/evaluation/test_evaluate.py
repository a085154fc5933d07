"""Accuracy with intervals that respect the clustering of samples by problem."""

import math

import pytest

from openqwq.evaluation.evaluate import Outcome, accuracies, accuracy


def outcome(task: str, value: float, status: str = "", kind: str = "a") -> Outcome:
    return Outcome(
        task, kind, "q", "c", value, status or ("correct" if value else "wrong"), 4
    )


def test_pass_at_1_is_the_mean_of_problem_means_and_pass_at_k_the_share_ever_solved() -> (
    None
):
    outcomes = [outcome("x", 1), outcome("x", 0), outcome("y", 0), outcome("y", 0)]
    result = accuracy(outcomes)
    assert (result.pass_at_1, result.pass_at_k, result.problems) == (0.25, 0.5, 2)
    # problem means 0.5 and 0: sample deviation sqrt(0.125), error sqrt(0.125 / 2)
    assert math.isclose(result.half_width, 1.96 * math.sqrt(0.125 / 2))


def test_more_samples_of_the_same_problems_do_not_shrink_the_interval() -> None:
    once = [outcome(str(i), i % 2) for i in range(10)]
    assert accuracy(once * 4).half_width == accuracy(once).half_width


def test_errors_are_counted_apart_and_neither_right_nor_wrong() -> None:
    result = accuracy(
        [outcome("x", 1), outcome("x", 0, "error"), outcome("y", 0, "truncated")]
    )
    assert (result.pass_at_1, result.errors, result.truncated) == (0.5, 1, 1)


def test_a_reward_of_any_size_counts_as_its_verdict_says() -> None:
    result = accuracy([outcome("x", 5.0, "correct"), outcome("x", 0.4, "wrong")])
    assert (result.pass_at_1, result.pass_at_k) == (0.5, 1.0)
    result = accuracy([outcome("x", -3.0, "correct"), outcome("y", 1.0, "truncated")])
    assert (result.pass_at_1, result.pass_at_k) == (0.5, 0.5)


def test_rewards_without_verdicts_count_their_values() -> None:
    scored = [outcome("x", -3.0, "scored"), outcome("y", -2.0, "scored")]
    cut = outcome("z", -4.0, "truncated")
    assert accuracy([*scored, cut]).pass_at_1 == -3.0
    judged = outcome("w", 2.0, "correct", kind="b")
    pooled = accuracies([*scored, judged], {"both": ("a", "b")})
    assert {name: r.pass_at_1 for name, r in pooled.items()} == {
        "a": -2.5,
        "b": 1.0,
        "both": pytest.approx(-4 / 3),
    }


def test_families_pool_their_kinds() -> None:
    outcomes = [outcome("x", 1, kind="a"), outcome("y", 0, kind="b")]
    result = accuracies(outcomes, {"both": ("a", "b"), "one": ("a",)})
    assert {name: r.pass_at_1 for name, r in result.items()} == {
        "a": 1,
        "b": 0,
        "both": 0.5,
    }

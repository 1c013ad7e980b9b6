"""Rules with room for chance: against the binomial distribution itself, and closed forms."""

from __future__ import annotations

import random
from math import sqrt

import pytest

from clkit.results.gate import judge
from clkit.results.matrix import AccuracyMatrix


def matrix(*rows: list[float | None], count: int = 100, metric: str = "exact_match") -> AccuracyMatrix:
    tasks = [f"t{index}" for index in range(len(rows[-1]))]
    return AccuracyMatrix(
        tasks=tasks,
        counts=[count] * len(tasks),
        rows=[list(row) for row in rows],
        metric=metric,
        higher_is_better=metric == "exact_match",
    )


FORGOT = matrix([0.9, None], [0.8, 0.7])


def test_noise_is_the_standard_error_of_the_cells() -> None:
    average = judge("average_accuracy", "at least", 0.8, [FORGOT])
    assert average.value == pytest.approx(0.75)
    assert average.noise == pytest.approx(1.645 * sqrt(0.8 * 0.2 / 100 + 0.7 * 0.3 / 100) / 2)
    forgetting = judge("forgetting", "at most", 0.05, [FORGOT])
    assert forgetting.value == pytest.approx(0.1)
    assert forgetting.noise == pytest.approx(1.645 * sqrt(0.9 * 0.1 / 100 + 0.8 * 0.2 / 100))


def test_a_rule_is_broken_beyond_the_noise_only() -> None:
    assert judge("forgetting", "at most", 0.05, [FORGOT]).passed
    assert not judge("forgetting", "at most", 0.0, [FORGOT]).passed
    assert not judge("forgetting", "at most", 0.05, [matrix([0.9, None], [0.8, 0.7], count=10_000)]).passed
    assert judge("average_accuracy", "at least", 0.75, [matrix([1.0, None], [0.8, 0.7], count=10**9)]).passed


def test_a_model_that_keeps_the_rule_fails_a_build_one_time_in_twenty() -> None:
    """The truth lies at the limit: tests drawn from it break the rule in about 5 %, not in a half, of all builds."""
    draw = random.Random(7)

    def scored(p: float, n: int = 200) -> float:
        return sum(draw.random() < p for _ in range(n)) / n

    failed = sum(
        not judge(
            "average_accuracy", "at least", 0.75, [matrix([0.9, None], [scored(0.8), scored(0.7)], count=200)]
        ).passed
        for _ in range(2000)
    )
    assert 0.03 < failed / 2000 < 0.075


def test_seeds_give_their_own_spread() -> None:
    runs = [matrix([0.9, None], [kept, 0.7]) for kept in (0.80, 0.82, 0.78)]
    ruling = judge("forgetting", "at most", 0.05, runs)
    assert ruling.value == pytest.approx(0.1)
    assert ruling.noise == pytest.approx(4.30265 * 0.02 / sqrt(3), rel=1e-4)


def test_against_another_run_the_errors_of_both_count() -> None:
    ruling = judge("average_accuracy", "at least", 0.0, [FORGOT], matrix([0.9, None], [0.9, 0.8]))
    assert ruling.value == pytest.approx(-0.1)
    ours, theirs = (0.8 * 0.2 + 0.7 * 0.3) / 400, (0.9 * 0.1 + 0.8 * 0.2) / 400
    assert ruling.noise == pytest.approx(1.645 * sqrt(ours + theirs))
    assert not ruling.passed


def test_what_was_not_measured_is_not_kept() -> None:
    unfinished = AccuracyMatrix(tasks=["a", "b"], counts=[10, 10], rows=[[0.9, None]])
    ruling = judge("forgetting", "at most", 1.0, [unfinished])
    assert ruling.value is None
    assert not ruling.passed
    assert "in progress" in str(ruling.note)


def test_losses_have_no_binomial_error() -> None:
    ruling = judge("forgetting", "at most", 0.2, [matrix([2.0, None], [2.3, 2.5], metric="loss")])
    assert ruling.value == pytest.approx(0.3)
    assert (ruling.noise, ruling.passed) == (0.0, False)
    assert "chance is unknown" in str(ruling.note)

"""Paired comparisons: numbers by hand, scipy's own tests, and what a test of significance must keep."""

from __future__ import annotations

from itertools import product
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clkit.results.spread import COUNTED, DRAWN, Paired, holm, paired, sign_flip

DIFFERENCES = st.lists(st.integers(-5, 9).map(lambda tenths: tenths / 10), min_size=3, max_size=9)


@pytest.mark.parametrize("differences", [[], [0.3], [0.3, 0.4]])
def test_fewer_than_three_pairs_give_no_number(differences: list[float]):
    found = paired([(one, 0.1) for one in differences])
    assert found == Paired(len(differences), note="fewer than 3 pairs of runs say nothing")


def test_three_pairs_by_hand():
    found = paired([(0.5, 0.4), (0.9, 0.7), (0.7, 0.4)])
    assert found.means == pytest.approx((0.7, 0.5))
    assert found.mean == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.2 - 4.30265 * 0.1 / 3**0.5, 0.2 + 4.30265 * 0.1 / 3**0.5, False))
    assert found.p == 2 / 8  # all flipped, or none


def test_no_difference_is_farther_than_the_metric_reaches():
    found = paired([(1.0, 0.0), (1.0, 0.1), (0.2, 0.0)], farthest=1.0)
    assert found.interval is not None
    assert found.interval[1:] == (1.0, True)


def test_methods_that_never_differ():
    found = paired([(0.25, 0.25)] * 6)
    assert (found.mean, found.interval, found.p) == (0, (0, 0, False), 1)


@given(DIFFERENCES)
def test_every_way_of_flipping_is_counted(differences: list[float]):
    """In tenths all sums are whole numbers, so that nothing is lost by rounding here."""
    tenths = [round(10 * one) for one in differences]
    ways = [sum(map(int.__mul__, tenths, signs)) for signs in product((1, -1), repeat=len(tenths))]
    assert sign_flip(differences) == fmean(abs(way) >= abs(sum(tenths)) for way in ways)


@given(DIFFERENCES)
def test_neither_the_order_nor_the_side_changes_it(differences: list[float]):
    p = sign_flip(differences)
    assert sign_flip(differences[::-1]) == p
    assert sign_flip([-one for one in differences]) == p
    assert 2 / 2 ** len(differences) <= p <= 1


@pytest.mark.parametrize("n", [3, 5, 12, 13, 16, COUNTED + 1, 40])
def test_scipy_agrees(n: int):
    stats = pytest.importorskip("scipy.stats")
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    found = paired([(one, 0.0) for one in differences.tolist()])
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert found.interval == pytest.approx((*interval, False), abs=1e-4)
    exact = n <= COUNTED
    theirs = stats.permutation_test(
        (differences,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**16 if exact else 100_000,
        rng=np.random.default_rng(0),
    ).pvalue
    # Of 16,384 ways drawn, five standard deviations of the share that is as extreme.
    assert found.p == pytest.approx(theirs, abs=1e-12 if exact else 5 * (theirs * (1 - theirs) / DRAWN) ** 0.5)


def test_the_largest_number_that_is_counted_is_close_to_what_is_drawn():
    differences = np.random.default_rng(5).normal(0.3, 1, COUNTED).tolist()
    signs = np.random.default_rng(6).choice((-1, 1), (200_000, COUNTED))
    drawn = (abs(signs @ differences) >= abs(sum(differences))).mean()
    assert sign_flip(differences) == pytest.approx(drawn, abs=5 * (drawn * (1 - drawn) / 200_000) ** 0.5)
    assert sign_flip([0.1] * COUNTED) == 2 / 2**COUNTED


def test_drawn_ways_are_always_the_same():
    differences = np.random.default_rng(1).normal(0.2, 1, 30).tolist()
    assert sign_flip(differences) == sign_flip(differences)
    assert sign_flip([1.0] * 30) == 1 / (1 + DRAWN)  # never 0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9, 0.6]) == [1, 1, 1]
    assert holm([0.03]) == [0.03]


def test_holm_counts_only_what_was_tested():
    assert holm([None, 0.02, 0.03]) == pytest.approx([None, 0.04, 0.04])
    assert holm([None]) == [None]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float]):
    """Holm (1979): in ascending order, reject while p <= alpha / (number not rejected yet)."""
    alpha, left, rejected = 0.05, len(p_values), set()
    for place in sorted(range(len(p_values)), key=p_values.__getitem__):
        if p_values[place] * left > alpha:
            break
        rejected.add(place)
        left -= 1
    assert {place for place, p in enumerate(holm(p_values)) if p <= alpha} == rejected

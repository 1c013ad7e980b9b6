"""Comparisons of distributions against values computed by hand, by scipy, and by drawing."""

from __future__ import annotations

import random
from statistics import fmean, stdev

import numpy as np
import pytest
import torch

from clkit.models.distributions import (
    chance_overlap,
    jensen_shannon,
    overlap,
    rank_correlation,
    top_count,
    top_rows,
)
from clkit.models.magnitudes import divided_rows

KNOWN = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.4, 0.1, 0.4]])


def drawn(count: int, rows: int) -> torch.Tensor:
    values = torch.rand(count, rows, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 4
    return values / values.sum(dim=1, keepdim=True)


def test_known_top_rows_and_overlap() -> None:
    top = top_rows(KNOWN, 0.5)
    assert top.tolist() == [[True, True, False, False], [False, True, False, True]]
    assert overlap(top).tolist() == [[1.0, 0.5], [0.5, 1.0]]


@pytest.mark.parametrize("threshold", [0.05, 0.29, 0.7, 0.99])
def test_the_top_rows_are_those_that_migu_leaves_unmasked(threshold: float) -> None:
    n = drawn(3, 100)
    n[1, 40:] = n[1, 40]  # ties
    for (kept, _), top in zip(divided_rows(list(n), threshold), top_rows(n, 1 - threshold), strict=True):
        assert kept.tolist() == top.nonzero().flatten().tolist()


@pytest.mark.parametrize(("rows", "share"), [(40, 0.3), (7, 0.5), (5, 0.99)])
def test_chance_against_drawing(rows: int, share: float) -> None:
    draw, count = random.Random(0), top_count(rows, share)
    shared = [len({*draw.sample(range(rows), count)} & {*draw.sample(range(rows), count)}) / count for _ in range(4000)]
    mean, std = chance_overlap(rows, count)
    assert mean == pytest.approx(fmean(shared), abs=0.01)
    assert std == pytest.approx(stdev(shared), abs=0.01)


def test_jensen_shannon_and_ranks_against_scipy() -> None:
    distance = pytest.importorskip("scipy.spatial.distance")
    stats = pytest.importorskip("scipy.stats")
    n = drawn(4, 50)
    n[2, :20] = 0.0  # no row of a dead unit
    n[2] /= n[2].sum()
    for a in range(4):
        for b in range(4):
            expected = distance.jensenshannon(n[a].numpy(), n[b].numpy(), base=2) ** 2
            assert float(jensen_shannon(n)[a, b]) == pytest.approx(np.nan_to_num(expected), abs=1e-12)
            ranks = stats.spearmanr(n[a].numpy(), n[b].numpy()).statistic
            assert float(rank_correlation(n)[a, b]) == pytest.approx(ranks, abs=1e-12)


def test_known_extremes() -> None:
    apart = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    assert jensen_shannon(apart).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert rank_correlation(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]))[0, 1] == pytest.approx(-1)
    assert rank_correlation(torch.tensor([[0.5, 0.5], [0.9, 0.1]])).isnan()[0, 1]
    assert rank_correlation(torch.tensor([[0.2, 0.8]])).tolist() == [[1.0]]

"""Colours that can be read, whatever the score, and curves of known values."""

from __future__ import annotations

import math

import pytest

from clkit.report.heat import goodness, heat, luminance, sparkline
from clkit.results.matrix import AccuracyMatrix


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.1, 0.26, 0.5, 0.55, 0.74, 0.99, 1.0, 2.0])
def test_text_stands_out_from_every_ground(share: float) -> None:
    style = heat(share)
    assert style.color is not None
    assert style.bgcolor is not None
    first, second = sorted(luminance(one.get_truecolor()) for one in (style.color, style.bgcolor))
    assert (second + 0.05) / (first + 0.05) >= 4.5  # WCAG AA


def test_better_is_brighter() -> None:
    grounds = [heat(step / 20).bgcolor for step in range(21)]
    values = [luminance(ground.get_truecolor()) for ground in grounds if ground is not None]
    assert values == sorted(set(values))


def test_fractions_are_what_they_are_and_the_fewer_outside_the_better() -> None:
    rows = [[0.8, None], [0.4, 1.0]]
    share = goodness(AccuracyMatrix(["a", "b"], [1, 1], rows=rows, zero_shot=[0.0, 0.25]))
    assert [share(score) for score in (0.25, 1.0, None)] == [0.25, 1.0, None]
    outside = goodness(AccuracyMatrix(["a", "b"], [1, 1], metric="outside_labels", higher_is_better=False, rows=rows))
    assert outside(0.25) == 0.75


def test_perplexities_lie_between_the_best_and_the_worst() -> None:
    rows = [[math.e**2, None], [math.e**3, 10.0]]
    values = {"metric": "perplexity", "higher_is_better": False, "rows": rows, "zero_shot": [math.e**6, 20.0]}
    share = goodness(AccuracyMatrix(["a", "b"], [1, 1], **values))
    assert [share(math.e**power) for power in (2, 3, 6)] == pytest.approx([1.0, 0.75, 0.0])
    alone = goodness(AccuracyMatrix(["a"], [1], metric="loss", higher_is_better=False, rows=[[2.0]]))
    assert alone(2.0) == 1.0


def test_curves() -> None:
    assert sparkline([0.0, 0.5, None, 1.0, 1.5]) == "▁▅·██"
    assert len(sparkline([0.5] * 100, 20)) == 20
    assert sparkline([step / 99 for step in range(100)], 8) == "▁▂▃▄▅▆▇█"

"""Colours of scores: readable at every level, told apart by lightness, and the marks of cells."""

from __future__ import annotations

from itertools import pairwise

import pytest
from rich.color import Color

from clkit.report.heat import luminance
from clkit.report.page.heat import GROUNDS, LEVELS, heat, shades
from clkit.results.matrix import AccuracyMatrix


def lightness(colour: str) -> float:
    return luminance(Color.parse(colour).get_truecolor())


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(lightness, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the well-known grey that just fails


@pytest.mark.parametrize("ground", GROUNDS)
def test_every_level_is_readable_and_its_lightness_goes_one_way(ground: str):
    levels = shades(ground)
    assert len(levels) == LEVELS + 1
    assert min(contrast(shade.ground, shade.ink) for shade in levels) >= 4.5
    steps = [lightness(after.ground) - lightness(before.ground) for before, after in pairwise(levels)]
    assert all(step < 0 for step in steps) if ground == "light" else all(step > 0 for step in steps)


def test_cells_of_a_sequence():
    chance = {"exact_match": {"uniform": [0.5, 0.25], "majority": [0.6, 0.25]}}
    matrix = AccuracyMatrix(["a", "b"], [10, 10], zero_shot=[0.0, 0.3], rows=[[1.0, 0.3], [0.6, 0.75]], chance=chance)
    table = heat(matrix)
    assert [line.label for line in table.lines] == [
        "zero-shot",
        "after a",
        "after b",
        "uniform guesses",
        "most frequent label",
    ]
    marks = [[cell.marks for cell in line.cells] for line in table.lines[:3]]
    assert marks == [[("early", "guess"), ("early",)], [("learned",), ("early",)], [("guess",), ("learned",)]]
    assert [cell.level for cell in table.lines[2].cells] == [12, 15]
    assert [line.guess for line in table.lines] == [False] * 3 + [True] * 2


def test_where_lower_is_better_the_lowest_is_deepest():
    matrix = AccuracyMatrix(["a", "b"], [10, 10], "perplexity", higher_is_better=False, rows=[[2.0, None], [8.0, 4.0]])
    levels = [[cell.level for cell in line.cells] for line in heat(matrix).lines]
    assert levels == [[20, None], [0, 10]]  # by ratios


def test_one_score_alone_has_a_level():
    matrix = AccuracyMatrix(["a"], [10], "loss", higher_is_better=False, rows=[[0.0]])
    assert heat(matrix).lines[0].cells[0].level in range(LEVELS + 1)

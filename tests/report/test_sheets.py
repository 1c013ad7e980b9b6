"""Tables for papers: every mark survives, and the best is the best."""

from __future__ import annotations

import csv

import pytest

from clkit.report.sheets import Cell, Sheet, rendered

SHEET = Sheet(
    ["method", "BWT"],
    [[Cell("a_b & 5 %|x-1"), Cell("-2.5", "0.5", best=True)], [Cell("c\\d"), Cell("–")]],
    "percent",
)


def test_markdown() -> None:
    assert rendered(SHEET, "markdown").splitlines() == [
        "| method | BWT |",
        "| :-- | --: |",
        r"| a_b & 5 %\|x-1 | **-2.5 ± 0.5** |",
        r"| c\\d | – |",
        "",
        "percent",
    ]


def test_latex_with_booktabs() -> None:
    assert rendered(SHEET, "latex").splitlines() == [
        r"% percent; needs \usepackage{booktabs}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"method & BWT \\",
        r"\midrule",
        r"a\_b \& 5 \%|x-1 & \textbf{$-$2.5 $\pm$ 0.5} \\",
        r"c\textbackslash{}d & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_csv_has_a_column_of_deviations() -> None:
    assert [*csv.reader(rendered(SHEET, "csv").splitlines())] == [
        ["method", "BWT", "BWT std"],
        ["a_b & 5 %|x-1", "-2.5", "0.5"],
        ["c\\d", "", ""],
    ]


@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
def test_nothing_to_compare(form: str) -> None:
    assert "method" in rendered(Sheet(["method"], [], "x"), form)

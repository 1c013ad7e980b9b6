"""The summary says what the numbers say, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from clkit.report.general_tables import GeneralAbility, Measured
from clkit.report.page.words import counted, run_summary
from clkit.report.runs import RunResult
from clkit.results.kinds import Row
from clkit.results.matrix import AccuracyMatrix


def said(rows: list[Row], tasks: int = 3, general: GeneralAbility | None = None, **changes: Any) -> list[str]:
    matrix = AccuracyMatrix([*"abcdefgh"[:tasks]], [100] * tasks, rows=rows, **changes)
    return run_summary(RunResult("run", matrix, matrix.metrics(), general, None, None))


@pytest.mark.parametrize(
    ("rows", "first"),
    [
        (
            [[0.9, None, None], [0.4, 0.8, None], [0.3, 0.8, 0.7]],
            "After three tasks it still answers 30.0 % of the first one, a; when it had just learned it, it was "
            "90.0 %; most was lost while learning b.",
        ),
        (
            [[0.9, None, None], [0.9, 0.8, None], [0.3, 0.8, 0.7]],
            "After three tasks it still answers 30.0 % of the first one, a; when it had just learned it, it was "
            "90.0 %; all was lost while learning c.",
        ),
        (
            [[0.9, None, None], [0.6, 0.8, None], [0.0, 0.8, 0.7]],
            "After three tasks it knows nothing of the first one, a, any more; when it had just learned it, it was "
            "90.0 %; most was lost while learning c.",
        ),
        (
            [[0.9, None, None], [0.6, 0.8, None], [0.9, 0.8, 0.7]],
            "After three tasks it still answers 90.0 % of the first one, a, as when it had just learned it.",
        ),
        (
            [[0.8, None, None], [0.6, 0.8, None], [0.9, 0.8, 0.7]],
            "After three tasks it answers 90.0 % of the first one, a, which is better than when it had just learned it "
            "(80.0 %).",
        ),
        (
            [[0.0, None, None], [0.6, 0.8, None], [0.0, 0.8, 0.7]],
            "After three tasks it knows nothing of the first one, a, which it did not learn.",
        ),
        ([[0.8, None, None]], "After one task it answers 80.0 % of a."),
    ],
)
def test_the_first_sentence(rows: list[Row], first: str):
    assert said(rows)[0] == first


def test_the_task_that_lost_most():
    rows: list[Row] = [[0.9, None, None], [0.8, 0.8, None], [0.7, 0.1, 0.7]]
    assert said(rows)[1] == "It lost even more of b: from 80.0 % to 10.0 %."


def test_what_was_never_known_is_called_so():
    rows: list[Row] = [[0.2, None, None], [0.0, 0.34, None], [0.0, 0.0, 0.9]]
    chance: Any = {"exact_match": {"uniform": [0.2, 0.33, 0.25], "majority": [0.2, 0.34, 0.25]}}
    first, most, *_ = said(rows, chance=chance)
    assert "when it had just learned it, it was 20.0 %, no better than guessing; all was lost" in first
    assert "from 34.0 %, no better than guessing, to 0.0 %" in most


def test_a_score_that_is_missing_is_not_guessed():
    rows: list[Row] = [[None, None, None], [0.8, 0.8, None], [0.7, 0.1, 0.7]]
    assert said(rows)[0] == "It lost most of b: from 80.0 % to 10.0 %."


def test_where_lower_is_better():
    found = said([[2.0, None], [3.5, 1.5]], 2, metric="perplexity", higher_is_better=False)
    assert found[0].startswith("After two tasks it still has a perplexity of 3.50 on the first one, a;")
    assert "it was 2.00." in found[0]
    assert found[1:] == ["On average over its tasks it ends at 2.50."]


def test_general_ability():
    stages = [Measured("zero-shot", {"held_out_loss": 2.0}), Measured("a", {"held_out_loss": 2.5})]
    general = GeneralAbility(stages, {"held_out_loss": 0.5})
    assert "On text that no task taught its loss went from 2.000 to 2.500: it knows less of that now." in said(
        [[0.9]], 1, general
    )


def test_how_sure_a_score_is():
    assert "100 examples, so a single score may lie up to 10 points from" in said([[0.9]], 1)[-1]


def test_numbers_are_words_while_they_are_small():
    assert [counted(number, "task") for number in (1, 4, 15)] == ["one task", "four tasks", "15 tasks"]

"""What guesses score: by hand, by guessing, and in the matrix."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from clkit.results.matrix import AccuracyMatrix
from clkit.results.scores import Answers, chance_rows, task_chance

CHANCE = {"exact_match": {"uniform": [0.5, None], "majority": [0.6, None]}}


def matrix(**changes) -> AccuracyMatrix:
    values = {"tasks": ["a", "b"], "counts": [10, 10], "rows": [[0.59, None], [0.2, 0.1]], "chance": CHANCE}
    return AccuracyMatrix(**{**values, **changes})


def test_the_most_frequent_label_is_that_of_training_and_scored_by_the_test():
    found = task_chance(["x", "y", "z"], ["y", "y", "x", "z"], ["x", "x", "x", "y", "y"])
    assert found["exact_match"] == {"uniform": pytest.approx(1 / 3), "majority": 2 / 5}
    # Of y: all five said to be, two are. x is gold and never said; z is neither, and counts for nothing.
    assert found["macro_f1"]["majority"] == pytest.approx(fmean([2 * 2 / (5 + 2), 0]))


def test_of_labels_that_are_as_frequent_the_first_counts():
    assert task_chance(["x", "y"], ["y", "x"], ["x", "x", "x", "y"])["exact_match"]["majority"] == 0.75
    assert task_chance(["y", "x"], ["y", "x"], ["x", "x", "x", "y"])["exact_match"]["majority"] == 0.25


def test_uniform_is_what_guessing_comes_to():
    draw, labels = random.Random(0), ["x", "y", "z"]
    gold = ["x"] * 3000 + ["y"] * 1500 + ["z"] * 500
    guessed = Answers("t", [draw.choice(labels) for _ in gold], gold, labels)
    found = task_chance(labels, gold, gold)
    assert found["exact_match"]["uniform"] == pytest.approx(guessed.exact_match, abs=0.03)
    assert found["macro_f1"]["uniform"] == pytest.approx(guessed.macro_f1, abs=0.03)


def test_tasks_without_labels_have_none():
    one = task_chance(["x", "y"], ["x"], ["x", "y"])
    assert chance_rows([{}, one])["exact_match"] == {"uniform": [None, 0.5], "majority": [None, 0.5]}
    assert chance_rows([{}, {}]) is None


def test_a_matrix_keeps_it_and_shows_that_of_its_metric():
    one = matrix()
    assert AccuracyMatrix.from_json(one.to_json()) == one
    assert one.guesses == CHANCE["exact_match"]
    assert matrix(metric="macro_f1").guesses == {}
    assert matrix(chance=None).guesses == {}


@pytest.mark.parametrize(
    "chance",
    [[], {"exact_match": {"uniform": [0.5, 0.5]}}, {"exact_match": {"uniform": [0.5], "majority": [0.5]}}, {"x": 3}],
)
def test_a_malformed_one_is_refused(chance):
    with pytest.raises(ValueError, match="chance"):
        matrix(chance=chance)


@pytest.mark.parametrize(
    ("changes", "below"),
    [
        ({}, {"a": (0.59, 0.6)}),
        ({"rows": [[0.6, None], [0.2, 0.1]]}, {}),  # what is lost later was learned
        ({"rows": []}, {}),
        ({"protocol": "per_task", "rows": [[0.4, None]]}, {"a": (0.4, 0.6)}),
        ({"protocol": "multi_task", "rows": [[0.3, 0.1]]}, {"a": (0.3, 0.6)}),
        ({"protocol": "multi_task", "rows": []}, {}),
        ({"protocol": "zero_shot", "zero_shot": [0.1, 0.1], "rows": []}, {}),
    ],
)
def test_what_was_learned_to_less_than_the_most_frequent_label_scores(changes, below):
    assert matrix(**changes).below_majority == below

"""Scores of answers and of likelihoods; and what guesses score: by hand, by guessing, and in the matrix."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest

from clkit.errors import ClkitError
from clkit.results.matrix import AccuracyMatrix
from clkit.results.scores import LARGEST_LOSS, Answers, Likelihoods, chance_rows, task_chance


def test_an_unfinished_answer_is_no_match() -> None:
    assert Answers("t", ["very negative …", "very negative."], ["very negative"] * 2).exact_match == 0.5


def test_score_is_exact_match_after_normalising() -> None:
    answers = Answers("t", ["Good.", "bad", "very bad", ""], ["good", "Bad", "bad", "good"])
    assert answers.exact_match == 0.5
    assert [record["correct"] for record in answers.records()] == [True, True, False, False]


def f1(predictions: list[str], gold: list[str], label: str) -> float:
    """The harmonic mean of precision and recall, from their own definitions."""
    hits = sum(p == g == label for p, g in zip(predictions, gold, strict=True))
    if not hits:
        return 0.0
    precision, recall = hits / predictions.count(label), hits / gold.count(label)
    return 2 / (1 / precision + 1 / recall)


def test_macro_f1_is_the_mean_of_each_labels_f1() -> None:
    draw = random.Random(0)
    labels = ["a", "b", "c", "never"]
    gold = draw.choices(labels[:3], k=60)
    predictions = draw.choices([*labels[:3], "something else"], k=60)
    expected = [f1(predictions, gold, label) for label in labels[:3]]
    assert Answers("t", predictions, gold, labels).macro_f1 == pytest.approx(sum(expected) / 3)


def test_macro_f1_of_right_answers_is_1_and_a_label_that_is_only_predicted_counts() -> None:
    assert Answers("t", ["A.", "b"], ["a", "b"], ["a", "b", "c"]).macro_f1 == 1
    assert Answers("t", ["a", "c"], ["a", "a"], ["a", "b", "c"]).macro_f1 == pytest.approx((2 / 3 + 0) / 2)
    assert "macro_f1" not in Answers("t", ["a"], ["a"]).scores


def test_answers_outside_the_labels_are_a_share_and_all_wrong() -> None:
    answers = Answers("t", ["A.", "b", "other", ""], ["a", "a", "b", "b"], ["a", "b"])
    assert answers.scores["outside_labels"] == 0.5
    assert answers.scores["exact_match"] == 0.25
    assert "outside_labels" not in Answers("t", ["a"], ["a"]).scores


def test_ranked_answers_are_scored_beside_those_that_were_generated() -> None:
    generated = Answers("t", ["other", "b"], ["a", "a"], ["a", "b"])
    both = Answers("t", ["other", "b"], ["a", "a"], ["a", "b"], ranked=["a", "b"])
    assert both.scores == generated.scores | {"accuracy_ranked": 0.5}
    assert [record["ranked"] for record in both.records()] == ["a", "b"]
    assert [record["correct"] for record in both.records()] == [False, False]
    assert all("ranked" not in record for record in generated.records())


def test_the_loss_is_per_token_and_perplexity_its_exponential() -> None:
    likelihoods = Likelihoods("t", nll=[3.0, 1.0], tokens=[3, 5])
    assert likelihoods.scores == {"loss": 0.5, "perplexity": math.exp(0.5)}
    assert [record["tokens"] for record in likelihoods.records()] == [3, 5]


def test_a_perplexity_stays_a_number() -> None:
    beyond, far_beyond = (Likelihoods("t", [nll], [1]).scores for nll in (LARGEST_LOSS + 9, 1e9))
    assert beyond["perplexity"] == far_beyond["perplexity"] == math.exp(LARGEST_LOSS)
    assert far_beyond["loss"] == 1e9
    assert math.isfinite(1000 * beyond["perplexity"]), "there is room for a mean over tasks"
    assert Likelihoods("t", [12.0], [1]).scores["perplexity"] == math.exp(12)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_error(broken: float) -> None:
    with pytest.raises(ClkitError) as error:
        Likelihoods("t", [1.0, broken], [3, 3]).scores  # noqa: B018
    assert str(error.value) == (
        f"the loss on task 't' is {broken}: the model's outputs are not finite; lower training.learning_rate, or use "
        "precision: fp32"
    )


def test_nothing_to_predict_is_an_error() -> None:
    with pytest.raises(ClkitError, match=r"^task 't': its examples hold no token to predict; give longer texts$"):
        Likelihoods("t", [0.0], [0]).scores  # noqa: B018
    assert math.isnan(Likelihoods("t", [0.0], [0]).loss)


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

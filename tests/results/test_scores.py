"""Scores of answers and of likelihoods."""

from __future__ import annotations

import math
import random

import pytest

from clkit.errors import ClkitError
from clkit.results.scores import LARGEST_LOSS, Answers, Likelihoods


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

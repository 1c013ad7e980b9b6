"""Token F1 and ROUGE-L against the numbers of `rouge-score`, a brute force, and closed forms."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clkit.results.answers import UNFINISHED, Comparison, rouge_l, token_f1, words
from clkit.results.scores import Answers

TOKENS = st.lists(st.sampled_from("abc"), max_size=6)
#: Right answer, prediction, and what `rouge_score.rouge_scorer.RougeScorer(["rougeL"])` 0.1.2 gives.
PUBLISHED = [
    ("The quick brown fox jumps over the lazy dog.", "the brown dog, it jumps", 0.42857142857142855),
    ("police killed the gunman", "the gunman police killed", 0.5),
    ("A b-c d1.5", "a B c, d1 5 6", 0.9090909090909091),
    ("nothing", "in common", 0.0),
    ("", "x", 0.0),
    ("x", "...", 0.0),
]


@pytest.mark.parametrize(("gold", "prediction", "expected"), PUBLISHED)
def test_rouge_l_is_the_published_one(gold: str, prediction: str, expected: float) -> None:
    assert Answers("t", [prediction], [gold]).rouge_l == pytest.approx(expected, abs=1e-12)


@given(TOKENS, TOKENS)
def test_the_subsequence_is_the_longest(one: list[str], other: list[str]) -> None:
    within = {chosen for size in range(len(one) + 1) for chosen in combinations(one, size)}
    longest = max(size for size in range(len(other) + 1) for chosen in combinations(other, size) if chosen in within)
    expected = 2 * longest / (len(one) + len(other)) if one and other else 0.0
    assert rouge_l(one, other) == pytest.approx(expected)
    assert rouge_l(other, one) == pytest.approx(expected)


@given(TOKENS, TOKENS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(one: list[str], other: list[str]) -> None:
    common = sum(min(one.count(token), other.count(token)) for token in "abc")
    if not one or not other:
        assert token_f1(one, other) == (one == other)
    elif common:
        precision, recall = common / len(one), common / len(other)
        assert token_f1(one, other) == pytest.approx(2 * precision * recall / (precision + recall))
    else:
        assert token_f1(one, other) == 0


def test_letters_of_every_script_are_words() -> None:
    assert words("Straße, Ёлка_2!") == ["straße", "ёлка", "2"]
    assert Answers("t", ["Ёлка растёт"], ["ёлка"]).rouge_l == pytest.approx(2 / 3)


def test_free_answers_have_both_scores_and_a_cut_off_mark_is_no_token() -> None:
    scores = Answers("t", ["the red car" + UNFINISHED, "no"], ["red car", "yes"], by=Comparison("squad")).scores
    assert scores == {"exact_match": 0.0, "token_f1": 0.5, "rouge_l": pytest.approx(0.8 / 2)}
    assert set(Answers("t", ["a"], ["b"], ["a", "b"]).scores) == {"exact_match", "macro_f1", "outside_labels"}
    assert Answers("t", ["a"], ["a"], ["a", "b"], overlap=True).scores["rouge_l"] == 1

"""How answers are compared; token F1 and ROUGE-L against the numbers of `rouge-score`, brute force and closed forms."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clkit.errors import DataError
from clkit.results.answers import UNFINISHED, Comparison, normalise, refuse_equal, rouge_l, token_f1, words
from clkit.results.scores import Answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Very   Negative.\n", "very negative"),
        ("Society & Culture", "society culture"),
        ("(A)", "a"),
        ("Ünïcode—dash", "ünïcode—dash"),
        ("!?", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_labels_that_exact_match_cannot_tell_apart_are_refused() -> None:
    refuse_equal(["A", "B", "not a"], "t")
    with pytest.raises(DataError, match=r"task 't': exact match.* leaves nothing of the label '\?'"):
        refuse_equal(["yes", "?", "-"], "t")
    refuse_equal(["+", "-", "++"], "t")  # signs alone are answers
    for one, other, how in (
        ("Good", "good", "case"),
        ("very good", "very  good", "white space"),
        ("caf\u00e9", "cafe\u0301", "Unicode form \\(U\\+00E9 against U\\+0301\\)"),
        ("fine", "\ufb01ne", "Unicode form \\(none against U\\+FB01\\)"),
        ("STRASSE", "stra\u00dfe", "Unicode form \\(none against U\\+00DF\\)"),
        ("good", "go\u200bod", "invisible characters \\(none against U\\+200B\\)"),
        ("good", "good!", "punctuation"),
    ):
        with pytest.raises(DataError, match=f"differ only in {how};"):
            refuse_equal([one, other], "t")
    with pytest.raises(DataError, match=r"'Good' and 'good!'"):
        refuse_equal(["Good", "good!"], "t")


@pytest.mark.parametrize(
    ("one", "other"),
    [("1.5", "15"), ("-3", "3"), ("1,000", "1.000"), (".5", "5"), ("-.5", ".5"), ("2-1", "21"), ("at -3 C", "at 3 C")],
)  # fmt: skip
def test_numbers_keep_their_points_and_signs(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
    ("text", "same"),
    [("Covid-19.", "covid19"), ("It is 3.", "it is 3"), ("(1.5)", "1.5"), ("a - b", "a b"), ("3, 4", "3 4")],
)  # fmt: skip
def test_other_punctuation_is_dropped(text: str, same: str) -> None:
    assert normalise(text) == same


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  cat's (a) hat.", "cats hat"),
        ("An apple a day", "apple day"),
        ("1,000.5", "10005"),
        ("theatre", "theatre"),
    ],
)
def test_squads_normaliser(text: str, expected: str) -> None:
    """As `normalize_answer` of SQuAD's evaluate-v2.0.py gives them."""
    assert Comparison("squad").text(text) == expected


def test_what_counts_as_the_same_is_chosen() -> None:
    assert Comparison().same("Yes.", "yes")
    assert not Comparison("none").same("Yes", "yes")
    assert Comparison("none").same(" Yes\n", "Yes")
    assert Comparison("squad").same("the answer", "Answer!")


@pytest.mark.parametrize("same", ["1000", "1,000", "1,000.00", "+1e3", "1000.", " 1000.0 ", "10E2"])
def test_numbers_are_compared_by_value_on_request(same: str) -> None:
    assert Comparison(numbers=True).same(same, "1000")
    assert Comparison(numbers=True).same("−.5", "-0.50")


@pytest.mark.parametrize("other", ["10,00", "1000 km", "-1000", "1e", "1000.0.0", "", "one", ".", "1e999999999"])
def test_what_is_another_number_or_none_is_another_answer(other: str) -> None:
    assert not Comparison(numbers=True).same(other, "1000")


def test_labels_that_the_chosen_comparison_makes_the_same_are_refused() -> None:
    with pytest.raises(DataError, match=r"ignores punctuation or articles, leaves nothing of the label 'A'"):
        refuse_equal(["A", "B"], "t", Comparison("squad"))
    with pytest.raises(DataError, match=r"'1' and '1.0' count as the same.* how a number is written"):
        refuse_equal(["1", "1.0"], "t", Comparison(numbers=True))
    refuse_equal(["1", "1.0"], "t")


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

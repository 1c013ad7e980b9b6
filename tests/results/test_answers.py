"""How answers are compared."""

from __future__ import annotations

import pytest

from clkit.errors import DataError
from clkit.results.answers import Comparison, normalise, refuse_equal


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

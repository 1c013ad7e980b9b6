"""Words of messages: what a misspelt word may mean, in what texts differ that read alike, ranges and counts."""

from __future__ import annotations

from clkit.wording import between, counts_by_name, did_you_mean, difference


def test_a_close_word_is_asked_for_and_no_other() -> None:
    assert did_you_mean("learning_rat", ["learning_rate", "epochs"]) == ", did you mean 'learning_rate'?"
    assert did_you_mean("Epochs", ["epochs"]) == ", did you mean 'epochs', which differs in case?"
    assert did_you_mean("threshold", ["epochs"]) == ""


def test_texts_that_read_alike_differ_in_code_points() -> None:
    assert difference("caf\u00e9", "cafe\u0301") == "Unicode form (U+00E9 against U+0301)"
    assert difference("a  b", "a b") == "white space"
    assert difference("good", "bad") == ""


def test_a_range_of_one_number_is_that_number() -> None:
    assert between([3, 12, 5]) == "3 to 12"
    assert between([1000, 1000]) == "1,000"


def test_counts_of_nothing_are_left_out() -> None:
    assert counts_by_name({"train": 1200, "validation": 0, "test": 1}) == "1,200 train, 1 test"
    assert counts_by_name({"train": 0}) == ""

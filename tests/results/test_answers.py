"""How answers are compared."""

from __future__ import annotations

import pytest

from clkit.errors import DataError
from clkit.results.answers import normalise, refuse_equal


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
    with pytest.raises(DataError, match=r"task 't': exact match.* takes the labels '\+' and '-' for the same"):
        refuse_equal(["yes", "+", "-"], "t")
    with pytest.raises(DataError, match=r"'Good' and 'good!'"):
        refuse_equal(["Good", "good!"], "t")

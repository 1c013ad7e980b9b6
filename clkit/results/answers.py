"""How answers are compared: after lower-casing, dropping punctuation and squeezing white space."""

from __future__ import annotations

import string
from collections.abc import Iterable

from clkit.errors import DataError

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """The text as exact match compares it: lower case, no punctuation, single spaces."""
    return " ".join(text.lower().translate(_WITHOUT_PUNCTUATION).split())


def refuse_equal(labels: Iterable[str], task: str) -> None:
    """Check that no two labels are the same to exact match, which would count either as right for the other.

    Raises:
        DataError: two of them are.
    """
    known: dict[str, str] = {}
    for label in labels:
        same = known.setdefault(normalise(label), label)
        if same != label:
            raise DataError(
                f"task '{task}': exact match, which ignores case and punctuation, takes the labels '{same}' and "
                f"'{label}' for the same; name them in words"
            )

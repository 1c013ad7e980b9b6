"""How answers are compared: after lower-casing, dropping punctuation and squeezing white space."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

from clkit.errors import DataError
from clkit.section import difference, plain

#: Punctuation that is dropped: all of ASCII, but for what makes another number of a number (1.5 and 15, -3 and 3).
_DROPPED = re.compile(
    r"(?!(?<=\d)[.,]\d)"  # a decimal point or separator between digits
    r"(?!(?<![\w])\.\d)"  # .5
    r"(?!(?<![^\W\d_])-\.?\d)"  # a minus, or a dash between digits; not the hyphen of a word (covid-19)
    rf"[{re.escape(string.punctuation)}]"
)


def normalise(text: str) -> str:
    """The text as exact match compares it: lower case, no punctuation but in numbers and of signs alone."""
    if re.fullmatch(r"\s*[+-]+\s*", text):
        return text.strip()
    return " ".join(_DROPPED.sub("", text.lower()).split())


def refuse_equal(labels: Iterable[str], task: str) -> None:
    """Check that every label says something to exact match, and no two the same, which would count either as right.

    Raises:
        DataError: one is blank, or two are the same.
    """
    known: dict[str, str] = {}
    for label in labels:
        if not normalise(label):
            raise DataError(
                f"task '{task}': exact match, which ignores punctuation, leaves nothing of the label {label!r}; name "
                "it in words, in the data or by the source's label_names, or list it in source.missing where it "
                "stands for no label"
            )
        same = known.setdefault(plain(normalise(label)), label)
        if same != label:
            raise DataError(
                f"task '{task}': the labels '{same}' and '{label}' count as the same, for they differ only in "
                f"{difference(same, label) or 'punctuation'}; write them alike, or name them in words"
            )

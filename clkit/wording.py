"""Words of messages: what a misspelt word may mean, in what texts differ that read alike, ranges and counts."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping


def between(numbers: Collection[int]) -> str:
    """``"3 to 12"``, from the least to the most of some numbers, or ``"3"`` where all are the same."""
    least, most = min(numbers), max(numbers)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def counts_by_name(counts: Mapping[str, int]) -> str:
    """``"2 train, 131 test"`` of counts by name; nothing where all are 0."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``", did you mean 'x'?"`` where a known word is close to ``word``, otherwise the empty string."""
    known = list(known)
    for other in known:
        if how := difference(word, other):
            return f", did you mean '{other}', which differs in {how}?"
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.65)
    return f", did you mean '{close[0]}'?" if close else ""


#: In what texts may differ that read alike, and what makes them the same.
_UNSEEN: Mapping[str, Callable[[str], str]] = {
    "case": str.lower,
    "white space": lambda text: " ".join(text.split()),
    "Unicode form": lambda text: unicodedata.normalize("NFKC", text.casefold()),
    "invisible characters": lambda text: "".join(one for one in text if unicodedata.category(one) != "Cf").strip(),
}


def plain(text: str) -> str:
    """The text as one reads it aloud: the same for all texts that differ in nothing else (`difference`)."""
    for same in _UNSEEN.values():
        text = same(text)
    return text


def difference(one: str, other: str) -> str:
    """In what two texts differ that read alike, as `Unicode form (U+00E9 against U+0301)`; else nothing."""
    points = " against ".join(
        code_points("".join(one for one in text if not one.isascii())) or "none" for text in (one, other)
    )
    for name, same in _UNSEEN.items():
        one, other = same(one), same(other)
        if one == other:
            return name if points == "none against none" else f"{name} ({points})"
    return ""


def code_points(text: str) -> str:
    """The first characters of a text as `U+00E9 U+0020`."""
    shown = " ".join(f"U+{ord(character):04X}" for character in text[:8])
    return shown + " ..." if len(text) > 8 else shown

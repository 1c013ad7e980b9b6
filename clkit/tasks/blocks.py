"""Cuts plain text into blocks that a model reads at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from clkit.errors import DataError

#: Stands between two texts.
SEPARATOR = "\n\n"
#: Letters that are tokenised at once, at least: so many that the cost is as good as in one go.
WINDOW = 100_000
#: Share of a block that may stay empty so that it ends where a word does.
SPARE = 1 / 16


def blocks(texts: Iterable[str], tokenizer: Any, block_tokens: int) -> list[str]:
    """The texts joined in their order and cut into blocks of at most ``block_tokens`` tokens, special ones included.

    A block ends where a word does, unless that would leave more than `SPARE` of it empty (words may be long, and some
    languages do not part them); then where a token does. Nothing is lost or repeated but white space at the cuts, and
    all blocks but the last are nearly full. A text without a word adds nothing.

    Raises:
        DataError: a block has no room for a letter beside its special tokens.
    """
    return [*iter_blocks(texts, tokenizer, block_tokens)]


def iter_blocks(texts: Iterable[str], tokenizer: Any, block_tokens: int) -> Iterator[str]:
    """The same one by one: neither all texts nor all blocks are in memory."""
    rest = ""  # what follows the last full block
    for window in _windows(texts):
        *full, rest = _cut(rest + window, tokenizer, block_tokens)
        yield from full
    if rest:
        yield rest


def begins(texts: Sequence[str], made: Sequence[str]) -> list[int]:
    """Which text each of its blocks begins in. White space aside, the blocks hold all letters in their order."""
    ends = list(accumulate(len("".join(text.split())) for text in texts))
    starts = accumulate((len("".join(block.split())) for block in made), initial=0)
    return [bisect_right(ends, start) for start, _ in zip(starts, made, strict=False)]


def _windows(texts: Iterable[str]) -> Iterator[str]:
    """The texts joined, in pieces of whole texts; each piece but the first begins with the separator."""
    piece = ""
    begun = False
    for text in texts:
        text = text.strip()
        if not text:
            continue
        piece += SEPARATOR + text if begun else text
        begun = True
        if len(piece) >= WINDOW:
            yield piece
            piece = ""
    if piece:
        yield piece


def _cut(text: str, tokenizer: Any, block_tokens: int) -> list[str]:
    """The blocks of a text, of which the last one may have room for more."""
    ends = _token_ends(text, tokenizer)
    room = block_tokens - tokenizer.num_special_tokens_to_add()
    made: list[str] = []
    start = 0
    while start < len(text):
        while text[start].isspace():
            start += 1
        first = bisect_right(ends, start)
        tokens = min(room, len(ends) - first)
        while True:
            if tokens < 1 and first < len(ends):
                raise DataError(
                    f"objective.block_tokens: {block_tokens} tokens do not hold {text[start]!r} beside the special "
                    "ones; set it to more"
                )
            end = len(text) if first + tokens == len(ends) else _end(text, start, ends, first + tokens - 1, room)
            block = text[start:end].strip()
            # The pieces at a cut, read by themselves, can become more tokens than they were.
            excess = len(tokenizer(block, verbose=False)["input_ids"]) - block_tokens
            if excess <= 0:
                break
            tokens -= excess
        made.append(block)
        start = end
    return made


def _end(text: str, start: int, ends: Sequence[int], last: int, room: int) -> int:
    """Where a block of the tokens up to ``last`` ends: where a word does, as far as `SPARE` allows, or that token."""
    lowest = ends[max(last - max(int(SPARE * room), 1), 0)]
    for end in range(ends[last], max(lowest, start + 1) - 1, -1):
        if end == len(text) or text[end].isspace() or text[end - 1].isspace():
            return end
    return ends[last]


def _token_ends(text: str, tokenizer: Any) -> list[int]:
    """Where each token ends; without offsets (slow tokenizers) where each byte does, for no token is shorter."""
    if not tokenizer.is_fast:
        return [place for place, letter in enumerate(text, start=1) for _ in letter.encode()]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(accumulate((end for _, end in encoded["offset_mapping"]), max))

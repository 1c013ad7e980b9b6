"""Cuts plain text into blocks that a model reads at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

#: Stands between two texts in a block.
SEPARATOR = "\n\n"
_BATCH = 1024


def blocks(texts: Sequence[str], tokenizer: Any, block_tokens: int) -> list[str]:
    """The texts joined in their order and cut into blocks of at most ``block_tokens`` tokens, special ones included.

    A text that does not fit into what is left of a block goes on in the next one, and a block is cut only where a token
    ends. So all blocks but the last are nearly full: a few tokens may be missing, since the pieces at a cut, read by
    themselves, can become other tokens.

    Raises:
        ValueError: a block holds no token beside the special ones.
    """
    room = block_tokens - tokenizer.num_special_tokens_to_add() - 1  # a piece may begin with one token more
    if room < 1:
        raise ValueError(f"objective.block_tokens: {block_tokens} leaves no room for text; set it to 8 or more")
    separator = len(tokenizer(SEPARATOR, add_special_tokens=False)["input_ids"])
    made: list[str] = []
    parts: list[str] = []
    used = 0
    for text, ends in _token_ends(texts, tokenizer):
        start, token = 0, 0  # the first letter and the first token that are in no block yet
        while token < len(ends):
            gap = separator if parts else 0
            fitting = min(room - used - gap, len(ends) - token)
            if fitting > 0:
                token += fitting
                end = ends[token - 1] if token < len(ends) else len(text)
                parts.append(text[start:end])
                used += gap + fitting
                start = end
            if token < len(ends):
                made.append(SEPARATOR.join(parts))
                parts, used = [], 0
    if parts:
        made.append(SEPARATOR.join(parts))
    return [block for block in made if block.strip()]


def _token_ends(texts: Sequence[str], tokenizer: Any) -> Iterator[tuple[str, list[int]]]:
    """Each text, stripped, and where each of its tokens ends; without offsets (slow tokenizers), where each byte is."""
    for first in range(0, len(texts), _BATCH):
        batch = [text.strip() for text in texts[first : first + _BATCH]]
        if not tokenizer.is_fast:
            yield from ((text, [at + 1 for at, letter in enumerate(text) for _ in letter.encode()]) for text in batch)
            continue
        encoded = tokenizer(batch, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for text, spans in zip(batch, encoded["offset_mapping"], strict=True):
            yield text, [end for _, end in spans]

"""How deep in a model a layer lies, by its name, and which depths a person asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable

from clkit.errors import UsageError

LAST = "last"
_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
_RANGE = re.compile(rf"(\d+|{LAST})(?:-(\d+|{LAST}))?")


def depth_of(layer: str) -> int | None:
    """The number of the block that a layer lies in, from 0; None outside of all blocks."""
    number = _NUMBER.search(layer)
    return int(number[1]) if number else None


def stack_of(layer: str) -> str:
    """What a layer's block is one of: `encoder.block` and `decoder.block` are two stacks."""
    number = _NUMBER.search(layer)
    return layer[: number.start()] if number else ""


def parse_depths(text: str) -> list[tuple[str, str]]:
    """First and last of each range in `0,2-4,last`.

    Raises:
        UsageError: it is no list of numbers and ranges.
    """
    found = [_RANGE.fullmatch(part.strip()) for part in text.split(",")]
    ranges = [(one[1], one[2] or one[1]) for one in found if one]
    if len(ranges) < len(found) or any(LAST not in ends and int(ends[0]) > int(ends[1]) for ends in ranges):
        raise UsageError(f"--depth: '{text}' is no list of blocks; write numbers from 0 and ranges, as in 0,2-4,last")
    return ranges


def at_depths(layers: Iterable[str], text: str) -> list[str]:
    """Those layers that lie in the blocks that are asked for; `last` is the last one of each stack.

    Raises:
        UsageError: none does, or that is no list of blocks.
    """
    ranges = parse_depths(text)
    depths = {layer: depth for layer in layers if (depth := depth_of(layer)) is not None}
    ends: dict[str, int] = {}
    for layer, depth in depths.items():
        ends[stack_of(layer)] = max(depth, ends.get(stack_of(layer), 0))

    def within(layer: str, depth: int) -> bool:
        numbers = ([ends[stack_of(layer)] if end == LAST else int(end) for end in one] for one in ranges)
        return any(first <= depth <= last for first, last in numbers)

    chosen = [layer for layer, depth in depths.items() if within(layer, depth)]
    if not chosen:
        there = f"blocks 0 to {max(ends.values())}" if ends else "none of them in a block with a number"
        raise UsageError(f"--depth {text}: no layer of --layers lies there ({there})")
    return chosen

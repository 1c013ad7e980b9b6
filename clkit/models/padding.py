"""Rows of unequal length in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def padded(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows filled up to one length, and 1 where they are themselves; both batch × sequence."""
    width = max(map(len, rows))
    filled = torch.full((len(rows), width), value)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(width - len(row), None) if left else slice(len(row))
        filled[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = 1
    return filled, mask


def places(mask: torch.Tensor) -> torch.Tensor:
    """At which position of its sequence each token stands, where padding stands before it; batch × sequence."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)

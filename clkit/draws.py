"""Random draws that follow from names, numbers or data alone: every process and a resumed run make the same ones."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from clkit.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


def seeded(*purpose: str | int) -> random.Random:
    """A generator for one purpose: what is drawn for, the recipe's seed, the task's place, ...

    Of its methods only `random` and `getrandbits` promise a stream that no Python release changes.
    """
    return random.Random("/".join(map(str, purpose)))


def torch_seeded(*purpose: str | int) -> torch.Generator:
    """The same as torch's generator; on the CPU, so that every device draws the same."""
    return torch.Generator().manual_seed(seeded(*purpose).getrandbits(63))


def drawn_from(rows: Iterable[Sequence[int]]) -> random.Random:
    """A generator whose state follows from these token ids, on every machine, in every process and release.

    Seeded by a batch, the draws for an example differ from epoch to epoch, for it stands among others each time, and
    those of an interrupted or repeated pass over the same batches are the same.

    Args:
        rows: the token ids of each example of a batch.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(list(row)).encode())
    return random.Random(digest.digest())

"""Random draws that follow from the data alone, so that the same examples are always drawn for in the same way."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence


def drawn_from(rows: Iterable[Sequence[int]]) -> random.Random:
    """A generator whose state follows from these token ids, on every machine, in every process and release.

    Seeded by a batch, the draws for an example differ from epoch to epoch, for it stands among others each time, and
    those of an interrupted or repeated pass over the same batches are the same. Only its method `random` promises a
    stream that no Python release changes.

    Args:
        rows: the token ids of each example of a batch.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(list(row)).encode())
    return random.Random(digest.digest())

"""Compares distributions over the rows of a layer: which rows are the largest, and how far two distributions differ.

Everywhere n is K distributions over d rows (K × d, each row of it sums to 1), and what compares them is K × K.
"""

from __future__ import annotations

import math

import torch

from clkit.models.magnitudes import rows_masked


def top_rows(n: torch.Tensor, share: float) -> torch.Tensor:
    """Whether each row is among the ⌈share · d⌉ largest, as MIGU chooses them with T = 1 − share: bool, K × d."""
    rows = n.shape[-1]
    order = torch.argsort(n, dim=-1, descending=True, stable=True)
    return torch.zeros_like(n, dtype=torch.bool).scatter_(-1, order[..., : top_count(rows, share)], True)


def top_count(rows: int, share: float) -> int:
    """How many of ``rows`` rows are the top ones."""
    return rows - rows_masked(rows, 1 - share)


def overlap(top: torch.Tensor) -> torch.Tensor:
    """|top(a) ∩ top(b)| / |top|: K × K, 1 on the diagonal."""
    chosen = top.double()
    return chosen @ chosen.T / chosen[0].sum()


def chance_overlap(rows: int, top: int) -> tuple[float, float]:
    """Mean and standard deviation of the overlap of two independent choices of ``top`` of ``rows`` rows.

    The common rows are hypergeometric: of mean k²/d and variance k · (k/d) · (1 − k/d) · (d − k)/(d − 1).
    """
    share = top / rows
    variance = top * share * (1 - share) * (rows - top) / max(rows - 1, 1)
    return share, math.sqrt(variance) / top


def jensen_shannon(n: torch.Tensor) -> torch.Tensor:
    """The Jensen-Shannon divergence H((a + b)/2) − (H(a) + H(b))/2 in bits: K × K, 0 to 1, 0 on the diagonal."""
    n = n.double()
    entropy = _entropy(n)
    between = _entropy((n[:, None] + n[None]) / 2) - (entropy[:, None] + entropy[None]) / 2
    return between.clamp(0, 1)  # rounding


def _entropy(n: torch.Tensor) -> torch.Tensor:
    return -torch.xlogy(n, n).sum(dim=-1) / math.log(2)


def rank_correlation(n: torch.Tensor) -> torch.Tensor:
    """Spearman's rank correlation, equal values sharing their mean rank: K × K, −1 to 1; NaN where all are equal."""
    return torch.corrcoef(torch.stack([_ranks(one) for one in n])).reshape(len(n), len(n))


def _ranks(values: torch.Tensor) -> torch.Tensor:
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: torch.Tensor = (last - (counts - 1) / 2)[place]
    return ranks

"""The negative log-likelihood of answers, which training, Fisher information and ranking have in common."""

from __future__ import annotations

import torch
from torch.nn import functional

#: Label of a position where no loss is due.
IGNORED = -100


def summed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """−Σ log p(label) over the positions with a label, in float32 at least.

    Args:
        logits: batch × sequence × vocabulary; position t predicts ``labels[:, t]``.
        labels: batch × sequence, `IGNORED` where no loss is due.
    """
    precise = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(precise.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")

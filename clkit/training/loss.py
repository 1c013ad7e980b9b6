"""The loss of a task, as a mean over the answer tokens of a whole optimizer step."""

from __future__ import annotations

import torch

from clkit.models.family import CLOSED, IGNORED, summed_cross_entropy


def token_mean_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy summed over answer tokens and divided by their number in the *whole* optimizer step.

    So the gradient does not depend on how a batch is split into micro-batches and processes. T5's own loss is a mean
    over one micro-batch, which the Trainer would add up without dividing.

    Args:
        logits: batch × positions × classes; those at position t are for ``labels[:, t]``.
        labels: batch × positions, -100 where no loss is due.
        num_items_in_batch: answer tokens of the step, over all micro-batches and processes.
        smoothing: ε of (1 − ε) · CE(y) + ε · mean_k CE(k), the mean over the classes that are not `CLOSED`.
    """
    summed = summed_cross_entropy(logits, labels)
    if smoothing:
        due = logits[labels != IGNORED].float()
        open_ = due > CLOSED
        uniform = -(due.log_softmax(-1) * open_).sum(-1) / open_.sum(-1)
        summed = (1 - smoothing) * summed + smoothing * uniform.sum()
    return summed / answer_tokens(labels, num_items_in_batch)


def answer_tokens(labels: torch.Tensor, num_items_in_batch: torch.Tensor | None) -> torch.Tensor:
    """How many there are in the step, where that is known, or else in the micro-batch."""
    return num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum()

"""The loss of a step is a mean over its answer tokens, whatever they are split into."""

from __future__ import annotations

import torch
from torch.nn import functional

from clkit.models.family import CLOSED
from clkit.training.loss import token_mean_loss


def test_the_loss_is_the_mean_over_answer_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[1, 2, -100], [3, -100, -100]])
    by_hand = -sum(functional.log_softmax(logits[i, j], -1)[labels[i, j]] for i, j in ((0, 0), (0, 1), (1, 0))) / 3
    torch.testing.assert_close(token_mean_loss(logits, labels), by_hand)
    torch.testing.assert_close(token_mean_loss(logits, labels, torch.tensor(6)), by_hand / 2)


def test_a_smoothed_loss_is_torchs_over_the_classes_that_are_open() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator)
    labels = torch.tensor([[1, 2, -100], [3, -100, -100]])
    closed = torch.cat([logits, torch.full((2, 3, 2), CLOSED)], dim=-1)
    for smoothing in (0.0, 0.2):
        expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
        torch.testing.assert_close(token_mean_loss(closed, labels, None, smoothing), expected)

"""Several answers to a prompt in one pass of a model: side by side, each of which sees the prompt and itself alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

#: Logits that one pass makes at most: with more, their memory costs more than another pass.
MOST_LOGITS = 2**25


def takes_own_masks(model: PreTrainedModel) -> bool:
    """Whether the model's attention goes by a mask of queries × keys that it is given; some kernels cannot."""
    return model.config._attn_implementation in ("eager", "sdpa")


def keeps_all(cache: Cache) -> bool:
    """Whether every layer keeps the keys and values of all tokens, and nothing else: no window, no state."""
    return type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)


def groups(widths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of neighbours with at most ``most`` tokens together; what has more is alone."""
    group: list[int] = []
    for index, width in enumerate(widths):
        if group and sum(widths[other] for other in group) + width > most:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def own_tokens_only(widths: Sequence[int], before: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the attention's scores: 0 where a token may look, the least number elsewhere.

    Args:
        widths: tokens of each answer.
        before: which tokens before the answers there are; bool or numbers, prompts × positions.

    Returns:
        prompts × 1 × tokens of all answers × (positions before them + tokens).
    """
    answer = torch.repeat_interleave(torch.tensor(widths, device=before.device))
    inside = (answer[:, None] == answer).tril()
    rows, tokens = len(before), len(inside)
    seen = torch.cat([before.bool()[:, None].expand(-1, tokens, -1), inside.expand(rows, -1, -1)], dim=2)
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def log_probabilities(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log p of each token by the logits at its place, float32 at least.

    Args:
        logits: rows × positions × vocabulary.
        tokens: rows × positions.
    """
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
    return -losses.view(tokens.shape)

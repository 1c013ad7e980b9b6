"""A model in training: which of its parameters move, and evaluation in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters in training, by name; tied ones appear once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off; afterwards every module is back in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

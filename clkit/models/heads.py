"""Heads: what of a model is one, and the rows of a classifier's, drawn by themselves, so that it can grow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from clkit.draws import torch_seeded

HEAD_DRAWN = "head drawn at random"


class Rows:
    """The last layer of a model's head, in all its copies: beside one in training with adapters stands the first one.

    Attributes:
        name: of the layer, in a model without adapters.

    What a row begins with follows from the seed and the row's name alone. So a head to which a label is added later is
    the same, to the last bit, as if the label had been known from the start.
    """

    def __init__(self, model: PreTrainedModel, head: str, seed: int) -> None:
        """``head``: name of the module that holds the layer."""
        self._seed = seed
        module = model.get_submodule(head)
        wrapped = isinstance(module, ModulesToSaveWrapper)
        copies = [module.original_module, *module.modules_to_save.values()] if wrapped else [module]
        last = [[*_linear(copy)][-1] for copy in copies]
        self.name = ".".join(filter(None, (head, last[0][0])))
        self._layers = [layer for _, layer in last]
        self._deviation: float = getattr(model.config, "initializer_range", 0.02)

    def __len__(self) -> int:
        return self._layers[0].out_features

    def draw(self, names: Iterable[str]) -> None:
        """Draw all rows anew: normal weights, as transformers does, and no bias."""
        self.keep([])
        self.add(names)

    def add(self, names: Iterable[str]) -> None:
        """Add a row for each name."""
        for name in names:
            drawn = torch.randn(self._layers[0].in_features, generator=torch_seeded("head", self._seed, name))
            for layer in self._layers:
                row = (self._deviation * drawn[None]).to(layer.weight)
                bias = None if layer.bias is None else torch.cat([layer.bias, layer.bias.new_zeros(1)])
                _replace(layer, torch.cat([layer.weight, row]), bias)

    def keep(self, rows: list[int]) -> None:
        """Leave no row but these, in that order."""
        for layer in self._layers:
            _replace(layer, layer.weight[rows], None if layer.bias is None else layer.bias[rows])

    @contextmanager
    def with_more(self, names: Iterable[str]) -> Iterator[None]:
        """Add rows, and take them away again."""
        before = [(layer, layer.weight, layer.bias) for layer in self._layers]
        self.add(names)
        try:
            yield
        finally:
            for layer, weight, bias in before:
                layer.weight, layer.bias, layer.out_features = weight, bias, len(weight)


def _linear(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    yield from ((name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear))


def _replace(layer: nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    trained = layer.weight.requires_grad
    layer.weight = nn.Parameter(weight.detach(), requires_grad=trained)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=trained)
    layer.out_features = len(weight)


def in_head(model: PreTrainedModel, weight: str) -> bool:
    """Whether a weight is of the head: of what comes behind the blocks, or of the pooler that only some heads need."""
    blocks = model.base_model_prefix
    return not weight.startswith(f"{blocks}.") or weight.startswith(f"{blocks}.pooler.")


def head_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The parts of the model that come behind the blocks, by name, as far as they have weights."""
    parts = dict(model.named_children())
    return {name: part for name, part in parts.items() if name != model.base_model_prefix and [*part.parameters()]}

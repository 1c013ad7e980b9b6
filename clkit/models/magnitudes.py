"""Collects output magnitudes of linear layers: the score that MIGU masks by and that inspect-magnitudes shows.

For a layer with output h (tokens × d_out) the magnitude of output unit i over a set of tokens is Σ_tokens |h_i|;
divided by its sum over the units it is the L1-normalised magnitude n_i of the MIGU paper (section 3.1).
"""

from __future__ import annotations

import ctypes
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from clkit.errors import ModelError, first_line
from clkit.models.experts import ExpertWeight, ObservedExperts, Record, Sent
from clkit.models.family import Batch, Family
from clkit.models.kernels import kernels, pointers
from clkit.models.layers import Layer, evaluation_mode
from clkit.models.precision import precisely

#: Numbers that a CPU core's cache holds with ease.
CACHED = 2**17


class MagnitudeCollector:
    """Sums |output| over tokens for each watched module, while it is open.

    Outside `collecting` nothing is recorded, so the forward pass that gradient checkpointing repeats during the
    backward pass does not count a second time. Nothing recorded holds a graph.

    Args:
        modules: the modules to watch, by name.
        token_mask: gives for a module's name and a batch the positions that count (bool, batch × sequence);
            None counts every position, padding included.
        reads_tokens: whether a module is given tokens in its n-th call of a forward pass, n from 0; other calls do not
            count.
    """

    def __init__(
        self,
        modules: Mapping[str, Layer],
        token_mask: Callable[[str, Batch], torch.Tensor] | None = None,
        reads_tokens: Callable[[str, int], bool] = lambda name, call: True,
    ) -> None:
        self._token_mask, self._reads_tokens = token_mask, reads_tokens
        self._calls: Counter[str] = Counter()
        self._batch: Batch | None = None
        self._sums: dict[str, torch.Tensor] = {}
        self._reached: set[int] = set()
        self._hooks: list[Any] = []
        experts: dict[nn.Module, dict[str, str]] = {}
        for name, layer in modules.items():
            if isinstance(layer, ExpertWeight):
                experts.setdefault(layer.experts, {})[layer.name] = name
            else:
                self._hooks.append(layer.register_forward_hook(self._recorder(name)))
        self._hooks += [ObservedExperts(owner, self._expert_recorder(own)) for owner, own in experts.items()]

    def _recorder(self, name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        of_adapter = name.endswith(".lora_A")

        def record(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            if self._batch is None or (of_adapter and _is_identity(inputs)):
                return
            if self._reads_tokens(name, self._calls[name]):
                self._add(name, _summed(output, self._counted(name, output, self._batch)))
            self._calls[name] += 1

        return record

    def _expert_recorder(self, names: Mapping[str, str]) -> Record:
        """
        Args:
            names: of the weights that are watched, by what the module that holds them calls them.
        """

        def record(weight: ExpertWeight, states: torch.Tensor, outputs: Mapping[int, Sent]) -> None:
            if self._batch is None or weight.name not in names:
                return
            name = names[weight.name]
            counted = self._counted(name, states, self._batch)
            nothing = torch.empty(0, dtype=torch.long, device=states.device), states.new_empty(0, weight.rows)
            sent = (outputs.get(expert, nothing) for expert in range(len(weight.weight)))
            self._add(name, torch.stack([_summed(output, counted[tokens]) for tokens, output in sent]))

        return record

    def _counted(self, name: str, output: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Which of the output's positions, as one row, count."""
        if self._token_mask is None:
            return output.new_ones(output.shape[:-1], dtype=torch.bool).flatten()
        mask = self._token_mask(name, batch)
        places, texts = ([size for size in shape if size > 1] for shape in (output.shape[:-1], mask.shape))
        # A layer may stand in a dimension of one head; some are given all texts' tokens in one row.
        if places != texts and (output.dim() > 2 or len(output) != mask.numel()):
            raise ModelError(
                f"layer {name} gives an output of {_times(output.shape[:-1])} positions where the batch has "
                f"{_times(mask.shape)}, so which of them are padding is not known; leave it out of `layers`, or "
                "set count_padding: true"
            )
        return mask.flatten()

    def _add(self, name: str, summed: torch.Tensor) -> None:
        self._sums[name] = self._sums[name] + summed if name in self._sums else summed

    def notice(self, weights: Iterable[nn.Parameter]) -> None:
        """Take note, too, of which of these weights a backward pass reaches; a penalty's gradient does not count."""
        for weight in weights:
            hook = weight.register_post_accumulate_grad_hook(lambda one: self._reached.add(id(one)))  # type: ignore[no-untyped-call]
            self._hooks.append(hook)

    def reached(self) -> set[int]:
        """The ids of those weights that were reached since this was called last."""
        reached, self._reached = self._reached, set()
        return reached

    @contextmanager
    def collecting(self, batch: Batch) -> Iterator[None]:
        """Record every forward pass inside the `with` block as one over ``batch``."""
        self.open(batch)
        try:
            yield
        finally:
            self.close()

    def open(self, batch: Batch) -> None:
        """Start recording forward passes over ``batch``."""
        self._batch, self._calls = batch, Counter()

    def close(self) -> None:
        """Stop recording; what is recorded stays until `take`."""
        self._batch = None

    def take(self) -> dict[str, torch.Tensor]:
        """Σ over tokens of |output|, float, d_out, by module name; and start again from nothing."""
        sums, self._sums = self._sums, {}
        return sums

    def remove(self) -> None:
        """Take the hooks off the modules."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def _is_identity(inputs: tuple[torch.Tensor, ...]) -> bool:
    """Whether an adapter is given no tokens but the identity, by which peft's DoRA takes its product B A.

    Inside a compiled graph values cannot be asked for; there the shape decides.
    """
    given = inputs[0] if inputs else None
    if given is None or given.dim() != 2 or given.shape[0] != given.shape[1]:
        return False
    return torch.compiler.is_compiling() or torch.equal(
        given, torch.eye(len(given), dtype=given.dtype, device=given.device)
    )


def _summed(output: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Σ |output| over the positions that count, by unit; float32 at least."""
    units = output.shape[-1]
    rows = output.detach().reshape(-1, units)
    total = torch.float64 if rows.dtype == torch.float64 else torch.float32
    if torch.compiler.is_compiling():  # in one kernel, without a product that could be rounded
        return (rows.to(total).abs() * counted.to(total)[:, None]).sum(0)
    if rows.dtype == torch.float32 and rows.device.type == "cpu" and (library := kernels()) is not None:
        rows, tokens, sums = rows.contiguous(), counted.nonzero(), rows.new_zeros(units)
        library.sum_magnitudes(*pointers(rows, tokens, sums), ctypes.c_int64(len(tokens)), ctypes.c_int64(units))
        return sums
    # A matrix-vector product reads |h| once; a norm of columns takes longer than the layer's own product. On a CPU
    # |h| is never written out of its cache.
    length = max(1, CACHED // units) if rows.device.type == "cpu" else len(rows)
    parts = zip(torch.split(counted.to(total), length), torch.split(rows, length), strict=True)
    # Inside autocast a product of float32 is rounded to half precision: other rows would be the largest, and in float16
    # the sums would overflow. `training.matmul` rounds as well.
    with torch.no_grad(), precisely(output.device):
        return torch.stack([some @ part.abs().to(total) for some, part in parts]).sum(0)


def check_layers(
    family: Family, collector: MagnitudeCollector, key: str, weights: Mapping[str, nn.Parameter] | None = None
) -> None:
    """Refuse layers whose padding a collector cannot tell from tokens, and weights that are used without their layers.

    Two short texts are tried with it.

    Args:
        key: where the layers are named, for the message.
        weights: of modules that the collector watches, by the same names.

    Raises:
        ModelError: naming the layer and the family.
    """
    batch = family.probe()
    try:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        with evaluation_mode(family.model):
            with torch.no_grad(), collector.collecting(batch):
                family.model(**inputs)
            called = collector.take()
            unseen = {name: weight for name, weight in (weights or {}).items() if name not in called}
            if unseen:  # experts that no token was sent to, most often, which then have no gradient either
                logits = family.model(**inputs)["logits"]
                gradients = torch.autograd.grad(logits.sum(), [*unseen.values()], allow_unused=True)
                used = [name for name, one in zip(unseen, gradients, strict=True) if one is not None]
                if used:
                    raise ModelError(not_called(used[0]))
    except Exception as error:  # no narrower: a model's own code can raise anything
        kind = f"this {family.name} model '{family.model.config.model_type}'"
        if isinstance(error, ModelError):
            raise ModelError(f"{key}: of {kind}, {error}") from error
        raise ModelError(f"{key}: {kind} cannot read two short texts ({first_line(error)})") from error
    finally:
        collector.remove()


def not_called(layer: str) -> str:
    """What to say of a layer that has no magnitude though it is trained."""
    return (
        f"layer {layer} is trained without its module being called (a fused kernel may use its weight by itself), so "
        "its rows have no magnitude; leave it out"
    )


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def l1_normalised(magnitude: torch.Tensor) -> torch.Tensor:
    """n_i = m_i / Σ_j m_j (paper eq. 4). A layer whose output is zero everywhere gets the uniform distribution."""
    total = magnitude.sum()
    return magnitude / total if total > 0 else torch.full_like(magnitude, 1 / magnitude.numel())


def rows_masked(rows: int, threshold: float) -> int:
    """How many of ``rows`` rows are masked: ⌊T · rows⌋, so at least one is kept for T < 1."""
    return math.floor(threshold * rows + 1e-9)  # 0.29 * 100 is 28.999999999999996


def divided_rows(scores: Sequence[torch.Tensor], threshold: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The rows of each layer that are kept, ascending, and those that are masked.

    All but the ⌈(1 − T) · d_out⌉ rows with the largest score are masked; among equal scores the row that stands first
    is kept. Layers of as many rows are sorted together: many small sorts take longer.

    Args:
        scores: of each layer: d_out, or experts × d_out, of whose rows, counted through, the share is masked for each
            expert by itself; all are of an expert that no token was sent to, whose scores are zero.
    """
    alike: dict[Any, list[int]] = {}
    for place, score in enumerate(scores):
        alike.setdefault((score.shape, score.device), []).append(place)
    divided: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for places in alike.values():
        together = torch.stack([scores[place] for place in places])
        order = torch.argsort(together, dim=-1, descending=True, stable=True)
        count = together.shape[-1] - rows_masked(together.shape[-1], threshold)
        kept, masked = order[..., :count].sort(dim=-1).values, order[..., count:]
        pairs: Iterable[tuple[torch.Tensor, torch.Tensor]] = zip(kept, masked, strict=True)
        if together.dim() > 2:
            pairs = map(_counted_through, kept, masked, together.any(dim=-1))
        divided.update(zip(places, pairs, strict=True))
    return [divided[place] for place in range(len(scores))]


def _counted_through(kept: torch.Tensor, masked: torch.Tensor, used: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of experts, each experts × some, as one row; all of those that are not used are masked."""
    rows = kept.shape[-1] + masked.shape[-1]
    first = torch.arange(0, len(used) * rows, rows, device=used.device)[:, None]
    kept, masked = kept + first, masked + first
    return kept[used].flatten(), torch.cat([masked[used].flatten(), masked[~used].flatten(), kept[~used].flatten()])

"""What a step of training takes: memory, from the shapes of the model alone, and its time on this machine.

All numbers are of one process:

- **Weights**: 4 bytes where trained; the others as `model.dtype` says, or in `model.quantization`: 8 bits are 1 byte
  and a scale per row, 4 bits are 0.516 (a scale of 1 byte for 64 numbers, and one of those for 256 scales); what stays
  whole beside them, such as embeddings and head, is then in 4 bytes (`peft.prepare_model_for_kbit_training`). Under
  `training.precision` autocast keeps a copy in 2 bytes of each linear weight of 4 until the backward pass.
- **Gradients**: 4 bytes per trained parameter. **Optimizer**: 8 with AdamW; `STATE` has the others. Rows that MIGU
  masks have no gradient where it computes those of the others alone, and with `moments: held` no moments.
- **Activations** are what autograd keeps: `clkit/engine/activations.py`. Packed examples share rows, in as few of
  which they are counted as they are trained in.
- **Logits**: 12 bytes per word of the vocabulary at each position with a label (log-softmax, its gradient and that of
  the logits are there at once), or 4 and the gradient of the head; twice for a strategy with a loss of its own (LwF).
- **Strategies**: what they say that they keep (`Strategy.memory`); a penalty's gradient stands beside the loss's.

Activations are gone when all gradients are there, so that the peak is

    weights + optimizer + strategies + max(activations + logits [+ gradients, where several micro-batches add up],
                                           gradients [twice with a penalty])

of the first task that is still to come, or of the last one, which of both takes more.

**Operations**: 2 per token and weight forward, 2 for the gradient of the input and 2 for that of a trained weight (2
more with checkpointing). What time they take is seen on this machine: `clkit/engine/speed.py`.

`benchmarks/footprint.py` compares this with what is measured. It is memory in use: an allocator keeps more, on a CPU
up to a third.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from clkit.engine.activations import Activations
from clkit.engine.devices import Device
from clkit.engine.speed import step_seconds
from clkit.events import Footprint
from clkit.models.family import Family
from clkit.models.precision import matrix_products
from clkit.models.shapes import Batch
from clkit.recipe.recipe import Recipe
from clkit.strategies.contract import Strategy
from clkit.strategies.hooks import call
from clkit.training.arguments import batch_split, chosen_precision

#: Bytes that an optimizer keeps per trained parameter, where it is not AdamW's 8.
STATE = {
    "adafactor": 0,
    "sgd": 0,
    "adagrad": 4,
    "rmsprop": 4,
    "adamw_8bit": 2,
    "adamw_bnb_8bit": 2,
    "paged_adamw_8bit": 2,
    "lion_32bit": 4,
    "lion_8bit": 1,
}
FOUR_BIT = 0.5 + 1 / 64 + 4 / (64 * 256)


class Taken:
    """The formula, for one model and the batches that it is trained on.

    Args:
        places: of the tasks that are to be learned, each the number of those before it.
        longest, usual: encoded examples; the first have the most tokens, the others are as they come.
    """

    def __init__(
        self,
        family: Family,
        strategies: Sequence[Strategy],
        places: Sequence[int],
        longest: Sequence[Mapping[str, Any]],
        usual: Sequence[Mapping[str, Any]],
        device: Device,
    ) -> None:
        self._family, self._device = family, device
        self._strategies, self._places = strategies, {min(places), max(places)}
        self._longest, self._usual = longest, usual
        self._activations = Activations(family, device)
        self._head: Any = family.base.get_output_embeddings()
        self._head_name = next(
            (one.name for one in self._activations.layers if self._activations.part(one.name) is self._head), ""
        )
        self._words: int = 0 if self._head is None else self._head.weight.shape[0]
        self._trained = sum(one.numel() for one in family.model.parameters() if one.requires_grad)

    def _settled(self, recipe: Recipe) -> Recipe:
        """The recipe with the precision that `auto` is there; GPUs are taken for such as have bfloat16."""
        here = chosen_precision(recipe.training)
        precision = here if self._device.here or recipe.training.precision != "auto" else "bf16"
        return recipe.model_copy(update={"training": recipe.training.model_copy(update={"precision": precision})})

    def footprint(self, recipe: Recipe) -> Footprint:
        """Memory and time of the recipe's steps, and where it does not fit, what to change."""
        recipe = self._settled(recipe)
        found = self._of(recipe)
        if sum(found.values()) <= self._device.room:
            ways: Sequence[tuple[str, int]] = ()
        else:
            ways = [*self._ways(recipe)]
        batch = self._batch(recipe, self._longest)
        return Footprint(
            device=self._device.name,
            room=self._device.room,
            memory={name: size for name, size in found.items() if size},
            batch=(batch.examples, batch.tokens),
            seconds=self._seconds(recipe) if self._device.here else None,
            operations=self._operations(recipe),
            ways=ways,
        )

    # --- what to change -------------------------------------------------------------------------------------------

    def _ways(self, recipe: Recipe) -> Iterator[tuple[str, int]]:
        """Changes after which it fits, each alone or, where none is enough, together; with the bytes that it takes."""
        micro, _ = batch_split(recipe.training.batch_size, recipe.training.micro_batch_size, self._device.count)
        smaller = [count for count in range(micro - 1, 0, -1) if micro % count == 0]
        kinds: list[list[tuple[str, str, Any]]] = [
            [("training", "micro_batch_size", count) for count in smaller],
            [("training", "gradient_checkpointing", True)],
            [("model", "dtype", "bfloat16")],
            [("model", "quantization", "4bit")],
        ]
        alone = False
        for kind in kinds:
            sizes = ((change, self._after(recipe, [change])) for change in kind)
            found = next(((change, size) for change, size in sizes if size and size <= self._device.room), None)
            if found is not None:
                alone = True
                yield _written(found[0]), found[1]
        together: list[tuple[str, str, Any]] = []
        for change in (kind[-1] for kind in kinds if kind and not alone):
            size = self._after(recipe, [*together, change])
            together += [change] if size else []
            if size and size <= self._device.room:
                yield " ".join(map(_written, together)), size
                return

    def _after(self, recipe: Recipe, changes: Sequence[tuple[str, str, Any]]) -> int | None:
        """The bytes that it takes after these changes; None where the last is no change, or contradicts the rest."""
        for section, key, value in changes:
            before = getattr(recipe, section)
            same = getattr(before, key) == value or (key == "dtype" and before.dtype != "float32")
            recipe = recipe.model_copy(update={section: before.model_copy(update={key: value})})
        refused = same or [*recipe.model.contradictions(recipe.tuning, recipe.objective.kind)]
        return None if refused else sum(self._of(recipe).values())

    # --- memory ---------------------------------------------------------------------------------------------------

    def _of(self, recipe: Recipe) -> dict[str, int]:
        """Bytes at the peak of a step, by what they are for, of the task that takes most."""
        return max((self._of_task(recipe, place) for place in self._places), key=lambda parts: sum(parts.values()))

    def _of_task(self, recipe: Recipe, place: int) -> dict[str, int]:
        batch = self._batch(recipe, self._longest)
        _, micro_batches = batch_split(recipe.training.batch_size, recipe.training.micro_batch_size, self._device.count)
        still = [
            call(one, "still", self._family, place, gives=tuple) for one in self._strategies if not self._device.fused
        ]
        without_gradient, without_moments = (sum(numbers) for numbers in zip((0, 0), *still, strict=True))
        gradients = 4 * (self._trained - without_gradient)
        activations = self._activations.of(recipe, batch) + self._copies(recipe)
        logits = batch.positions * self._words
        head = 4 * self._head.weight.numel() if self._head is not None and self._head.weight.requires_grad else 0
        at_loss = max(12 * logits, 4 * logits + (head if micro_batches == 1 else 0))
        if any(type(one).batch_loss is not Strategy.batch_loss for one in self._strategies):
            at_loss += 12 * logits
        penalised = any(type(one).penalty is not Strategy.penalty for one in self._strategies)
        at_end = gradients + (4 * self._trained if penalised and place else 0)
        kept = gradients if micro_batches > 1 else 0
        if kept + activations + at_loss < at_end:
            kept, activations, at_loss = at_end, 0, 0
        parts = {
            "weights": self._weights(recipe),
            "gradients": kept,
            "optimizer": STATE.get(recipe.training.optimizer, 8) * (self._trained - without_moments),
            "activations": int(activations),
            "logits": at_loss,
        }
        for strategy in self._strategies if place else ():
            parts[strategy.options.name] = call(strategy, "memory", self._family, place + 1, gives=int)
        return parts

    def _batch(self, recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> Batch:
        micro, _ = batch_split(recipe.training.batch_size, recipe.training.micro_batch_size, self._device.count)
        return Batch.of(self._family, rows[:micro], packed=recipe.training.packing)

    def _weights(self, recipe: Recipe) -> int:
        section = recipe.model
        stored = getattr(self._family.base.config, "dtype", None)
        halved = section.dtype == "bfloat16" or (section.dtype == "auto" and stored in (torch.bfloat16, torch.float16))
        resting = 2 if halved and section.quantization is None else 4
        packed = {None: resting, "4bit": FOUR_BIT, "8bit": 1}[section.quantization]
        total, counted = 0.0, 0
        for layer in self._activations.layers:
            if not layer.whole:
                total += packed * layer.outputs * layer.inputs
                total += 4 * layer.outputs if section.quantization == "8bit" else 0
                counted += layer.outputs * layer.inputs
        frozen = self._frozen_numbers() - counted
        return int(total + resting * frozen + 4 * self._trained)

    def _frozen_numbers(self) -> int:
        """How many parameters are not trained, packed ones counted one by one."""
        linear = {f"{layer.name}.weight": layer.outputs * layer.inputs for layer in self._activations.layers}
        names = ((name.replace(".base_layer", ""), one) for name, one in self._family.base.named_parameters())
        return sum(linear.get(name, one.numel()) for name, one in names if not one.requires_grad)

    def _copies(self, recipe: Recipe) -> int:
        """Bytes of the weights that autocast keeps in half precision."""
        held_whole = recipe.model.dtype == "float32" and recipe.model.quantization is None
        if recipe.training.precision == "fp32":
            return 0
        copied = [layer for layer in self._activations.layers if layer.trained or layer.whole or held_whole]
        if recipe.training.gradient_checkpointing:  # those of trained weights are cached, the others made anew
            copied = [layer for layer in copied if layer.trained or layer.whole]
        return sum(2 * layer.outputs * layer.inputs for layer in copied)

    # --- time -----------------------------------------------------------------------------------------------------

    def _operations(self, recipe: Recipe) -> float:
        """Of a whole step, on one process."""
        batch, micro_batches = self._usual_batches(recipe)
        again = 1 if recipe.training.gradient_checkpointing else 0
        total = 0.0
        for layer in self._activations.layers:
            tokens = batch.positions if layer.name == self._head_name else self._activations.tokens(layer.name, batch)
            total += 2 * tokens * layer.outputs * layer.inputs * (2 + layer.trained + again)
        for block in self._activations.blocks:
            pairs = self._activations.tokens(block, batch) * batch.tokens
            total += 4 * pairs * self._activations.width * (3 + again)
        return total * micro_batches

    def _usual_batches(self, recipe: Recipe) -> tuple[Batch, int]:
        """A micro-batch, and how many a step has."""
        _, micro_batches = batch_split(recipe.training.batch_size, recipe.training.micro_batch_size, self._device.count)
        return self._batch(recipe, self._usual), micro_batches

    def _seconds(self, recipe: Recipe) -> float:
        """Of a usual step on this machine."""
        batch, micro_batches = self._usual_batches(recipe)
        with matrix_products(recipe.training.matmul):
            return step_seconds(
                recipe, self._activations, batch, micro_batches, self._head_name, self._words, self._trained
            )


def _written(change: tuple[str, str, Any]) -> str:
    section, key, value = change
    return f"{section}.{key}={str(value).lower()}"

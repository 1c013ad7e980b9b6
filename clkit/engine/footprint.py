"""What a step of training takes: memory, from the shapes of the model alone, and its time on this machine.

All numbers are of one process. With n tokens in a micro-batch, padded to its longest example, and e bytes per number in
the forward pass (4, or 2 where it computes in half precision):

- **Weights**: 4 bytes where trained; the others as `model.dtype` says, or in `model.quantization`: 8 bits are 1 byte
  and a scale per row, 4 bits are 0.516 (a scale of 1 byte for 64 numbers, and one of those for 256 scales); what stays
  whole beside them, such as embeddings and head, is then in 4 bytes (`peft.prepare_model_for_kbit_training`). Under
  `training.precision` autocast keeps a copy in 2 bytes of each linear weight of 4 until the backward pass.
- **Gradients**: 4 bytes per trained parameter. **Optimizer**: 8 with AdamW; `STATE` has the others.
- **Activations** are what autograd keeps: an operation's inputs or its output, as its derivative needs. Of a block:

      n · e · (Σ outputs of its linear layers + Σ inputs of those that are trained, one for those beside each other)

  since whatever stands between them (attention, activation, sum and norm) keeps what the layer before gave. Beside it:
  a gated feed-forward keeps the activation of its gate, and `NewGELUActivation`, which is written out in Python, three
  more; a trained RMSNorm its normalised input, in float32 as any norm computes; norms of single heads theirs; queries
  and keys that positions turn, and what attention gives, stand beside a projection that gave all three; dropout keeps
  its mask, of 4 bytes per number on a CPU and 1 on a GPU; an adapter its input, dropped by itself, and r numbers;
  LLM.int8 its input in 8 bits and whole. Fused attention (`sdpa`, flash) keeps no matrix of tokens × tokens; `eager`,
  or a position bias (T5), 4 bytes per head for each pair of tokens, and three times that with dropout, fused only on
  GPUs. With gradient checkpointing: the input of each block, and all this of the largest one.
- **Logits**: 12 bytes per word of the vocabulary at each position with a label (log-softmax, its gradient and that of
  the logits are there at once), or 4 and the gradient of the head; twice for a strategy with a loss of its own (LwF).
- **Strategies**: what they say that they keep (`Strategy.memory`); a penalty's gradient stands beside the loss's.

Activations are gone when all gradients are there, so that the peak is

    weights + optimizer + strategies + max(activations + logits [+ gradients, where several micro-batches add up],
                                           gradients [twice with a penalty])

**Time**: 2 operations per token and weight forward, 2 for the gradient of the input and 2 for that of a trained weight
(2 more with checkpointing), at the rate of products that this machine is seen to have. Beside it bytes move at its rate
of copying: `PASSES` times the activations, and 40 per trained parameter for clipping and AdamW.

`benchmarks/footprint.py` compares this with what is measured. It is memory in use: an allocator keeps more, on a CPU
up to a third.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from clkit.engine.devices import Device, rates
from clkit.events import Footprint
from clkit.models.family import Family
from clkit.models.precision import matrix_products
from clkit.models.shapes import Batch, Shape, shapes
from clkit.recipe.recipe import Recipe
from clkit.strategies.contract import Strategy
from clkit.training.arguments import batch_split

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
#: How often a step passes over what autograd keeps, outside of matrix products; as seen on one thread of a CPU, where a
#: softmax takes as long as several copies.
PASSES = 20
FOUR_BIT = 0.5 + 1 / 64 + 4 / (64 * 256)
#: Shapes in a decoder that read what the encoder gives.
_CROSS = re.compile(r"(EncDecAttention|encoder_attn|cross_attn|crossattention).*\.(k|v|k_proj|v_proj|key|value)$")


class Taken:
    """The formula, for one model and the batches that it is trained on.

    Args:
        longest, usual: encoded examples; the first have the most tokens, the others are as they come.
    """

    def __init__(
        self,
        family: Family,
        strategies: Sequence[Strategy],
        tasks: int,
        longest: Sequence[Mapping[str, Any]],
        usual: Sequence[Mapping[str, Any]],
        device: Device,
    ) -> None:
        self._family, self._device = family, device
        self._strategies, self._tasks = strategies, tasks
        self._longest, self._usual = longest, usual
        self._layers = shapes(family)
        base, config = family.base, family.base.config
        names = [name for name, part in base.named_modules() if isinstance(part, GradientCheckpointingLayer)]
        self._blocks = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
        self._head: Any = base.get_output_embeddings()
        heads: Any = getattr(config, "num_attention_heads", None) or getattr(config, "num_heads", 1)
        self._heads: int = heads
        self._width: int = base.get_input_embeddings().weight.shape[1]
        self._words: int = 0 if self._head is None else self._head.weight.shape[0]
        self._trained = sum(one.numel() for one in family.model.parameters() if one.requires_grad)
        self._biased = hasattr(config, "relative_attention_num_buckets")
        keys = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "dropout_rate")
        self._attention_dropout = max(float(getattr(config, key, 0) or 0) for key in keys)

    def footprint(self, recipe: Recipe) -> Footprint:
        """Memory and time of the recipe's steps, and where it does not fit, what to change."""
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
        """Bytes at the peak of a step, by what they are for."""
        batch = self._batch(recipe, self._longest)
        _, micro_batches = batch_split(recipe.training.batch_size, recipe.training.micro_batch_size, self._device.count)
        gradients = 4 * self._trained
        activations = self.activations(recipe, batch) + self._copies(recipe)
        logits = batch.positions * self._words
        head = 4 * self._head.weight.numel() if self._head is not None and self._head.weight.requires_grad else 0
        at_loss = max(12 * logits, 4 * logits + (head if micro_batches == 1 else 0))
        if any(type(one).batch_loss is not Strategy.batch_loss for one in self._strategies):
            at_loss += 12 * logits
        penalised = any(type(one).penalty is not Strategy.penalty for one in self._strategies)
        at_end = gradients * (2 if penalised and self._tasks > 1 else 1)
        kept = gradients if micro_batches > 1 else 0
        if kept + activations + at_loss < at_end:
            kept, activations, at_loss = at_end, 0, 0
        parts = {
            "weights": self._weights(recipe),
            "gradients": kept,
            "optimizer": STATE.get(recipe.training.optimizer, 8) * self._trained,
            "activations": int(activations),
            "logits": at_loss,
        }
        if self._tasks > 1:
            for strategy in self._strategies:
                parts[strategy.options.name] = strategy.memory(self._family, self._tasks)
        return parts

    def _batch(self, recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> Batch:
        micro, _ = batch_split(recipe.training.batch_size, recipe.training.micro_batch_size, self._device.count)
        return Batch.of(self._family, rows[:micro])

    def _weights(self, recipe: Recipe) -> int:
        section = recipe.model
        stored = getattr(self._family.base.config, "dtype", None)
        halved = section.dtype == "bfloat16" or (section.dtype == "auto" and stored in (torch.bfloat16, torch.float16))
        resting = 2 if halved and section.quantization is None else 4
        packed = {None: resting, "4bit": FOUR_BIT, "8bit": 1}[section.quantization]
        total, counted = 0.0, 0
        for layer in self._layers:
            if not layer.whole:
                total += packed * layer.outputs * layer.inputs
                total += 4 * layer.outputs if section.quantization == "8bit" else 0
                counted += layer.outputs * layer.inputs
        frozen = self._frozen_numbers() - counted
        return int(total + resting * frozen + 4 * self._trained)

    def _frozen_numbers(self) -> int:
        """How many parameters are not trained, packed ones counted one by one."""
        linear = {f"{layer.name}.weight": layer.outputs * layer.inputs for layer in self._layers}
        names = ((name.replace(".base_layer", ""), one) for name, one in self._family.base.named_parameters())
        return sum(linear.get(name, one.numel()) for name, one in names if not one.requires_grad)

    def _copies(self, recipe: Recipe) -> int:
        """Bytes of the weights that autocast keeps in half precision."""
        held_whole = recipe.model.dtype == "float32" and recipe.model.quantization is None
        if recipe.training.precision == "fp32":
            return 0
        copied = [layer for layer in self._layers if layer.trained or layer.whole or held_whole]
        if recipe.training.gradient_checkpointing:  # those of trained weights are cached, the others made anew
            copied = [layer for layer in copied if layer.trained or layer.whole]
        return sum(2 * layer.outputs * layer.inputs for layer in copied)

    def activations(self, recipe: Recipe, batch: Batch) -> float:
        """Bytes that autograd keeps of a forward pass, without logits and copies of weights."""
        e = self._bytes_per_number(recipe)
        of_blocks = [self._of_block(block, recipe, batch) for block in self._blocks] or [0.0]
        if recipe.training.gradient_checkpointing:
            return max(of_blocks) + sum(self._tokens(block, batch) * self._width * e for block in self._blocks)
        return sum(of_blocks)

    def _bytes_per_number(self, recipe: Recipe) -> int:
        half = recipe.training.precision != "fp32" or recipe.model.dtype == "bfloat16"
        return 2 if half else 4

    def _tokens(self, name: str, batch: Batch) -> int:
        """Tokens of all examples that a part of the model reads."""
        answers = batch.answer and re.search(r"(^|\.)decoder\.", name) and not _CROSS.search(name)
        return batch.examples * (batch.answer if answers else batch.tokens)

    def _of_block(self, block: str, recipe: Recipe, batch: Batch) -> float:
        beside = defaultdict(list)
        for layer in self._layers:
            if layer.name.startswith(f"{block}."):
                beside[layer.owner].append(layer)
        e, mask = self._bytes_per_number(recipe), 1 if self._device.fused else 4
        total = 0.0
        for owner, layers in beside.items():
            total += sum(self._of_layer(layer, recipe, batch, e, mask) for layer in layers)
            read = {(self._tokens(one.name, batch), one.inputs) for one in layers if one.reads_whole}
            total += e * sum(tokens * inputs for tokens, inputs in read)
            if len(layers) > 1 and re.search(self._family.roles["attention"], layers[0].name):
                total += self._of_attention(block, layers, batch, e)
            elif len(layers) > 1:
                total += e * self._of_gate(owner, layers, batch)
        return total + self._between(block, beside, batch, e, mask)

    def _of_layer(self, layer: Shape, recipe: Recipe, batch: Batch, e: int, mask: int) -> int:
        numbers = e * (layer.outputs + layer.rank)
        if layer.rank and layer.dropout:
            numbers += layer.inputs * (e + mask)
        if recipe.model.quantization == "8bit" and not layer.whole:
            numbers += layer.inputs * (1 + e)
        return self._tokens(layer.name, batch) * numbers

    def _of_attention(self, block: str, layers: Sequence[Shape], batch: Batch, e: int) -> float:
        """Bytes for each pair of tokens, where attention is not fused, and of queries and keys turned by positions."""
        config = self._family.base.config
        eager = config._attn_implementation == "eager" or self._biased
        dropped = self._attention_dropout > 0 and (eager or not self._device.fused)
        matrices = 3 if dropped else 1 if eager else 0
        reading = self._tokens(block, batch)
        read = batch.tokens if any(_CROSS.search(one.name) for one in layers) else reading // batch.examples
        fused = max(one.outputs for one in layers) if len(layers) == 2 and hasattr(config, "rope_parameters") else 0
        return 4.0 * matrices * self._heads * reading * read + e * reading * fused

    def _of_gate(self, owner: str, layers: Sequence[Shape], batch: Batch) -> float:
        """Numbers that the activation between the layers of a feed-forward network keeps beside its input."""
        inner = max(one.inputs for one in layers)
        gated = sum(one.outputs for one in layers if one.inputs != inner or one.outputs != self._width) >= 2 * inner
        written_out = any(type(part).__name__ == "NewGELUActivation" for part in self._part(owner).modules())
        return self._tokens(owner, batch) * inner * (gated + 3 * written_out)

    def _between(self, block: str, beside: Mapping[str, Sequence[Shape]], batch: Batch, e: int, mask: int) -> float:
        """Bytes of norms and dropout."""
        total = 0.0
        for name, part in self._part(block).named_modules(prefix=block):
            owner = name.rpartition(".")[0]
            layers = beside.get(owner, ())
            tokens = self._tokens(block, batch)
            weight = getattr(part, "weight", None)
            if "norm" in type(part).__name__.lower() and weight is not None:
                rooted = 4 if "rms" in type(part).__name__.lower() or self._biased else 0
                of_heads = next((one for one in layers if one.name == name.replace("norm", "proj")), None)
                width, again = (of_heads.outputs, e) if of_heads is not None else (weight.numel(), 0)
                total += tokens * width * (4 - e + again + (rooted if weight.requires_grad else 0))
            elif isinstance(part, nn.Dropout) and part.p and "lora_" not in name:
                if layers and re.search(self._family.roles["attention"], layers[0].name) and len(layers) > 1:
                    continue  # of the pairs of tokens
                width = max(one.inputs for one in layers) if len(layers) > 1 else self._width
                total += tokens * width * mask
        return total

    def _part(self, name: str) -> nn.Module:
        part: nn.Module = self._family.base.get_submodule(name)
        return part

    # --- time -----------------------------------------------------------------------------------------------------

    def _operations(self, recipe: Recipe) -> float:
        """Of a whole step, on one process."""
        _, micro_batches = batch_split(recipe.training.batch_size, recipe.training.micro_batch_size, self._device.count)
        batch = self._batch(recipe, self._usual)
        again = 1 if recipe.training.gradient_checkpointing else 0
        total = 0.0
        for layer in self._layers:
            is_head = self._head is not None and self._part(layer.name) is self._head
            tokens = batch.positions if is_head else self._tokens(layer.name, batch)
            total += 2 * tokens * layer.outputs * layer.inputs * (2 + layer.trained + again)
        for block in self._blocks:
            pairs = self._tokens(block, batch) * batch.tokens
            total += 4 * pairs * self._width * (3 + again)
        return total * micro_batches

    def _seconds(self, recipe: Recipe) -> float:
        """Of a usual step on this machine."""
        _, micro_batches = batch_split(recipe.training.batch_size, recipe.training.micro_batch_size, self._device.count)
        batch = self._batch(recipe, self._usual)
        with matrix_products(recipe.training.matmul):
            products, copies = rates(self._tokens("", batch), self._width, self._bytes_per_number(recipe))
        moved = micro_batches * PASSES * (self.activations(recipe, batch) + 12 * batch.positions * self._words)
        return float(self._operations(recipe) / products + (moved + 40 * self._trained) / copies)


def _written(change: tuple[str, str, Any]) -> str:
    section, key, value = change
    return f"{section}.{key}={str(value).lower()}"

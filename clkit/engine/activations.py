"""What autograd keeps of a forward pass, from the shapes of the model alone.

An operation's inputs or its output, as its derivative needs. Of a block, with n tokens in a micro-batch, padded to its
longest example, and e bytes per number (4, or 2 where it computes in half precision):

    n · e · (Σ outputs of its linear layers + Σ inputs of those that are trained, one for those beside each other)

since whatever stands between them (attention, activation, sum and norm) keeps what the layer before gave. Beside it:
a gated feed-forward keeps the activation of its gate, and `NewGELUActivation`, which is written out in Python, three
more; a trained RMSNorm its normalised input, in float32 as any norm computes; norms of single heads theirs; queries
and keys that positions turn, and what attention gives, stand beside a projection that gave all three; dropout keeps
its mask, of 4 bytes per number on a CPU and 1 on a GPU; an adapter its input, dropped by itself, and r numbers;
LLM.int8 its input in 8 bits and whole. Fused attention (`sdpa`, flash) keeps no matrix of tokens × tokens; `eager`,
or a position bias (T5), 4 bytes per head for each pair of tokens, and three times that with dropout, fused only on
GPUs. With gradient checkpointing: the input of each block, and all this of the largest one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers.activations import NewGELUActivation
from transformers.modeling_layers import GradientCheckpointingLayer

from clkit.engine.devices import Device
from clkit.models.family import Family
from clkit.models.shapes import Batch, Shape, shapes
from clkit.recipe.recipe import Recipe

#: Shapes in a decoder that read what the encoder gives.
_CROSS = re.compile(r"(EncDecAttention|encoder_attn|cross_attn|crossattention).*\.(k|v|k_proj|v_proj|key|value)$")


class Activations:
    """The formula, for one model.

    Attributes:
        layers: its linear ones.
        blocks: the names of those that gradient checkpointing computes anew.
        modules: how many of theirs have no others in them.
        width: numbers of a token between two blocks.
        fused: whether attention keeps no matrix of tokens × tokens.
    """

    def __init__(self, family: Family, device: Device) -> None:
        self._family, self._device = family, device
        self.layers = shapes(family)
        base, config = family.base, family.base.config.get_text_config()
        names = [name for name, part in base.named_modules() if isinstance(part, GradientCheckpointingLayer)]
        self.blocks = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
        parts = (self.part(block).modules() for block in self.blocks)
        self.modules = sum(not [*module.children()] for block in parts for module in block)
        self.width: int = base.get_input_embeddings().weight.shape[1]
        heads: Any = getattr(config, "num_attention_heads", None) or getattr(config, "num_heads", 1)
        self.heads: int = heads
        self._biased = hasattr(config, "relative_attention_num_buckets")
        self._eager = config._attn_implementation == "eager" or self._biased
        keys = ("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "dropout_rate")
        self.attention_dropout = max(float(getattr(config, key, 0) or 0) for key in keys)
        self._drops_pairs = self.attention_dropout > 0 and (self._eager or not device.fused)
        self.fused = not self._eager and not self._drops_pairs

    def of(self, recipe: Recipe, batch: Batch) -> float:
        """Bytes that autograd keeps of a forward pass, without logits and copies of weights."""
        e = bytes_per_number(recipe)
        of_blocks = [self._of_block(block, recipe, batch) for block in self.blocks] or [0.0]
        if recipe.training.gradient_checkpointing:
            return max(of_blocks) + sum(self.tokens(block, batch) * self.width * e for block in self.blocks)
        return sum(of_blocks)

    def dropped(self, batch: Batch) -> int:
        """Numbers that dropout draws for in a forward pass, but for those of adapters and of attention."""
        return sum(self._dropped(block, self._beside(block), batch) for block in self.blocks)

    def written_out(self, batch: Batch) -> int:
        """Numbers of a forward pass that go through an activation which is written out in Python."""
        networks = [(owner, layers) for block in self.blocks for owner, layers in self._beside(block).items()]
        return sum(
            self.tokens(owner, batch) * max(one.inputs for one in layers)
            for owner, layers in networks
            if len(layers) > 1 and self._writes_out(owner)
        )

    def tokens(self, name: str, batch: Batch) -> int:
        """Tokens of all examples that a part of the model reads."""
        answers = batch.answer and re.search(r"(^|\.)decoder\.", name) and not _CROSS.search(name)
        return batch.examples * (batch.answer if answers else batch.tokens)

    def _beside(self, block: str) -> Mapping[str, Sequence[Shape]]:
        """The layers of a block by the module that they stand in."""
        found = defaultdict(list)
        for layer in self.layers:
            if layer.name.startswith(f"{block}."):
                found[layer.owner].append(layer)
        return found

    def _of_block(self, block: str, recipe: Recipe, batch: Batch) -> float:
        beside = self._beside(block)
        e, mask = bytes_per_number(recipe), 1 if self._device.fused else 4
        total = 0.0
        for owner, layers in beside.items():
            total += sum(self._of_layer(layer, recipe, batch, e, mask) for layer in layers)
            read = {(self.tokens(one.name, batch), one.inputs) for one in layers if one.reads_whole}
            total += e * sum(tokens * inputs for tokens, inputs in read)
            if len(layers) > 1 and re.search(self._family.roles["attention"], layers[0].name):
                total += self._of_attention(block, layers, batch, e, mask)
            elif len(layers) > 1:
                total += e * self._of_gate(owner, layers, batch)
        return total + self._of_norms(block, beside, batch, e) + mask * self._dropped(block, beside, batch)

    def _of_layer(self, layer: Shape, recipe: Recipe, batch: Batch, e: int, mask: int) -> int:
        numbers = e * (layer.outputs + layer.rank)
        if layer.rank and layer.dropout:
            numbers += layer.inputs * (e + mask)
        if recipe.model.quantization == "8bit" and not layer.whole:
            numbers += layer.inputs * (1 + e)
        return self.tokens(layer.name, batch) * numbers

    def _of_attention(self, block: str, layers: Sequence[Shape], batch: Batch, e: int, mask: int) -> float:
        """Bytes for each pair of tokens, where attention is not fused, and of queries and keys turned by positions."""
        config = self._family.base.config.get_text_config()
        each = 8 + mask if self._drops_pairs else 4 if self._eager else 0
        reading = self.tokens(block, batch)
        read = batch.tokens if any(_CROSS.search(one.name) for one in layers) else reading // batch.examples
        fused = max(one.outputs for one in layers) if len(layers) == 2 and hasattr(config, "rope_parameters") else 0
        return float(each * self.heads * reading * read + e * reading * fused)

    def _of_gate(self, owner: str, layers: Sequence[Shape], batch: Batch) -> float:
        """Numbers that the activation between the layers of a feed-forward network keeps beside its input."""
        inner = max(one.inputs for one in layers)
        gated = sum(one.outputs for one in layers if one.inputs != inner or one.outputs != self.width) >= 2 * inner
        return self.tokens(owner, batch) * inner * (gated + 3 * self._writes_out(owner))

    def _writes_out(self, owner: str) -> bool:
        return any(isinstance(part, NewGELUActivation) for part in self.part(owner).modules())

    def _of_norms(self, block: str, beside: Mapping[str, Sequence[Shape]], batch: Batch, e: int) -> float:
        total = 0.0
        for name, part in self.part(block).named_modules(prefix=block):
            weight = getattr(part, "weight", None)
            if "norm" in type(part).__name__.lower() and weight is not None:
                rooted = 4 if "rms" in type(part).__name__.lower() or self._biased else 0
                layers = beside.get(name.rpartition(".")[0], ())
                of_heads = next((one for one in layers if one.name == name.replace("norm", "proj")), None)
                width, again = (of_heads.outputs, e) if of_heads is not None else (weight.numel(), 0)
                total += width * (4 - e + again + (rooted if weight.requires_grad else 0))
        return self.tokens(block, batch) * total

    def _dropped(self, block: str, beside: Mapping[str, Sequence[Shape]], batch: Batch) -> int:
        total = 0
        for name, part in self.part(block).named_modules(prefix=block):
            if isinstance(part, nn.Dropout) and part.p and "lora_" not in name:
                layers = beside.get(name.rpartition(".")[0], ())
                if len(layers) > 1 and re.search(self._family.roles["attention"], layers[0].name):
                    continue  # of the pairs of tokens
                total += max(one.inputs for one in layers) if len(layers) > 1 else self.width
        return self.tokens(block, batch) * total

    def part(self, name: str) -> nn.Module:
        part: nn.Module = self._family.base.get_submodule(name)
        return part


def bytes_per_number(recipe: Recipe) -> int:
    """Of what the forward pass computes."""
    half = recipe.training.precision != "fp32" or recipe.model.dtype == "bfloat16"
    return 2 if half else 4

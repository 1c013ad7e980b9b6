"""How many tokens a model can read or write at once: what its tables of positions hold."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

from clkit.errors import ModelError

#: What tables of positions are called: in BERT, GPT-2, OPT and BART, OpenAI's GPT, GPT-J, CTRL.
_TABLES = ("position_embeddings", "wpe", "embed_positions", "positions_embed", "pos_encoding")


#: Where the config alone says how many there are: MPT's ALiBi is computed for so many, Reformer's table is a product.
_IN_CONFIG = {"mpt": "max_seq_len", "reformer": "max_position_embeddings"}


class Positions(NamedTuple):
    """Tokens, special ones included.

    Attributes:
        read: at most in the sequence, of an encoder-decoder model in the encoder; None where any number.
        written: at most in the decoder of an encoder-decoder model, None where any number or without one.
        trained: those that the config names, where the model takes more (rotary positions), or None.
    """

    read: int | None
    written: int | None
    trained: int | None

    def block(self, wanted: int) -> int:
        """As many tokens as are wanted of a block of text, or the most that the model reads and writes."""
        return min([wanted, *(size for size in (self.read, self.written) if size is not None)])


def positions(model: PreTrainedModel) -> Positions:
    """What a model's tables of positions hold.

    Rotary, relative and ALiBi positions have none, and longer sequences do not fail; neither do sinusoids that are
    computed anew.
    """
    config = model.config
    sizes: dict[str, list[int]] = {"encoder": [], "decoder": []} if config.is_encoder_decoder else {"": []}
    buffers = [(name, len(table)) for name, table in model.named_buffers() if name.rpartition(".")[2] in _TABLES]
    for name, size in [*_embeddings(model), *buffers]:
        for part, found in sizes.items():
            if part in name:
                found.append(size)
    if config.model_type in _IN_CONFIG:
        sizes[""].append(getattr(config, _IN_CONFIG[config.model_type]))
    read, *written = (min(found, default=None) for found in sizes.values())
    window = getattr(config, "attention_window", None)
    if read is not None and window is not None and config.is_encoder_decoder:
        # Longformer's encoder-decoder fills its input up to whole windows, and counts positions after that.
        read -= read % (max(window) if isinstance(window, list) else window)
    trained = getattr(config.get_text_config(), "max_position_embeddings", None) if read is None else None
    return Positions(read, written[0] if written else None, trained if trained and trained > 0 else None)


def refuse_longer_blocks(model: PreTrainedModel, tokens: int) -> None:
    """Refuse blocks of text of more tokens than the model has positions for.

    Raises:
        ModelError: names the most.
    """
    most = positions(model).block(tokens)
    if tokens > most:
        raise ModelError(
            f"objective.block_tokens: the model has positions for {most} tokens, not for {tokens}; set it to {most}"
        )


def _embeddings(model: PreTrainedModel) -> list[tuple[str, int]]:
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _TABLES:
            # RoBERTa counts positions from behind the id of its padding token, OPT and BART from a fixed one.
            padding = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append((name, module.num_embeddings - getattr(module, "offset", padding)))
    return found

"""python tools/make_random.py NAME OUT

Makes the models in `clkit/models/embedded/tiny-roberta` and `tiny-llama`: random weights, which stand for an encoder
and a decoder where a recipe is tried out in miniature, and tokenizers with the pieces of tiny-t5's. The same seed gives
the same weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from clkit.models.embedded import embedded_model_folder

SEED = 42
MAX_TOKENS = 512
PAD, END, BEGIN = 0, 1, 1400
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "bos_token_id": BEGIN,
}


class Kind(NamedTuple):
    """A model's class and configuration, the special tokens beyond tiny-t5's, and where they stand around a text."""

    make: Callable[[Any], PreTrainedModel]
    config: PretrainedConfig
    special: dict[str, str]
    around: str


KINDS = {
    "tiny-roberta": Kind(
        RobertaForMaskedLM,
        # Positions are counted from behind the padding token's id.
        RobertaConfig(vocab_size=1402, max_position_embeddings=MAX_TOKENS + PAD + 1, type_vocab_size=1, **SIZES),
        {"bos_token": "<s>", "mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"},
        "<s> $A </s>",
    ),
    "tiny-llama": Kind(
        LlamaForCausalLM,
        LlamaConfig(vocab_size=1401, max_position_embeddings=MAX_TOKENS, **SIZES),
        {"bos_token": "<s>"},
        "<s> $A",
    ),
}


def make_tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    """Tiny-t5's pieces, without its sentinels."""
    pieces = json.loads((embedded_model_folder("tiny-t5") / "tokenizer.json").read_text("utf-8"))
    pieces["added_tokens"] = [token for token in pieces["added_tokens"] if "extra_id" not in token["content"]]
    tokenizer = Tokenizer.from_str(json.dumps(pieces))
    tokenizer.add_special_tokens(list(dict.fromkeys(kind.special.values())))
    used = [(token, tokenizer.token_to_id(token)) for token in kind.around.split() if token != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=kind.around, special_tokens=used)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
        **kind.special,
    )


def make_model(kind: Kind) -> PreTrainedModel:
    """The model with weights drawn from the seed."""
    torch.manual_seed(SEED)
    return kind.make(kind.config)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make one of the random models that come with clkit.")
    parser.add_argument("name", choices=KINDS)
    parser.add_argument("out", type=Path, help="folder to write the model and its tokenizer to")
    arguments = parser.parse_args()
    kind = KINDS[arguments.name]
    make_model(kind).save_pretrained(arguments.out)
    make_tokenizer(kind).save_pretrained(arguments.out)


if __name__ == "__main__":
    main()

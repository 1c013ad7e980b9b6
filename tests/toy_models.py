"""Models with random weights, one of each family, small enough to compute by hand with; a tokenizer of 40 words."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

PAD, END, UNKNOWN = 0, 1, 2
WORDS = 37


def write_toy(family: str, folder: Path, layers: int = 2) -> Path:
    """Save the family's toy model, of so many layers, with its tokenizer."""
    torch.manual_seed(0)
    model, single, special = {"seq2seq": _t5, "decoder": _llama, "encoder": _roberta}[family](layers)
    model.save_pretrained(folder)
    _tokenizer(single, special).save_pretrained(folder)
    return folder


def _tokenizer(single: str, special: dict[str, str]) -> PreTrainedTokenizerFast:
    """Reads words; ``single`` is where the special tokens stand, ``special`` those beyond pad and end."""
    words = ["<pad>", "</s>", "<unk>", *(f"w{index}" for index in range(WORDS)), *special.values()]
    ids = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    used = [(word, ids[word]) for word in ("</s>", *special.values()) if word in single]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=used)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
        **special,
    )


def _t5(layers: int) -> tuple[PreTrainedModel, str, dict[str, str]]:
    config = T5Config(
        vocab_size=3 + WORDS,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=2,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=PAD,
    )
    return T5ForConditionalGeneration(config), "$A </s>", {}


def _llama(layers: int) -> tuple[PreTrainedModel, str, dict[str, str]]:
    config = LlamaConfig(
        vocab_size=4 + WORDS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=3 + WORDS,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config), "<s> $A", {"bos_token": "<s>"}


def _roberta(layers: int) -> tuple[PreTrainedModel, str, dict[str, str]]:
    config = RobertaConfig(
        vocab_size=5 + WORDS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=514,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=3 + WORDS,
    )
    return RobertaForMaskedLM(config), "<s> $A </s>", {"bos_token": "<s>", "mask_token": "<mask>"}

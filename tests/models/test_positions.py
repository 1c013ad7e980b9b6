"""Tables of positions: as many tokens as are said go through the model, and one more fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from clkit.errors import ModelError
from clkit.models.layers import refuse_untrainable
from clkit.models.loading import load_model
from clkit.models.positions import Positions, positions
from clkit.models.sections import FullTuning, ModelSection

BLOCK = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
GPT = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 40}
BART = {
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "decoder_start_token_id": 2,
}
OPT = {"hidden_size": 8, "ffn_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 8}
T5 = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 1}
SHORT = {"max_position_embeddings": 40}
LED = {"max_encoder_position_embeddings": 100, "max_decoder_position_embeddings": 24, "attention_window": 16}
#: Each architecture: its kind, its config, and what it can read, write and was trained with.
MODELS: dict[str, tuple[Any, dict[str, Any], tuple[int | None, int | None, int | None]]] = {
    "gpt2": (AutoModelForCausalLM, GPT, (40, None, None)),
    "openai-gpt": (AutoModelForCausalLM, GPT, (40, None, None)),
    "gptj": (AutoModelForCausalLM, {**GPT, "rotary_dim": 4}, (40, None, None)),
    "opt": (AutoModelForCausalLM, {**OPT, **SHORT}, (40, None, None)),
    "biogpt": (AutoModelForCausalLM, {**BLOCK, **SHORT}, (40, None, None)),
    "mpt": (AutoModelForCausalLM, {"d_model": 8, "n_layers": 1, "n_heads": 2, "max_seq_len": 40}, (40, None, None)),
    "reformer": (
        AutoModelForCausalLM,
        {
            "hidden_size": 8,
            "attention_head_size": 4,
            "num_attention_heads": 2,
            "feed_forward_size": 8,
            "attn_layers": ["local"],
            "axial_pos_shape": (5, 8),
            "axial_pos_embds_dim": (4, 4),
            **SHORT,
            "local_attn_chunk_length": 8,
            "is_decoder": True,
        },
        (40, None, None),
    ),
    "llama": (AutoModelForCausalLM, {**BLOCK, **SHORT}, (None, None, 40)),
    "bloom": (AutoModelForCausalLM, {"hidden_size": 8, "n_layer": 1, "n_head": 2}, (None, None, None)),
    "bert": (AutoModelForMaskedLM, {**BLOCK, **SHORT}, (40, None, None)),
    "roberta": (AutoModelForMaskedLM, {**BLOCK, **SHORT, "pad_token_id": 1}, (38, None, None)),
    "longformer": (
        AutoModelForMaskedLM,
        {**BLOCK, **SHORT, "attention_window": 16, "pad_token_id": 1},
        (38, None, None),
    ),
    "roformer": (AutoModelForMaskedLM, {**BLOCK, **SHORT}, (40, None, None)),
    "bart": (AutoModelForSeq2SeqLM, {**BART, **SHORT}, (40, 40, None)),
    "marian": (AutoModelForSeq2SeqLM, {**BART, **SHORT, "pad_token_id": 1}, (40, 40, None)),
    "m2m_100": (AutoModelForSeq2SeqLM, {**BART, **SHORT}, (None, None, 40)),
    "led": (AutoModelForSeq2SeqLM, {**BART, **LED}, (96, 24, None)),
    "t5": (AutoModelForSeq2SeqLM, T5, (None, None, None)),
}


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_as_many_tokens_as_are_said_go_through_and_one_more_fails(kind: str) -> None:
    auto, values, expected = MODELS[kind]
    model = auto.from_config(CONFIG_MAPPING[kind](vocab_size=20, **values)).eval()
    found = positions(model)
    assert found == Positions(*expected)

    def run(read: int, written: int = 1) -> None:
        ids = {"input_ids": torch.full((1, read), 7)}
        if model.config.is_encoder_decoder:
            ids["decoder_input_ids"] = torch.full((1, written), 7)
        model(**ids)

    run(found.read or 400, found.written or 400)
    for longer in ([(found.read + 1, 1)] if found.read else []) + ([(1, found.written + 1)] if found.written else []):
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            run(*longer)


def test_a_model_that_takes_whole_chunks_only_is_refused_for_training(toy_llama: Path, tmp_path: Path) -> None:
    """Reformer trains on multiples of its chunk's length, which texts of unequal length are not."""
    torch.manual_seed(0)
    auto, values, _ = MODELS["reformer"]
    config = CONFIG_MAPPING["reformer"](vocab_size=41, eos_token_id=1, pad_token_id=0, **values)
    auto.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(toy_llama).save_pretrained(tmp_path)
    family = load_model(ModelSection(name=str(tmp_path)), FullTuning())
    with pytest.raises(ModelError, match=r"'reformer' cannot be trained on two short texts .*multiple"):
        refuse_untrainable(family)
    refuse_untrainable(load_model(ModelSection(name=str(toy_llama)), FullTuning()))

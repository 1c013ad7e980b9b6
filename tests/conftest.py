"""Fixtures that several rooms share: a T5 small enough to compute by hand with, and the real data where it lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before any library that reads them is imported. No test may reach a network; and pytest's workers share the cores,
# on which a second thread each would mostly wait for the other.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(os.environ.get("CLKIT_SHARED", Path(__file__).parents[2] / "shared"))


def _shared(part: str) -> Path:
    path = SHARED / part
    if not path.is_dir():
        pytest.skip(f"needs {path} (set CLKIT_SHARED to the folder that holds {part})")
    return path


@pytest.fixture(scope="session")
def cl_benchmark() -> Path:
    """The fifteen real tasks in the CL_Benchmark layout."""
    return _shared("data/CL_Benchmark")


@pytest.fixture(scope="session")
def t5_tiny() -> Path:
    """A small T5 that is pre-trained for real."""
    return _shared("models/t5-tiny")


@pytest.fixture(scope="session")
def toy_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random T5 of 16 units and a tokenizer of 40 words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    words = ["<pad>", "</s>", "<unk>", *(f"w{index}" for index in range(37))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
    config = T5Config(
        vocab_size=40,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("toy-t5")
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

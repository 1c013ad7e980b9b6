"""The models that come with clkit, so that a first run and the tests need no network."""

from __future__ import annotations

from pathlib import Path

from clkit.errors import ModelError

EMBEDDED_MODELS: dict[str, str] = {
    "tiny-t5": "T5 with 0.97 million parameters, pre-trained on text like the built-in sample's; for trying things out",
    "tiny-roberta": "RoBERTa with 0.08 million random weights; stands for encoders where recipes are tried out",
    "tiny-llama": "Llama with 0.11 million random weights; stands for decoders where recipes are tried out",
}


def embedded_model_folder(name: str) -> Path:
    """The folder of an embedded model (`embedded:NAME` in a recipe), to be loaded like any local model folder.

    Raises:
        ModelError: no embedded model has that name.
    """
    if name not in EMBEDDED_MODELS:
        raise ModelError(f"unknown embedded model '{name}' (known: {', '.join(sorted(EMBEDDED_MODELS))})")
    return Path(__file__).parent / name

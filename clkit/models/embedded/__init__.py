"""The model and the text that come with clkit, so that a first run and the tests need no network."""

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


def held_out_text() -> str:
    """English prose of 1,200 words to measure general ability on (`general.texts: builtin`).

    All of it is in the public domain: passages of the US Declaration of Independence (1776), Austen's Pride and
    Prejudice (1813), Lincoln's Gettysburg Address (1863), Carroll's Alice's Adventures in Wonderland (1865), Darwin's
    On the Origin of Species (1859), Melville's Moby-Dick (1851), Federalist No. 51 (1788) and Dickens's A Tale of Two
    Cities (1859).

    Large models know such passages by heart. So a rise of the loss shows early what is being lost, but the loss itself
    says little about text that a model has never seen.
    """
    return (Path(__file__).parent / "held_out.txt").read_text("utf-8")

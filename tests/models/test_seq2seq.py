"""How encoder-decoder models are tested: what is computed, and how often."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from clkit.models.families import seq2seq as module
from clkit.models.families.seq2seq import Seq2Seq
from clkit.models.loading import load_model
from clkit.models.sections import FullTuning, ModelSection

PROMPTS = ["w1 w2 w3 w4 w5 w6 w7", "w8 w9 w10", "w11"]
LABELS = ["w1", "w2 w3", "w4 w5 w6"]


@pytest.fixture
def toy(toy_t5: Path) -> Seq2Seq:
    family = load_model(ModelSection(name=str(toy_t5)), FullTuning())
    assert isinstance(family, Seq2Seq)
    family.model.eval()
    return family


def widths(layer: torch.nn.Module) -> list[int]:
    """How many positions each call of a layer computes, filled as it is called."""
    found: list[int] = []
    layer.register_forward_hook(lambda layer, inputs, output: found.append(output.shape[0] * output.shape[1]))
    return found


def test_prompts_are_encoded_and_projected_once_for_all_labels(toy: Seq2Seq) -> None:
    alone = torch.cat([toy.log_likelihood(PROMPTS, [label]) for label in LABELS], dim=1)
    encoded, projected = (
        widths(toy.model.get_submodule(name))
        for name in ("encoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.1.EncDecAttention.k")
    )
    torch.testing.assert_close(toy.log_likelihood(PROMPTS, LABELS), alone)
    assert encoded == projected == [3 * 8]  # three prompts, as long as the longest with its end


def test_labels_are_read_in_one_pass_of_the_decoder(toy: Seq2Seq, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the stock model, which is given one label at a time."""
    with torch.no_grad():
        for parameter in toy.model.parameters():
            parameter.mul_(4)
    naive = []
    for prompt, label in itertools.product(PROMPTS, LABELS):
        labels = toy.tokenizer(text_target=label, return_tensors="pt")["input_ids"]
        labels = labels if labels[0, -1] == toy.tokenizer.eos_token_id else functional.pad(labels, (0, 1), value=1)
        loss = toy.model(toy.tokenizer(prompt, return_tensors="pt")["input_ids"], labels=labels).loss
        naive.append(-loss.item() * labels.numel())
    read = widths(toy.model.get_submodule("decoder.block.0.layer.0.SelfAttention.q"))
    for most, expected in ((2**25, [3 * 9]), (toy.model.config.vocab_size * 3 * 5, [3 * 5, 3 * 4]), (1, [6, 9, 12])):
        monkeypatch.setattr(module, "MOST_LOGITS", most)
        found = toy.log_likelihood(PROMPTS, LABELS)
        torch.testing.assert_close(found.flatten(), torch.tensor(naive), rtol=1e-5, atol=1e-4)
        assert read == expected
        read.clear()


def test_the_encoder_reads_no_padding_that_all_rows_of_a_part_have(
    toy: Seq2Seq, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = toy.log_likelihood(PROMPTS, LABELS)
    monkeypatch.setattr(module, "CPU_TOKENS", 1)
    encoded = widths(toy.model.get_submodule("encoder.block.0.layer.0.SelfAttention.q"))
    torch.testing.assert_close(toy.log_likelihood(PROMPTS, LABELS), together)
    assert encoded == [8, 4, 2]


def test_a_prompt_is_tokenised_once(toy: Seq2Seq, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = toy.generate(PROMPTS, 3)
    monkeypatch.setattr(toy, "_prompt_ids", None)
    assert toy.generate(PROMPTS[::-1], 3) == answers[::-1]

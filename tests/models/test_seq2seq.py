"""How encoder-decoder models are tested: what is computed, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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

"""Padding counts in no magnitude, whichever side of an encoder-decoder a layer is on; else the layer is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer, T5GemmaConfig
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

from clkit.errors import ModelError
from clkit.models.families.masked_tokens import MaskedTokens
from clkit.models.families.seq2seq import Seq2Seq
from clkit.models.family import Family
from clkit.models.layers import linear_layers, select_layers
from clkit.models.magnitudes import MagnitudeCollector, check_layers
from clkit.models.objective import Pretraining, TextToText
from clkit.results.answers import UNFINISHED
from clkit.strategies.builtin.migu import MIGU, MIGUOptions
from clkit.testing.examiner import negative_log_likelihoods

IDS = {"vocab_size": 50, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
_FFN = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (("layers", 2), ("ffn_dim", 24))}
_HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
BART = {"d_model": 16, **_FFN, **_HEADS, **IDS, "decoder_start_token_id": 3}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 50}
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, **IDS}
T5_LIKE = ("t5", "umt5", "switch_transformers")
SEQ2SEQ = ("bart", "mbart", "pegasus", "m2m_100", "marian", "blenderbot", "t5", "umt5", "t5gemma")


def config(kind: str) -> Any:
    if kind == "t5gemma":
        side = T5GemmaModuleConfig(**SMALL, num_key_value_heads=1, head_dim=8)
        return T5GemmaConfig(encoder=side, decoder=side, vocab_size=50)
    sizes: dict[str, Any] = {**T5, "decoder_start_token_id": 0} if kind in T5_LIKE else BART
    if kind in ("switch_transformers", "nllb-moe"):
        sizes = {**sizes, "num_experts": 2, "num_decoder_layers": 2, "num_sparse_encoder_layers": 1}
    if kind == "led":
        sizes = {
            **sizes,
            "attention_window": 4,
            **{f"max_{side}_position_embeddings": 64 for side in ("encoder", "decoder")},
        }
    if kind == "fsmt":
        sizes = {**sizes, "src_vocab_size": 50, "tgt_vocab_size": 50, "langs": ["en", "de"]}
    return AutoConfig.for_model(kind, **sizes)


def seq2seq(kind: str, toy_t5: Path) -> Seq2Seq:
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config(kind)).eval()
    with torch.no_grad():  # else a random model hardly cares what it has read
        for parameter in model.parameters():
            parameter.mul_(3)
    return Seq2Seq(model, AutoTokenizer.from_pretrained(toy_t5), TextToText())


def longformer(toy_roberta: Path) -> MaskedTokens:
    sizes = {**SMALL, "max_position_embeddings": 66, "attention_window": 4, "sep_token_id": 1}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("longformer", **sizes))
    return MaskedTokens(model, AutoTokenizer.from_pretrained(toy_roberta), Pretraining(kind="pretraining"))


def watch(family: Family, layers: list[str]) -> MagnitudeCollector:
    return MagnitudeCollector(select_layers(family, layers), family.token_mask)


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_what_stands_on_the_padding_changes_no_layers_magnitudes(kind: str, toy_t5: Path) -> None:
    family = seq2seq(kind, toy_t5)
    layers = ["attention", "feed_forward"]
    assert {*select_layers(family, layers)} == {name for name in linear_layers(family.model) if "lm_head" not in name}
    batch = dict(family.probe())
    unread = {"input_ids": batch["attention_mask"] == 0, "decoder_input_ids": batch["labels"] == -100}
    assert all(padding.any() for padding in unread.values())
    sums = []
    for filler in (5, 9):
        changed = batch | {name: batch[name].masked_fill(padding, filler) for name, padding in unread.items()}
        collector = watch(family, layers)
        with torch.no_grad(), collector.collecting(batch):
            family.model(**{name: tensor for name, tensor in changed.items() if name != "labels"})
        sums.append(collector.take())
        collector.remove()
    assert sums[0].keys() == set(select_layers(family, layers))
    for name, one in sums[0].items():
        torch.testing.assert_close(one, sums[1][name], rtol=1e-4, atol=1e-5)
    MIGU(MIGUOptions(name="migu")).check(family, 2)


@pytest.mark.parametrize("kind", [*SEQ2SEQ, "switch_transformers", "nllb-moe"])
def test_the_decoder_begins_in_an_answer_as_it_does_in_training(kind: str, toy_t5: Path) -> None:
    family, prompts = seq2seq(kind, toy_t5), ["w1 w2 w3", "w7"]
    encoded = family.encode(prompts, ["w4", "w5 w6"])
    batch = family.collator()([dict(zip(encoded, row, strict=True)) for row in zip(*encoded.values(), strict=True)])
    with torch.no_grad():
        logits = family.model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    first = family.tokenizer.batch_decode(logits[:, :1].argmax(dim=-1), skip_special_tokens=True)
    ends = (logits[:, 0].argmax(dim=-1) == family.tokenizer.eos_token_id).tolist()
    expected = [text if ended else text + UNFINISHED for text, ended in zip(first, ends, strict=True)]
    assert family.generate(prompts, 1) == expected
    likelihoods = family.log_likelihood(prompts, ["w4", "w5 w6"]).diagonal().tolist()
    assert likelihoods == pytest.approx([-nll for nll, _ in negative_log_likelihoods(family, batch)], rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "layer", "positions"),
    [
        ("pegasus_x", r"model\.encoder\.layers\.0\.self_attn\.q_proj", "2 × 512"),
        ("led", r"led\.encoder\.layers\.0\.self_attn\.longformer_self_attn\.query", "12 × 2"),
        ("fsmt", r"model\.encoder\.layers\.0\.self_attn\.k_proj", "10 × 2"),
    ],
)
def test_layers_whose_positions_are_not_the_batchs_are_refused(
    kind: str, layer: str, positions: str, toy_t5: Path
) -> None:
    family = seq2seq(kind, toy_t5)
    message = (
        rf"^strategies\.migu\.layers: of this seq2seq model '{kind}', layer {layer} gives an output of {positions} "
        r"positions where the batch has 2 × 10, so which of them are padding is not known; leave it out of `layers`, "
        r"or set count_padding: true$"
    )
    with pytest.raises(ModelError, match=message):
        MIGU(MIGUOptions(name="migu")).check(family, 2)
    assert not any(module._forward_hooks for module in family.model.modules())
    MIGU(MIGUOptions(name="migu", count_padding=True)).check(family, 2)
    MIGU(MIGUOptions(name="migu", source="random")).check(family, 2)


def test_padded_windows_are_refused_and_what_is_in_none_is_not(toy_roberta: Path) -> None:
    family = longformer(toy_roberta)
    with pytest.raises(ModelError, match=r"^k: of this encoder model 'longformer', layer longformer\.encoder"):
        check_layers(family, watch(family, ["attention"]), "k")
    check_layers(family, watch(family, ["lm_head"]), "k")


def test_a_model_that_cannot_read_says_so(toy_t5: Path) -> None:
    family = seq2seq("t5", toy_t5)
    family.model.lm_head = torch.nn.Linear(3, 3)
    with pytest.raises(ModelError, match=r"^k: this seq2seq model 't5' cannot read two short texts \(.*shapes"):
        check_layers(family, watch(family, ["q"]), "k")

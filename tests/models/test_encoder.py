"""Encoders of ten architectures: which layers they have, what their heads are, how long a text they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    NomicBertConfig,
    PretrainedConfig,
    RobertaConfig,
    T5Config,
)

from clkit.errors import ModelError
from clkit.models.adapters import add_adapter
from clkit.models.families.classifier import Classifier
from clkit.models.families.encoder import Encoder
from clkit.models.families.masked_tokens import MaskedTokens
from clkit.models.family import Family, LabelsOfTasks
from clkit.models.layers import select_layers
from clkit.models.loading import load_model
from clkit.models.magnitudes import MagnitudeCollector
from clkit.models.objective import Classification, Pretraining, TextToText
from clkit.models.registry import family_of
from clkit.models.sections import FullTuning, LoraTuning, ModelSection
from clkit.models.weights import Weights

LAYERS = 2
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
SHARED = SIZES | {"num_hidden_layers": 3 * LAYERS}  # each layer stands for three
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
CONFIGS: dict[str, PretrainedConfig] = {
    "roberta": RobertaConfig(vocab_size=40, max_position_embeddings=66, **SIZES),
    "bert": BertConfig(vocab_size=40, max_position_embeddings=64, **SIZES),
    "distilbert": DistilBertConfig(
        vocab_size=40, max_position_embeddings=64, dim=16, hidden_dim=24, n_layers=LAYERS, n_heads=2
    ),
    "modernbert": ModernBertConfig(vocab_size=40, **SIZES, **ENDS),
    "electra": ElectraConfig(vocab_size=40, max_position_embeddings=64, embedding_size=8, **SIZES),
    "deberta": DebertaV2Config(vocab_size=40, max_position_embeddings=64, relative_attention=True, **SIZES),
    "deberta_v3": DebertaV2Config(
        vocab_size=40,
        max_position_embeddings=64,
        relative_attention=True,
        position_buckets=5,
        pos_att_type="p2c|c2p",
        share_att_key=True,
        **SIZES,
    ),
    "albert": AlbertConfig(
        vocab_size=40, max_position_embeddings=64, embedding_size=8, num_hidden_groups=LAYERS, **SHARED
    ),
    "mpnet": MPNetConfig(vocab_size=40, max_position_embeddings=66, **SIZES),
    "nomic_bert": NomicBertConfig(vocab_size=40, max_position_embeddings=64, **SIZES),
}
SELF_ATTENTION = [*(f"attention.self.{name}" for name in ("query", "key", "value")), "attention.output.dense"]
PROJECTED = [*(f"attention.self.{name}_proj" for name in ("query", "key", "value")), "attention.output.dense"]
BERT_FEED_FORWARD = ["intermediate.dense", "output.dense"]
#: Where the layers of an architecture stand, and which in each play the two roles.
LAYOUT = {
    "roberta": ("roberta.encoder.layer", SELF_ATTENTION, BERT_FEED_FORWARD),
    "bert": ("bert.encoder.layer", SELF_ATTENTION, BERT_FEED_FORWARD),
    "distilbert": (
        "distilbert.transformer.layer",
        [f"attention.{name}_lin" for name in ("q", "k", "v", "out")],
        ["ffn.lin1", "ffn.lin2"],
    ),
    "modernbert": ("model.layers", ["attn.Wqkv", "attn.Wo"], ["mlp.Wi", "mlp.Wo"]),
    "electra": ("electra.encoder.layer", SELF_ATTENTION, BERT_FEED_FORWARD),
    "deberta": ("deberta.encoder.layer", PROJECTED, BERT_FEED_FORWARD),
    "deberta_v3": ("deberta.encoder.layer", PROJECTED, BERT_FEED_FORWARD),
    "albert": (
        "albert.encoder.albert_layer_groups",
        [f"albert_layers.0.attention.{name}" for name in ("query", "key", "value", "dense")],
        ["albert_layers.0.ffn", "albert_layers.0.ffn_output"],
    ),
    "mpnet": ("mpnet.encoder.layer", [f"attention.attn.{name}" for name in "qkvo"], BERT_FEED_FORWARD),
    "nomic_bert": (
        "nomic_bert.layers",
        [f"self_attn.{name}_proj" for name in "qkvo"],
        [f"mlp.{name}_proj" for name in ("gate", "up", "down")],
    ),
}
HEADS = {
    "roberta": (["classifier.dense", "classifier.out_proj"], ["lm_head.dense", "lm_head.decoder"]),
    "bert": (["bert.pooler.dense", "classifier"], ["cls.predictions.transform.dense", "cls.predictions.decoder"]),
    "distilbert": (["pre_classifier", "classifier"], ["vocab_transform", "vocab_projector"]),
    "modernbert": (["head.dense", "classifier"], ["head.dense", "decoder"]),
    "electra": (["classifier.dense", "classifier.out_proj"], ["generator_predictions.dense", "generator_lm_head"]),
    "deberta": (["pooler.dense", "classifier"], ["cls.predictions.transform.dense", "cls.predictions.decoder"]),
    "deberta_v3": (["pooler.dense", "classifier"], ["cls.predictions.transform.dense", "cls.predictions.decoder"]),
    "albert": (["albert.pooler", "classifier"], ["predictions.dense", "predictions.decoder"]),
    "mpnet": (["classifier.dense", "classifier.out_proj"], ["lm_head.dense", "lm_head.decoder"]),
    "nomic_bert": (
        ["nomic_bert.pooler.dense", "classifier"],
        ["cls.predictions.transform.dense", "cls.predictions.decoder"],
    ),
}
TRAINED_WHOLE = {
    "roberta": {"classifier"},
    "bert": {"classifier", "bert.pooler"},  # one that was trained for masked tokens has no pooler
    "distilbert": {"pre_classifier", "classifier"},
    "modernbert": {"head", "classifier"},
    "electra": {"classifier"},
    "deberta": {"pooler", "classifier"},
    "deberta_v3": {"pooler", "classifier"},
    "albert": {"albert.pooler", "classifier"},
    "mpnet": {"classifier"},
    "nomic_bert": {"nomic_bert.pooler", "classifier"},
}
CARRIERS = {
    "distilbert": ("q_lin", "v_lin"),
    "modernbert": ("Wqkv",),
    "deberta": ("query_proj", "value_proj"),
    "deberta_v3": ("query_proj", "value_proj"),
    "mpnet": ("q", "v"),
    "nomic_bert": ("q_proj", "v_proj"),
}
LABELS = {"a": ("yes", "no"), "b": ("no", "maybe")}
every_architecture = pytest.mark.parametrize("kind", CONFIGS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each architecture, as saved after pre-training on masked tokens; no tokenizer."""
    torch.manual_seed(0)
    made = {kind: tmp_path_factory.mktemp(kind) for kind in CONFIGS}
    for kind, folder in made.items():
        AutoModelForMaskedLM.from_config(CONFIGS[kind]).save_pretrained(folder)
    return made


def classifier(folder: Path, labels: LabelsOfTasks = LABELS) -> Family:
    tokenizer: Any = None  # which it does not need
    return Classifier.load(Weights(str(folder), {}), tokenizer, Classification(kind="classification"), labels)


def masked_tokens(folder: Path) -> Family:
    tokenizer: Any = None
    return MaskedTokens.load(Weights(str(folder), {}), tokenizer, Pretraining(kind="pretraining", block_tokens=32), {})


@every_architecture
def test_each_role_is_its_layers_and_no_others(kind: str, folders: dict[str, Path]) -> None:
    where, attention, feed_forward = LAYOUT[kind]
    of_labels, of_tokens = HEADS[kind]
    for loaded, head, role in (
        (classifier(folders[kind]), of_labels, "head"),
        (masked_tokens(folders[kind]), of_tokens, "lm_head"),
    ):
        for name, endings in (("attention", attention), ("feed_forward", feed_forward)):
            expected = {f"{where}.{index}.{ending}" for index in range(LAYERS) for ending in endings}
            assert set(select_layers(loaded, [name])) == expected
        assert set(select_layers(loaded, [role])) == set(head)


@every_architecture
def test_a_saved_stage_trains_the_same_parts_as_the_model_that_it_began_with(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    first = classifier(folders[kind])
    assert set(first.trained_whole) == TRAINED_WHOLE[kind]
    first.model.save_pretrained(tmp_path / "stage")
    assert classifier(tmp_path / "stage").trained_whole == first.trained_whole
    other = classifier(tmp_path / "stage", {"a": ("one", "two")})
    pooler = f"{first.model.base_model_prefix}.pooler"
    assert set(other.trained_whole) == TRAINED_WHOLE[kind] - {pooler}  # pre-trained, seen from here


def test_layers_of_a_head_are_those_that_are_used_and_carry_no_adapter(folders: dict[str, Path]) -> None:
    loaded = classifier(folders["roberta"])
    with pytest.raises(ModelError, match=r"tuning.targets: 'out_proj' names no linear layer of this model outside its"):
        add_adapter(loaded, LoraTuning(method="lora", targets=["out_proj"]))
    add_adapter(loaded, LoraTuning(method="lora"))
    trained = "classifier.modules_to_save.default"
    assert set(select_layers(loaded, ["head"])) == {f"{trained}.dense", f"{trained}.out_proj"}


@every_architecture
def test_query_and_value_carry_the_adapters_and_the_new_head_is_trained_whole(
    kind: str, folders: dict[str, Path]
) -> None:
    loaded = classifier(folders[kind])
    assert set(loaded.trained_whole) == TRAINED_WHOLE[kind]
    add_adapter(loaded, LoraTuning(method="lora", rank=2))
    trained = [name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad]
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in trained if ".lora_" in name}
    assert adapted == set(CARRIERS.get(kind, ("query", "value")))
    whole = {name.removeprefix("base_model.model.").split(".modules_to_save.")[0] for name in trained} - {
        name.removeprefix("base_model.model.") for name in trained
    }
    assert whole == TRAINED_WHOLE[kind]


@every_architecture
def test_a_head_that_was_pre_trained_stays_as_it_is_beside_adapters(kind: str, folders: dict[str, Path]) -> None:
    loaded = masked_tokens(folders[kind])
    assert (loaded.trained_whole, loaded.remarks) == ((), ())
    add_adapter(loaded, LoraTuning(method="lora", rank=2))
    assert all(".lora_" in name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad)


@every_architecture
def test_magnitudes_of_every_layer_of_a_classifier_leave_out_padding(kind: str, folders: dict[str, Path]) -> None:
    """The head's layers see one position per text; what stands on the padding changes no layer's sum."""
    loaded = classifier(folders[kind])
    loaded.model.eval()
    layers = select_layers(loaded, ["attention", "feed_forward", "head"])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    sums = []
    for filler in (5, 9):
        ids = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, filler, filler]])
        batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([[0], [1]])}
        collector = MagnitudeCollector(layers, loaded.token_mask, loaded.reads_tokens)
        with torch.no_grad(), collector.collecting(batch):
            loaded.model(input_ids=ids, attention_mask=mask)
        sums.append(collector.take())
        collector.remove()
    assert sums[0].keys() == set(layers)
    for name, one in sums[0].items():
        torch.testing.assert_close(one, sums[1][name], rtol=1e-5, atol=1e-6)
        assert one.sum() > 0


def test_padding_stands_on_the_right_whatever_the_tokenizer_says(toy_roberta: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy_roberta, padding_side="left")
    no_model: Any = None
    family = MaskedTokens(no_model, tokenizer, Pretraining(kind="pretraining"))
    batch = family.pad([[40, 5, 1], [40, 5, 6, 7, 1]])
    assert batch["input_ids"].tolist() == [[40, 5, 1, 0, 0], [40, 5, 6, 7, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


@every_architecture
def test_every_architecture_is_an_encoder_and_its_objectives_are_two(kind: str) -> None:
    assert family_of(CONFIGS[kind], Pretraining(kind="pretraining")) is MaskedTokens
    assert family_of(CONFIGS[kind], Classification(kind="classification")) is Classifier


def test_other_families_are_no_encoders() -> None:
    assert not Encoder.recognises(T5Config())
    assert not Encoder.recognises(LlamaConfig())
    assert not Encoder.recognises(BertConfig(is_decoder=True))


def test_text_to_text_is_refused_with_what_is_supported(toy_roberta: Path) -> None:
    with pytest.raises(ModelError) as refused:
        load_model(ModelSection(name=str(toy_roberta)), FullTuning(), objective=TextToText())
    assert str(refused.value) == (
        f"model.name: the folder {toy_roberta}: encoder models such as this 'roberta' do not support objective.kind: "
        "text_to_text; use one of: classification, pretraining"
    )

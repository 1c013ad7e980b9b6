"""Writes docs/architectures.md: `python -m tools.make_architectures`.

What is said there is read off random models of each architecture, loaded as a recipe's model is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import CONFIG_MAPPING, AutoTokenizer, PretrainedConfig, T5GemmaConfig
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

from clkit.errors import ModelError
from clkit.models.embedded import embedded_model_folder
from clkit.models.layers import ranked_layers, row_sites, select_ranked
from clkit.models.loading import load_model
from clkit.models.objective import Classification, Objective, Pretraining, TextToText
from clkit.models.registry import family_of
from clkit.models.sections import FullTuning, LoraTuning, ModelSection

FILE = Path(__file__).parents[1] / "docs" / "architectures.md"
IDS = {"vocab_size": 1440, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1400}
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 8}
EXPERTS = GROUPED | {
    **dict.fromkeys(("num_experts", "num_local_experts"), 4),
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2}
ENCODER = SIZES | {"max_position_embeddings": 64, "cls_token_id": 1400, "sep_token_id": 1}
EMBEDDED = ENCODER | {"embedding_size": 8}
RELATIVE = {"relative_attention": True, "position_buckets": 5, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
HALF = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
#: What is called so, its type, and the sizes of a small one.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "T5": ("t5", T5),
    "mT5, umT5": ("umt5", T5),
    "T5Gemma": ("t5gemma", GROUPED),
    "BART": ("bart", {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "decoder_start_token_id": 1, **HALF}),
    "Llama, SmolLM2": ("llama", GROUPED),
    "SmolLM3": ("smollm3", GROUPED),
    "Mistral": ("mistral", GROUPED),
    "Qwen2": ("qwen2", GROUPED),
    "Qwen3": ("qwen3", GROUPED),
    "Gemma 2": ("gemma2", GROUPED),
    "Gemma 3": ("gemma3_text", GROUPED),
    "Phi-3, Phi-4": ("phi3", GROUPED),
    "OLMo 2": ("olmo2", GROUPED),
    "GPT-2": ("gpt2", GPT),
    "GPT-NeoX, Pythia": ("gpt_neox", SIZES),
    "Falcon": ("falcon", SIZES),
    "Mixtral": ("mixtral", EXPERTS),
    "Qwen3-MoE": ("qwen3_moe", EXPERTS),
    "BERT": ("bert", ENCODER),
    "RoBERTa": ("roberta", ENCODER),
    "XLM-R": ("xlm-roberta", ENCODER),
    "DistilBERT": ("distilbert", {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2}),
    "ELECTRA": ("electra", EMBEDDED),
    "ALBERT": ("albert", EMBEDDED),
    "MPNet": ("mpnet", ENCODER),
    "DeBERTa-v2, -v3": ("deberta-v2", ENCODER | RELATIVE),
    "ModernBERT": ("modernbert", ENCODER),
    "NomicBERT": ("nomic_bert", ENCODER),
    "EuroBERT": ("eurobert", ENCODER | {"num_key_value_heads": 1, "mask_token_id": 1401}),
}
OBJECTIVES = (TextToText(), Classification(kind="classification"), Pretraining(kind="pretraining"))
LABELS = {"a": ("no", "yes")}
_INTRO = """\
# Architectures

What clkit does with models of each type, written by `python -m tools.make_architectures` from small random ones. Every
tuning and every objective that is named is supported; `lora` tells the layers that carry an adapter unless
`tuning.targets` names others. The last columns are the layers whose rows MIGU masks, of every block: all weights of the
attention and of the feed-forward network, and none else; `experts` are masked each by itself. A test takes a step of
each and compares the rows that move with magnitudes computed apart. Other types are loaded too; where a part of their
blocks is not recognised, MIGU says which and refuses it.

| models | objectives | `lora` | attention | feed-forward |
|---|---|---|---|---|
"""


def configuration(name: str) -> PretrainedConfig:
    """Of a small model of that architecture."""
    kind, sizes = ARCHITECTURES[name]
    if kind == "t5gemma":
        side = T5GemmaModuleConfig(**sizes, **IDS)
        return T5GemmaConfig(encoder=side, decoder=side, vocab_size=IDS["vocab_size"])
    return CONFIG_MAPPING[kind](**sizes, **IDS)


def write_configuration(name: str, folder: Path) -> None:
    """The configuration, and a tokenizer of one of the models that come with clkit."""
    config = configuration(name)
    config.save_pretrained(folder)
    decodes = config.is_encoder_decoder or family_of(config, Pretraining(kind="pretraining")).name == "decoder"
    own = "tiny-t5" if config.is_encoder_decoder else "tiny-llama" if decodes else "tiny-roberta"
    AutoTokenizer.from_pretrained(embedded_model_folder(own)).save_pretrained(folder)


def _cells(name: str) -> tuple[str, ...]:
    """What is said of an architecture."""
    with TemporaryDirectory() as folder:
        write_configuration(name, Path(folder))
        objectives = [one for one in OBJECTIVES if fits(configuration(name), one)]
        family, adapted = (
            load_model(ModelSection(name=folder), tuning, objective=objectives[0], labels=LABELS, shapes_only=True)
            for tuning in (FullTuning(), LoraTuning(method="lora"))
        )
    carriers = (site.layer for site in row_sites(ranked_layers(adapted.model)) if site.name.endswith(".lora_A"))
    layers = [select_ranked(family, [role], "layers") for role in ("attention", "feed_forward")]
    return ", ".join(one.kind for one in objectives), *map(_listed, [carriers, *layers])


def fits(config: PretrainedConfig, objective: Objective) -> bool:
    try:
        return type(config) in family_of(config, objective).auto_class._model_mapping
    except ModelError:
        return False


def _listed(names: Iterable[str]) -> str:
    """The names below their blocks, each once, those of an owner together: ``self_attn.q_proj, v_proj``."""
    owners: dict[str, dict[str, None]] = {}
    for name in names:
        owner, _, own = re.sub(r"^.*\.\d+\.", "", name).rpartition(".")
        owners.setdefault(owner, {})[own] = None
    return "; ".join(f"{owner}.{', '.join(own)}".removeprefix(".") for owner, own in owners.items())


def table() -> str:
    """The file's content; models of which the same is said share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in ARCHITECTURES:
        rows.setdefault(_cells(name), []).append(name)
    return _INTRO + "".join(f"| {', '.join(names)} | {' | '.join(cells)} |\n" for cells, names in rows.items())


if __name__ == "__main__":
    FILE.write_text(table(), encoding="utf-8")

"""Mixtures of experts and hybrids: what is covered of them is said in numbers, and a part left out is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from clkit.engine.prepare import prepare
from clkit.errors import ModelError, UsageError
from clkit.models.families.seq2seq import Seq2Seq
from clkit.models.family import Family
from clkit.models.groups import coverage
from clkit.models.loading import load_model
from clkit.models.objective import TextToText
from clkit.models.sections import AdapterTuning, FullTuning, IncrementalLoraTuning, LoraTuning, ModelSection
from clkit.strategies.builtin.migu import MIGU, MIGUOptions
from clkit.strategies.builtin.osf import OSF, OSFOptions
from clkit.strategies.contract import Strategy
from tests.toy import toy_recipe, write_task

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "num_local_experts": 4, "moe_intermediate_size": 8}
QWEN = SIZES | EXPERTS | {"num_key_value_heads": 1, "shared_expert_intermediate_size": 16, "eos_token_id": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_moe": QWEN,
    "mixtral": SIZES | EXPERTS | {"num_key_value_heads": 1},
    "lfm2": SIZES | {"num_key_value_heads": 1, "layer_types": ["conv", "full_attention"]},
    "granitemoeshared": QWEN | {"shared_intermediate_size": 16},
}

Load = Callable[..., Family]


@pytest.fixture
def load(toy_llama: Path, tmp_path: Path) -> Load:
    """Loads a random model of a type."""

    def made(kind: str, tuning: Any = None) -> Family:
        return load_model(ModelSection(name=str(write(kind, tmp_path / kind, toy_llama))), tuning or FullTuning())

    return made


def write(kind: str, folder: Path, toy_llama: Path) -> Path:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](vocab_size=41, bos_token_id=40, pad_token_id=0, **CONFIGS[kind])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(toy_llama).save_pretrained(folder)
    return folder


def migu(**options: Any) -> Strategy:
    return MIGU(MIGUOptions(name="migu", **options))


def osf(**options: Any) -> Strategy:
    return OSF(OSFOptions(name="osf", **options))


@pytest.mark.parametrize(
    ("kind", "strategy", "left_out"),
    [
        ("qwen2_moe", osf, "mlp.experts.gate_up_proj"),
        ("granitemoeshared", osf, "block_sparse_moe"),
        ("lfm2", osf, "conv.in_proj"),
        ("lfm2", migu, "conv.in_proj"),
    ],
)
def test_a_part_of_attention_or_feed_forward_that_is_left_out_is_refused(
    load: Load, strategy: Callable[..., Strategy], kind: str, left_out: str
) -> None:
    family, name = load(kind), strategy().name
    with pytest.raises(Exception, match=rf"strategies\.{name}\.layers: .*{left_out}.* set strategies\.{name}\.partial"):
        strategy().check(family, 2)
    strategy(partial=True).check(family, 2)
    strategy(layers=["attention"]).check(family, 2)  # which says nothing of the rest


@pytest.mark.parametrize("strategy", [partial(migu, count_padding=True), osf], ids=["migu", "osf"])
def test_a_router_is_no_part_that_is_left_out_however_small_the_experts(
    toy_t5: Path, strategy: Callable[..., Strategy]
) -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_experts": 4, "decoder_start_token_id": 0}
    sparse = {f"num_{part}layers": 1 for part in ("", "decoder_", "sparse_encoder_", "sparse_decoder_")}
    config = CONFIG_MAPPING["switch_transformers"](vocab_size=50, **sizes, **sparse)
    family = Seq2Seq(AutoModelForSeq2SeqLM.from_config(config), AutoTokenizer.from_pretrained(toy_t5), TextToText())
    strategy().check(family, 2)
    names, _ = coverage(family, []).left_out(["attention", "feed_forward"])  # the control: all the others are missed
    assert any("expert" in name for name in names)
    assert any("router" in name for name, _ in family.model.named_parameters())
    assert not any("router" in name for name in names)


def test_layers_that_no_role_knows_are_taken_in_by_name(load: Load) -> None:
    family = load("lfm2")
    migu(layers=["attention", "feed_forward", "in_proj", "out_proj"]).check(family, 2)  # only the kernel is left


def test_experts_that_are_no_linear_layer_are_named(load: Load) -> None:
    with pytest.raises(ModelError, match=r"'feed_forward' \('model\.layers\.0\.mlp\.experts\.gate_up_proj' is none\)"):
        osf().check(load("mixtral"), 2)


def test_the_share_covered_is_that_of_the_layers_chosen(load: Load) -> None:
    family = load("qwen2_moe")
    sizes = {name: parameter.numel() for name, parameter in family.model.named_parameters()}

    def total(pattern: str) -> int:
        return sum(size for name, size in sizes.items() if re.search(pattern, name))

    shared, whole = total(r"shared_expert\."), total(r"shared_expert\.|experts\.")
    covered = (total("self_attn") + shared) / total("")
    (said, *_) = migu(layers=["attention", "*shared_expert.*"]).remarks(family, 2)
    assert said.startswith(f"masks rows in {covered:.0%} of the trained weights (")
    assert f"feed_forward {shared / whole:.0%}" in said
    assert "attention 100%" in said
    assert "embeddings 0%" in said
    (said, *rows) = migu().remarks(family, 2)
    assert "feed_forward 100%" in said
    assert "masks 11 of 16 rows of each expert in use in 4 weights" in rows


@pytest.mark.parametrize(
    "tuning", [LoraTuning(method="lora"), IncrementalLoraTuning(method="incremental_lora")], ids=["lora", "incremental"]
)
def test_a_target_that_fits_single_layers_beside_fused_experts_is_refused(load: Load, tuning: AdapterTuning) -> None:
    for target in ("down_proj", "up_proj"):
        with pytest.raises(ModelError, match=rf"^tuning\.targets: '{target}' fits .*: 'shared_expert\.{target}'$"):
            load("qwen2_moe", tuning.model_copy(update={"targets": [target]}))
    family = load("qwen2_moe", tuning.model_copy(update={"targets": ["shared_expert.down_proj", "q_proj"]}))
    trained = {name.split(".lora_")[0] for name, one in family.model.named_parameters() if one.requires_grad}
    assert {name.split("layers.")[1] for name in trained} == {
        f"{layer}.{part}" for layer in (0, 1) for part in ("mlp.shared_expert.down_proj", "self_attn.q_proj")
    }


# --- what the plan says of strategies ------------------------------------------------------------------------------


def remarks(tmp_path: Path, model: Path, strategy: dict[str, Any], **changes: Any) -> list[str]:
    plan = prepare(toy_recipe(tmp_path, model, strategies=[strategy], **changes)).plan()
    assert plan.memory == {} or len(plan.tasks) > 1
    return [remark for remark in plan.remarks if remark.startswith(strategy["name"])]


def test_rows_are_said_per_shape(tmp_path: Path, toy_t5: Path) -> None:
    lora = {"method": "lora", "rank": 8, "targets": ["q", "wo"]}
    said = remarks(tmp_path, toy_t5, {"name": "migu", "threshold": 0.1}, tuning=lora)
    assert said[:3] == [
        "migu: masks rows in 100% of the trained weights (attention 100%, feed_forward 100%)",
        "migu: masks none of 8 rows, too few for this threshold, in 10 weights",  # every A
        "migu: masks 1 of 16 rows in 10 weights",
    ]
    with pytest.raises(UsageError, match="nothing would be masked"):
        remarks(tmp_path, toy_t5, {"name": "migu", "threshold": 0.05}, tuning=lora)


@pytest.mark.parametrize(
    ("name", "tuning", "why"),
    [
        ("replay", "full", "no earlier task to replay"),
        ("ewc", "full", "no earlier task to protect"),
        ("lwf", "full", "no earlier task whose answers could be kept"),
        ("migu", "full", "no task follows the first"),
        ("osf", "full", "no task follows the first"),
        ("olora", "incremental_lora", "no earlier task to be orthogonal to"),
    ],
)
def test_a_strategy_that_one_task_gives_nothing_to_do_says_so(
    tmp_path: Path, toy_t5: Path, name: str, tuning: str, why: str
) -> None:
    alone = {"tasks": [write_task(tmp_path, "first")], "tuning": {"method": tuning}}
    (said,) = remarks(tmp_path, toy_t5, {"name": name}, **alone)
    assert why in said
    assert "changes nothing" in said
    two = remarks(tmp_path, toy_t5, {"name": name}, tuning={"method": tuning})
    assert not any("changes nothing" in one for one in two)


def test_olora_without_weights_says_so(tmp_path: Path, toy_t5: Path) -> None:
    zero = {"name": "olora", "lambda1": 0.0}
    said = remarks(tmp_path, toy_t5, zero, tuning={"method": "incremental_lora"})
    assert said == ["olora: λ1 and λ2 are 0 on every task, so it changes nothing"]
    zero["per_task"] = {"second": {"lambda1": 0.5}}
    assert remarks(tmp_path, toy_t5, zero, tuning={"method": "incremental_lora"}) == []

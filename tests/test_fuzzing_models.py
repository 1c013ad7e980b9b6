"""Mixtures of experts and short tables of positions, drawn: refused before anything is done, or trained as is said.

As in `tests/test_fuzzing.py`, `CLKIT_FUZZING=200 python -m pytest tests/test_fuzzing_models.py` looks for new ones.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from clkit.models.groups import ROUTER
from tests.test_fuzzing import clkit, empty_folder, fuzzing

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "topk_group": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 8,
    "num_key_value_heads": 1,
}
SWITCH = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
#: Mixtures of experts and hybrids, by their type.
MIXTURES = (
    *("qwen2_moe", "qwen3_moe", "mixtral", "olmoe", "granitemoe", "granitemoeshared", "gpt_oss", "deepseek_v2"),
    *("phimoe", "ernie4_5_moe", "glm4_moe", "hunyuan_v1_moe", "minimax", "flex_olmo", "jetmoe", "llama4_text"),
    *("lfm2", "nemotron_h", "switch_transformers"),
)
HALF = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "decoder_start_token_id": 1, **HALF}
OPT = {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 16}
GPT = {"n_embd": 16, "n_layer": 1, "n_head": 2}
#: Models with a table of positions: the toy whose tokenizer they have, and their sizes.
TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("flat_llama", GPT),
    "gptj": ("flat_llama", {**GPT, "rotary_dim": 4}),
    "opt": ("flat_llama", OPT),
    "bart": ("flat_t5", BART),
    "pegasus": ("flat_t5", BART),
    "bert": ("toy_roberta", SIZES),
    "roberta": ("toy_roberta", SIZES),
}
AUTO = {"flat_llama": AutoModelForCausalLM, "flat_t5": AutoModelForSeq2SeqLM, "toy_roberta": AutoModelForMaskedLM}
STRATEGIES: list[dict[str, Any]] = [
    *({"name": name} for name in ("ewc", "replay", "lwf", "olora")),
    *({"name": name, "partial": partial} for name in ("migu", "osf") for partial in (False, True)),
    *({"name": "migu", "mask": "update", "threshold": 0.9, "layers": layers} for layers in (["attention"], ["*"])),
    {"name": "migu", "mask": "update", "threshold": 0.9},
    {"name": "migu", "source": "random", "partial": True},
]


def write_model(kind: str, auto: Any, values: dict[str, Any], tokenizer: Path) -> None:
    """A random model in `model/`, with a toy's tokenizer."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](vocab_size=45, pad_token_id=0, eos_token_id=1, bos_token_id=40, **values)
    auto.from_config(config).save_pretrained("model")
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained("model")


def write_tasks(lengths: tuple[int, int], labels: tuple[str, str], **entry: Any) -> list[dict[str, Any]]:
    """Two tasks of four rows with texts of these lengths in words; their entries in the recipe."""
    tasks = []
    for name in ("a", "b"):
        for split, length in zip(("train", "test"), lengths, strict=True):
            rows = [{"text": " ".join(["w1"] * length), "label": labels[index % 2]} for index in range(4)]
            Path(f"{name}-{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        source = {"kind": "files", "train": f"{name}-train.jsonl", "test": f"{name}-test.jsonl"}
        tasks.append({"name": name, "source": source, "instruction": "w2", "options": False, **entry})
    return tasks


def trains_or_is_refused(recipe: dict[str, Any]) -> bool:
    """Whether the recipe in hand trains: as a dry run says, before anything is written, and otherwise to its end."""
    Path("my.yaml").write_text(json.dumps(recipe), "utf-8")
    planned = clkit("train", "my.yaml", "--run", "run", "--dry-run")
    code = clkit("train", "my.yaml", "--run", "run")  # an error after the first step would not be the only line
    assert code == planned
    assert Path("run").exists() is (code == 0)
    event("trained" if code == 0 else "refused")
    if code:
        return False
    assert clkit("doctor", "run") == 0
    assert len(Path("run/tasks/02-b/predictions.jsonl").read_text("utf-8").splitlines()) == 8
    return True


@cache
def toy_names() -> re.Pattern[str]:
    """Parameters that no strategy is asked to guard where it guards attention and feed-forward."""
    return re.compile(rf"{ROUTER}|embed|shared\.weight|norm|lm_head|relative_attention_bias")


@given(data=st.data())
@fuzzing(4)
def test_mixtures_of_experts(flat_llama: Path, flat_t5: Path, data: st.DataObject) -> None:
    kind, strategy = data.draw(st.sampled_from(MIXTURES)), dict(data.draw(st.sampled_from(STRATEGIES)))
    methods = ["incremental_lora"] if strategy["name"] == "olora" else ["full", "full", "lora"]
    tuning: dict[str, Any] = {"method": data.draw(st.sampled_from(methods))}
    if tuning["method"] != "full":
        tuning |= {
            "rank": 2,
            "layers": data.draw(st.sampled_from([["attention"], ["attention", "feed_forward"], ["*"]])),
        }
    with empty_folder():
        if kind == "switch_transformers":
            sparse = {f"num_{part}layers": 1 for part in ("decoder_", "sparse_encoder_", "sparse_decoder_")}
            write_model(kind, AutoModelForSeq2SeqLM, SWITCH | sparse | {"num_experts": 4}, flat_t5)
        else:
            write_model(kind, AutoModelForCausalLM, SIZES | EXPERTS, flat_llama)
        recipe = {
            "name": "x",
            "model": {"name": "./model"},
            "tasks": write_tasks((5, 5), ("w3", "w4")),
            "tuning": tuning,
            "strategies": [strategy],
            "training": {"batch_size": 4, "learning_rate": 1e-2, "epochs": 1.0},
        }
        trained = trains_or_is_refused(recipe)
        if trained and strategy.get("mask") == "update" and tuning["method"] == "full" and "layers" not in strategy:
            before, after = (load_file(f"run/tasks/{stage}/model/model.safetensors") for stage in ("01-a", "02-b"))
            for name in (name for name in before if before[name].ndim > 1 and not toy_names().search(name)):
                along = 1 if kind == "gpt_oss" and before[name].ndim == 3 else -1
                moved = before[name] != after[name]
                if not name.endswith("bias"):  # of experts: a row for each of them
                    moved = moved.any(along)
                # Of experts, gate and up are one weight in the model, whose rows are chosen together.
                rows = moved.shape[-1] * (2 if re.search(r"experts\.\d+\.(gate_proj|up_proj|w1|w3)\b", name) else 1)
                assert (moved.sum(-1) <= rows - int(0.9 * rows)).all(), name  # in task 2's step


@given(data=st.data())
@fuzzing(6)
def test_short_tables_of_positions(request: pytest.FixtureRequest, data: st.DataObject) -> None:
    draw = data.draw
    kind = draw(st.sampled_from(sorted(TABLES)))
    toy, sizes = TABLES[kind]
    objectives = ["text_to_text", "pretraining"] if toy != "toy_roberta" else ["classification", "pretraining"]
    objective: dict[str, Any] = {"kind": draw(st.sampled_from(objectives))}
    held = draw(st.integers(20, 48))
    lengths = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    long = " ".join(["w5"] * draw(st.integers(1, 30)))
    recipe: dict[str, Any] = {
        "name": "x",
        "model": {"name": "./model"},
        "objective": objective,
        "prompt": {"max_tokens": draw(st.integers(16, 60))},
        "training": {"batch_size": 4, "epochs": 1.0},
    }
    entry: dict[str, Any] = {}
    if objective["kind"] == "pretraining":
        objective["block_tokens"] = draw(st.integers(16, 60))
        if toy == "flat_t5":
            objective["span_length"] = 3.0
    elif toy != "toy_roberta":
        entry = {"answers": draw(st.sampled_from(["labels", "free"]))}
        recipe["evaluation"] = (
            {"answer": draw(st.sampled_from(["generate", "rank"]))}
            if entry == {"answers": "labels"}
            else {"max_new_tokens": draw(st.integers(1, 40))}
        )
    with empty_folder():
        size = "n_positions" if sizes is GPT or kind == "gptj" else "max_position_embeddings"
        write_model(kind, AUTO[toy], {**sizes, size: held}, request.getfixturevalue(toy))
        recipe["tasks"] = write_tasks(lengths, ("w3", long), **entry)
        trains_or_is_refused(recipe)

"""Packed examples give the logits, loss, gradients and magnitudes that they give in rows of their own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, BloomConfig, MambaConfig, PreTrainedConfig

from clkit.engine.prepare import prepare
from clkit.engine.sequence import train
from clkit.errors import UsageError
from clkit.models.examples import encode
from clkit.models.families.decoder import Decoder
from clkit.models.family import IGNORED, TOKENS
from clkit.models.layers import linear_layers
from clkit.models.magnitudes import MagnitudeCollector
from clkit.models.objective import TextToText
from clkit.models.packed import forward_inputs, packing, refuse_unpackable, rows_of
from tests.toy import toy_recipe

SMALL = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
#: With windows shorter than a row, which are counted within an example.
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 4},
    "gemma3_text": {"sliding_window": 4},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
}


def family(config: PreTrainedConfig, tokenizer: Any, attention: str = "sdpa") -> Decoder:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():  # else a random model hardly cares what it has read
        for parameter in model.parameters():
            parameter.mul_(4)
    return Decoder(model, tokenizer, TextToText(kind="text_to_text"))


def examples(count: int = 7) -> list[dict[str, list[int]]]:
    draw = random.Random(2)
    rows = []
    for length in [draw.randrange(2, 8) for _ in range(count - 1)] + [15]:
        ids = [draw.randrange(3, 50) for _ in range(length)]
        rows.append(
            {"input_ids": ids, "labels": [IGNORED, *(draw.choice([IGNORED, one]) for one in ids[1:-1]), ids[-1]]}
        )
    return rows


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_every_example_has_a_place_and_no_two_rows_could_be_one(lengths: list[int]) -> None:
    rows = rows_of(lengths)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    taken = sorted(sum(lengths[index] for index in row) for row in rows)
    assert taken[-1] <= max(lengths)
    assert len(taken) < 2 or taken[0] + taken[1] > max(lengths)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_examples_are_read_as_each_by_itself(kind: str, attention: str, toy_llama: Path) -> None:
    config = CONFIG_MAPPING[kind](**{**SMALL, **KINDS[kind]})
    loaded = family(config, AutoTokenizer.from_pretrained(toy_llama), attention)
    refuse_unpackable(loaded, try_it=True)
    layers = linear_layers(loaded.model)
    watched = {name: layers[name] for name in layers if "lm_head" not in name}
    found = []
    for collate in (loaded.collator(), packing(loaded.collator())):
        batch = collate(examples())
        collector = MagnitudeCollector(watched, loaded.token_mask, loaded.reads_tokens)
        with collector.collecting(batch):
            outputs = loaded.model(**forward_inputs(batch))
        collector.remove()
        labels = batch["labels"]
        logits = loaded.logits(outputs, labels)[labels != IGNORED]
        due = labels[labels != IGNORED]
        torch.nn.functional.cross_entropy(logits, due).backward()
        order = sorted(range(len(due)), key=lambda at: (int(due[at]), *logits[at].tolist()))
        gradients = {name: one.grad.clone() for name, one in loaded.model.named_parameters() if one.grad is not None}
        loaded.model.zero_grad()
        found.append((batch, logits[order], gradients, collector.take()))
    (alone, *values), (packed, *others) = found
    assert len(packed["input_ids"]) < len(alone["input_ids"])
    assert packed["input_ids"].shape[1] == alone["input_ids"].shape[1]
    assert packed[TOKENS].sum() == alone["attention_mask"].sum()
    torch.testing.assert_close(others, values, rtol=1e-4, atol=1e-5)


def test_examples_without_positions_of_their_own_see_each_other(toy_llama: Path) -> None:
    """The control of the test above."""
    loaded = family(CONFIG_MAPPING["llama"](**SMALL), AutoTokenizer.from_pretrained(toy_llama))
    right, wrong = (packing(loaded.collator(), restart=restart)(examples()) for restart in (True, False))
    first, second = (loaded.model(**forward_inputs(batch)).logits for batch in (right, wrong))
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, state_size=4), "mamba"),
        (BloomConfig(vocab_size=60, hidden_size=16, n_layer=1, n_head=2), "bloom"),
        (CONFIG_MAPPING["lfm2"](**SMALL, layer_types=["conv", "full_attention"]), r"lfm2\) have layers that look past"),
    ],
)
def test_models_that_mix_examples_are_refused(config: PreTrainedConfig, reason: str, toy_llama: Path) -> None:
    loaded = family(config, AutoTokenizer.from_pretrained(toy_llama), "eager")
    with pytest.raises(UsageError, match=rf"^training\.packing: decoder models such as this one \({reason}"):
        refuse_unpackable(loaded, try_it=True)


def test_other_families_are_refused_before_anything_is_trained(tmp_path: Path, toy_t5: Path) -> None:
    with pytest.raises(UsageError, match=r"^training\.packing: seq2seq models .* read one example a row; set it to"):
        prepare(toy_recipe(tmp_path, toy_t5, training={"packing": True}))


STRATEGIES: dict[str, list[dict[str, Any]]] = {
    "migu": [{"name": "migu", "threshold": 0.5}],
    "lwf": [{"name": "lwf"}],
    "ewc": [{"name": "ewc", "ewc_lambda": 10.0}],
    "replay": [{"name": "replay", "share": 0.5}],
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_learns_the_same_and_remembers_the_same(name: str, tmp_path: Path, toy_llama: Path) -> None:
    def weights(packing: bool) -> dict[str, torch.Tensor]:
        training = {"packing": packing, "epochs": 1.0, "learning_rate": 1e-3, "micro_batch_size": 4, "optimizer": "sgd"}
        recipe = toy_recipe(tmp_path, toy_llama, training=training, strategies=STRATEGIES[name])
        run = train(recipe, tmp_path / str(packing))
        return load_file(run.stages()[-1].folder / "model" / "model.safetensors")

    alone, packed = weights(False), weights(True)
    start = load_file(toy_llama / "model.safetensors")
    assert any(not torch.equal(alone[key], start[key]) for key in alone)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"packing": True, "compile": True}}, "is not tried with compile; use one of the two"),
        ({"training": {"packing": True}, "objective": {"kind": "classification"}}, "a classifier reads one text a row"),
    ],
)
def test_what_it_does_not_go_with_is_refused_with_the_recipe(
    changes: dict[str, Any], message: str, tmp_path: Path, toy_llama: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        toy_recipe(tmp_path, toy_llama, **changes)


def test_the_plan_tells_what_is_spared(tmp_path: Path, toy_llama: Path) -> None:
    prepared = prepare(toy_recipe(tmp_path, toy_llama, training={"packing": True}))
    rows = encode(prepared.family, prepared.examples(prepared.stages[0])).to_list()
    collate = prepared.family.collator()
    made = {}
    for name, one in (("alone", collate), ("packed", packing(collate))):
        batches = [one(rows[start : start + 8]) for start in range(0, len(rows), 8)]
        made[name] = 1 - sum(len(row["input_ids"]) for row in rows) / sum(
            len(b["input_ids"].flatten()) for b in batches
        )
    assert made["packed"] < made["alone"]
    (remark,) = [remark for remark in prepared.plan().remarks if remark.startswith("training.packing: ")]
    assert remark == (
        f"training.packing: {made['packed']:.0%} of a batch's positions are padding, where {made['alone']:.0%} would be"
    )

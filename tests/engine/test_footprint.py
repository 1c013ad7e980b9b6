"""What a step takes by the formula is what autograd is seen to keep, and what it says to change makes it fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from clkit.engine.activations import Activations
from clkit.engine.devices import Device
from clkit.engine.fit import fit
from clkit.engine.footprint import Taken
from clkit.engine.prepare import prepare
from clkit.errors import UsageError
from clkit.events import Listener
from clkit.models.adapters import add_adapter
from clkit.models.embedded import embedded_model_folder
from clkit.models.examples import encode
from clkit.models.families.decoder import Decoder
from clkit.models.families.masked_tokens import MaskedTokens
from clkit.models.families.seq2seq import Seq2Seq
from clkit.models.family import IGNORED, Family
from clkit.models.objective import Pretraining, TextToText
from clkit.models.shapes import Batch
from clkit.recipe.recipe import Recipe
from clkit.training.row_adamw import RowAdamW
from tests.toy import toy_recipe

WORDS = 50
CPU = Device("a CPU", 1, 1_000_000_000, fused=False)
_BLOCKS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": WORDS}
_GROUPED = {**_BLOCKS, "num_key_value_heads": 2, "intermediate_size": 192}


def _decoder(model: Any) -> Family:
    return Decoder(model, None, TextToText())  # type: ignore[arg-type]


def _encoder(model: Any) -> Family:
    return MaskedTokens(model, None, Pretraining(kind="pretraining"))  # type: ignore[arg-type]


def _t5(feed_forward: str, dropout: float) -> Family:
    config = T5Config(
        vocab_size=WORDS,
        d_model=64,
        d_kv=16,
        num_heads=4,
        d_ff=192,
        num_layers=2,
        feed_forward_proj=feed_forward,
        dropout_rate=dropout,
        decoder_start_token_id=0,
    )
    return Seq2Seq(T5ForConditionalGeneration(config), None, TextToText())  # type: ignore[arg-type]


MODELS: dict[str, Callable[[], Family]] = {
    "llama": lambda: _decoder(LlamaForCausalLM(LlamaConfig(**_GROUPED))),
    "llama, eager": lambda: _decoder(LlamaForCausalLM(LlamaConfig(**_GROUPED, attn_implementation="eager"))),
    "qwen3": lambda: _decoder(Qwen3ForCausalLM(Qwen3Config(**_GROUPED, head_dim=16))),
    "gpt2": lambda: _decoder(GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=64, n_layer=2, n_head=4))),
    "bert": lambda: _encoder(BertForMaskedLM(BertConfig(**_BLOCKS, intermediate_size=256))),
    "modernbert": lambda: _encoder(
        ModernBertForMaskedLM(ModernBertConfig(**_BLOCKS, intermediate_size=96, pad_token_id=0))
    ),
    "t5": lambda: _t5("relu", 0.1),
    "t5, gated": lambda: _t5("gated-gelu", 0.0),
}
TUNINGS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora"},
    "all-linear": {"method": "lora", "targets": "all-linear", "dropout": 0.0},
}


def recipe(**sections: Any) -> Recipe:
    values = {"name": "x", "model": {"name": "embedded:tiny-t5"}, "benchmark": {"name": "sample"}}
    return Recipe.model_validate({**values, **sections})


def kept(family: Family, batch: Batch, *, autocast: bool = False) -> int:
    """Bytes that autograd keeps of the blocks in a forward pass, the weights themselves left out."""
    weights = {one.untyped_storage().data_ptr() for one in family.model.parameters()}
    storages: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # so that no address is given twice
        return tensor

    held: list[torch.Tensor] = []
    ids = torch.randint(3, WORDS, (batch.examples, batch.tokens))
    further = {"decoder_input_ids": ids[:, : batch.answer]} if batch.answer else {}
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        family.model.train()(input_ids=ids, attention_mask=torch.ones_like(ids), **further)
    return sum(storages.values())


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("model", MODELS)
def test_activations_are_what_autograd_keeps(model: str, tuning: str) -> None:
    family = MODELS[model]()
    said = recipe(tuning=TUNINGS[tuning])
    if said.tuning.method != "full":
        add_adapter(family, said.tuning)
    batch = Batch(16, 48, 8 if family.name == "seq2seq" else 0, 0)
    found = Activations(family, CPU).of(said, batch)
    assert found == pytest.approx(kept(family, batch), rel=0.15)


@pytest.mark.parametrize("model", MODELS)
def test_numbers_of_a_written_out_activation_are_those_that_go_through_it(model: str) -> None:
    family = MODELS[model]()
    read: list[int] = []
    for part in family.model.modules():
        if type(part).__name__ == "NewGELUActivation":
            part.register_forward_hook(lambda part, inputs, given: read.append(inputs[0].numel()))
    batch = Batch(16, 48, 8 if family.name == "seq2seq" else 0, 0)
    kept(family, batch)
    assert Activations(family, CPU).written_out(batch) == sum(read)
    assert bool(read) is (model in {"gpt2", "t5, gated"})


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"tuning": {"method": "lora", "init": "olora"}},
        {"tuning": {"method": "incremental_lora"}, "strategies": [{"name": "olora"}]},
        {"strategies": [{"name": "ewc"}, {"name": "lwf"}]},
        {"model": {"name": "embedded:tiny-llama", "dtype": "bfloat16"}, "tuning": {"method": "lora"}},
        {"model": {"name": "embedded:tiny-roberta"}, "objective": {"kind": "classification"}},
    ],
)
def test_without_weights_the_plan_is_the_same(sections: dict[str, Any]) -> None:
    said = recipe(data={"train_per_task": 16, "test_per_task": 4}, **sections)
    loaded, empty = (prepare(said, shapes_only=only) for only in (False, True))
    assert loaded.plan(CPU).footprint == empty.plan(CPU).footprint
    assert all(one.device.type == "meta" for one in empty.family.model.parameters())
    assert empty.plan(CPU).model["parameters"] == loaded.plan().model["parameters"]


def test_weights_gradients_and_moments_are_those_of_their_number() -> None:
    family = MODELS["llama"]()
    numbers = sum(one.numel() for one in family.model.parameters())
    taken = Taken(family, [], [0], [], [], CPU)
    assert taken._weights(recipe()) == 4 * numbers
    lora = recipe(tuning={"method": "lora"})
    add_adapter(family, lora.tuning)  # type: ignore[arg-type]
    taken, adapter = Taken(family, [], [0], [], [], CPU), numbers_trained(family)
    assert taken._weights(lora) == 4 * (numbers + adapter)
    held = {"name": "embedded:tiny-llama", "dtype": "bfloat16"}
    assert taken._weights(recipe(model=held, tuning={"method": "lora"})) == 2 * numbers + 4 * adapter


def numbers_trained(family: Family) -> int:
    return sum(one.numel() for one in family.model.parameters() if one.requires_grad)


def test_packed_examples_are_counted_in_the_rows_that_they_share() -> None:
    sections: dict[str, Any] = {"model": {"name": "embedded:tiny-llama"}, "data": {"train_per_task": 16}}
    family = prepare(recipe(**sections), shapes_only=True).family
    lengths = (40, 25, 15, 12, 8)  # 40, 25 + 15, and 12 + 8
    rows = [{"input_ids": [5] * length, "labels": [IGNORED] * (length - 2) + [5, 6]} for length in lengths]
    alone, packed = (
        Taken(family, [], [0], rows, rows, CPU).footprint(
            recipe(**sections, training={"batch_size": 5, "packing": together})
        )
        for together in (False, True)
    )
    assert (alone.batch, packed.batch) == ((5, 40), (3, 40))
    assert packed.memory["activations"] == pytest.approx(3 / 5 * alone.memory["activations"], abs=1)
    assert packed.operations < 0.65 * alone.operations


@pytest.mark.parametrize("moments", ["held", "all"])
def test_masked_rows_without_gradient_and_moments_are_not_counted(
    moments: str, tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    step = RowAdamW.step

    def watched(self: RowAdamW, closure: Any = None) -> Any:
        whole = (one.grad for group in self.param_groups for one in group["params"] if one.grad is not None)
        gradients = sum(one.numel() for one in (*whole, *(one.grad for one in self._rows.values())))
        loss = step(self, closure)
        states = self.state.values()
        seen.append((gradients, sum(state[name].numel() for state in states for name in ("exp_avg", "exp_avg_sq"))))
        return loss

    monkeypatch.setattr(RowAdamW, "step", watched)
    migu = {"name": "migu", "mask": "update", "hold": 2, "moments": moments}
    prepared = prepare(toy_recipe(tmp_path, flat_t5, strategies=[migu], training={"epochs": 1.0}))
    first, later = (prepared.strategies[0].still(prepared.family, place) for place in (0, 1))
    trained = numbers_trained(prepared.family)
    assert first == (0, 0)
    for index in (0, 1):
        fit(prepared, index, Listener())
    (gradients, held), (fewer_gradients, fewer_held) = seen[0], seen[-1]
    assert (gradients, held) == (trained, 2 * trained)
    assert (fewer_gradients, fewer_held) == (trained - later[0], 2 * (trained - later[1]))
    assert later == (later[0], later[0] if moments == "held" else 0)

    def taken(places: list[int]) -> int:
        footprint = Taken(prepared.family, prepared.strategies, places, rows, rows, CPU).footprint(prepared.recipe)
        return footprint.memory["optimizer"]

    rows = [*encode(prepared.family, prepared.examples(prepared.stages[0]), range(4))]
    assert (taken([0, 1]), taken([1])) == (4 * held, 4 * fewer_held)


@pytest.fixture(scope="module")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The shipped recipe's changes: a folder with the shapes of Llama-3.1-8B and no weights, and data."""
    folder = tmp_path_factory.mktemp("llama")
    own = Path(embedded_model_folder("tiny-llama"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((own / name).read_bytes())
    LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        architectures=["LlamaForCausalLM"],
        tie_word_embeddings=False,
        max_position_embeddings=131072,
    ).save_pretrained(folder)
    row = {"messages": [{"role": "user", "content": "a b " * 400}, {"role": "assistant", "content": "c d " * 60}]}
    (folder / "data.jsonl").write_text("\n".join([json.dumps(row)] * 16), "utf-8")
    data = {
        f"tasks.{task}.source.{use}": f"{folder}/data.jsonl"
        for task in ("first", "second")
        for use in ("train", "test")
    }
    return {"model.name": str(folder), "prompt.chat_template": "false", **data}


def plan_of(name: str, changes: dict[str, str], device: str, *more: str) -> Any:
    said = Recipe.load(name, [*(f"{key}={value}" for key, value in changes.items()), *more])
    return prepare(said, shapes_only=True).plan(Device.parse(device)).footprint


def test_a_model_of_eight_billion_fits_in_four_bits_and_says_so_elsewhere(llama_8b: dict[str, str]) -> None:
    fits = plan_of("llama31_8b_own_data", llama_8b, "1x24GB")
    assert fits.ways == ()
    assert 6e9 < sum(fits.memory.values()) < 22e9
    assert fits.memory["weights"] == pytest.approx(0.516 * 6.98e9 + 4 * 1.05e9 + 4 * 42e6, rel=0.01)
    whole = plan_of("llama31_8b_own_data", llama_8b, "1x24GB", "model.quantization=null", "model.dtype=float32")
    assert sum(whole.memory.values()) > 32e9
    assert [way for way, _ in whole.ways] == ["model.dtype=bfloat16", "model.quantization=4bit"]
    assert all(size < 24e9 for _, size in whole.ways)
    assert not plan_of("llama31_8b_own_data", llama_8b, "1x4GB").ways


@pytest.mark.parametrize("native", [False, True])
def test_precision_auto_is_planned_as_it_is_trained(
    native: bool, flat_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clkit.training.arguments.has_bfloat16", lambda device: native)

    def planned(precision: str, device: Device) -> dict[str, int]:
        recipe = toy_recipe(tmp_path, flat_t5, training={"precision": precision})
        found = prepare(recipe, shapes_only=True).plan(device).footprint
        assert found is not None
        return dict(found.memory)

    here, gpu = Device("CPU", 1, 10**12, fused=False, here=True), Device.parse("1x24GB")
    assert planned("auto", here) == planned("bf16" if native else "fp32", here)
    assert planned("auto", gpu) == planned("bf16", gpu) != planned("fp32", gpu)


@pytest.mark.parametrize(
    "text", ["24GB", "1x24", "0x24GB", "1x0GB", "1 x 24 GB", "-1x24GB", "1xNaNGB", "ax24GB", "", "1x24TB"]
)
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write number and memory of the GPUs, such as 1x24GB"):
        Device.parse(text)


def test_a_device_as_it_is_written() -> None:
    assert (Device.parse("2x80gb").count, Device.parse(" 1x0.5GB ").room) == (2, 500_000_000)

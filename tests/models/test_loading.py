"""Models from a folder, the package and the hub's cache; clear errors where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaForCausalLM, PreTrainedModel, ViTConfig

from clkit.engine.sequence import train
from clkit.errors import ModelError
from clkit.models import folders
from clkit.models.loading import begin_task, describe, load_model, save_model
from clkit.models.objective import Classification, Pretraining, TextToText
from clkit.models.sections import FullTuning, IncrementalLoraTuning, LoraTuning, ModelSection, Tuning
from tests.toy import toy_recipe


def test_the_embedded_model_and_a_folder_load_alike(toy_t5: Path) -> None:
    for name in ("embedded:tiny-t5", str(toy_t5)):
        loaded = load_model(ModelSection(name=name), FullTuning())
        about = describe(loaded)
        assert about["family"] == "seq2seq"
        assert about["trainable"] == about["parameters"] > 0


def test_lora_trains_the_adapter_alone(toy_t5: Path) -> None:
    loaded = load_model(ModelSection(name=str(toy_t5)), LoraTuning(method="lora", rank=4))
    trained = {name for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    assert describe(loaded)["trainable"] == 6 * 2 * 4 * (16 + 16)  # q and v in six attentions, A and B, rank 4


def test_a_model_in_the_hubs_cache_loads_offline(toy_t5: Path, tmp_path: Path) -> None:
    """The layout of the hub's cache, made by hand: what a download on another day leaves behind."""
    commit = "0" * 40
    repo = tmp_path / "hub" / "models--someone--toy-t5"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    (repo / "snapshots" / commit).symlink_to(toy_t5)
    code = (
        "from clkit.models.loading import load_model; from clkit.models.sections import ModelSection, FullTuning; "
        "print(load_model(ModelSection(name='someone/toy-t5'), FullTuning()).model.config.d_model)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "16", done.stderr


def test_what_cannot_be_loaded_is_one_clear_line(tmp_path: Path) -> None:
    def message(name: str) -> str:
        with pytest.raises(ModelError) as error:
            load_model(ModelSection(name=name), FullTuning())
        assert "\n" not in str(error.value)
        return str(error.value)

    assert message("google-t5/t5-nowhere").endswith(
        "without a network use a local folder, a model already in the hub's cache, or model.name=embedded:tiny-t5"
    )
    assert f"the folder {tmp_path} has no config.json" in message(str(tmp_path))
    assert "does not exist" in message(str(tmp_path / "no"))
    assert "tiny-t5" in message("embedded:tiny-t6")
    ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    assert "model type 'vit' is not supported (families: encoder, decoder" in message(str(tmp_path))


def test_an_unknown_lora_target_names_the_layers(toy_t5: Path) -> None:
    with pytest.raises(ModelError, match=r"'query' names no linear layer .*linear layers found: k, lm_head, o, q, v"):
        load_model(ModelSection(name=str(toy_t5)), LoraTuning(method="lora", targets=["query"]))


# --- decoders, saved and loaded again -----------------------------------------------------------------------------


def shaken(model: PreTrainedModel, seed: int) -> None:
    """Every trained parameter a little different, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


@pytest.mark.parametrize(
    "tuning",
    [
        FullTuning(),
        FullTuning(freeze=["embeddings"]),
        LoraTuning(method="lora", rank=2),
        LoraTuning(method="lora", rank=2, targets=["q_proj", "down_proj", "lm_head"]),
        IncrementalLoraTuning(method="incremental_lora", rank=2),
    ],
    ids=["full", "frozen", "lora", "lora-head", "incremental"],
)
def test_a_decoder_is_restored_bit_by_bit_its_tied_head_included(
    toy_llama: Path, tmp_path: Path, tuning: Tuning
) -> None:
    section = ModelSection(name=str(toy_llama))
    loaded = load_model(section, tuning)
    for index in range(2):
        begin_task(loaded, tuning, index, seed=index)
        shaken(loaded.model, index)
        save_model(loaded, tmp_path / str(index))
    again = load_model(section, tuning, [tmp_path / "0", tmp_path / "1"])
    ours, theirs = loaded.model.state_dict(), again.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    trained = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (loaded.model, again.model)]
    assert trained[0] == trained[1]
    assert again.model.get_input_embeddings().weight is again.model.get_output_embeddings().weight


def test_a_head_that_is_the_word_embedding_cannot_be_merged(toy_llama: Path) -> None:
    tuning = IncrementalLoraTuning(method="incremental_lora", targets=["q_proj", "lm_head"])
    with pytest.raises(ModelError, match="'lm_head' shares its weight with the word embeddings"):
        load_model(ModelSection(name=str(toy_llama)), tuning)


def test_a_tokenizer_without_an_end_is_refused(toy_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_llama, tmp_path / "llama")
    file = tmp_path / "llama" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"eos_token": None}), "utf-8")
    with pytest.raises(ModelError, match=r"the folder .*llama: its tokenizer has no end-of-sequence token"):
        load_model(ModelSection(name=str(tmp_path / "llama")), FullTuning())


# --- GGUF ---------------------------------------------------------------------------------------------------------


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries and keys as llama.cpp keeps them: the two halves that a rotation mixes side by side."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(file: Path, wq: str = "F32") -> LlamaForCausalLM:
    """A random Llama in a GGUF file, with a tokenizer of bytes, as llama.cpp would write it."""
    gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf: pip install 'clkit[smollm]'")
    from tokenizers import pre_tokenizers

    vocabulary = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ok"]
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    torch.manual_seed(2)
    model = LlamaForCausalLM(config)
    writer = gguf.GGUFWriter(file, "llama")
    for key, value in {
        "vocab_size": len(vocabulary),
        "context_length": 128,
        "embedding_length": 32,
        "block_count": 1,
        "feed_forward_length": 32,
        "head_count": 2,
        "head_count_kv": 1,
        "layer_norm_rms_eps": 1e-6,
        "rope_dimension_count": 16,
        "rope_freq_base": 10000.0,
        "tokenizer_model": "gpt2",
        "token_list": vocabulary,
        "token_types": [3] + [1] * (len(vocabulary) - 1),
        "token_merges": ["o k"],
        "bos_token_id": 0,
        "eos_token_id": 0,
    }.items():
        getattr(writer, f"add_{key}")(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    kind = gguf.GGMLQuantizationType[wq]
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        for part, heads in (("q_proj", 2), ("k_proj", 1)):
            weight = interleaved(weight, heads) if part in name else weight
        quantized = weight.ndim == 2 and wq != "F32"
        stored = gguf.quants.quantize(weight, kind) if quantized else weight
        writer.add_tensor(names.get_name(name, (".weight",)), stored, raw_dtype=kind if quantized else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_folder_with_one_gguf_file_loads_in_float32_and_can_be_trained(tmp_path: Path, kind: str) -> None:
    written = dict(write_gguf(tmp_path / "model.gguf", kind).named_parameters())
    loaded = load_model(ModelSection(name=str(tmp_path)), FullTuning())
    found = dict(loaded.model.named_parameters())
    assert found.keys() == written.keys()
    for name, parameter in found.items():
        assert parameter.dtype == torch.float32
        error = (parameter - written[name]).abs().max()
        assert error == 0 if kind == "F32" else error <= written[name].abs().max() / 127  # one part of a Q8_0 scale
    assert loaded.tokenizer.tokenize("ok o") == ["ok", "\u0120", "o"]
    assert describe(loaded)["family"] == "decoder"


def test_a_gguf_model_is_trained_and_saved_as_safetensors(tmp_path: Path) -> None:
    (tmp_path / "gguf").mkdir()
    write_gguf(tmp_path / "gguf" / "model.gguf", "Q8_0")
    recipe = toy_recipe(
        tmp_path,
        tmp_path / "gguf",
        training={"epochs": 0.5},
        evaluation={"tasks": "final", "zero_shot": False},
        prompt={"max_tokens": 128},
    )
    run = train(recipe, tmp_path / "run")
    assert [file.name for file in run.stages()[-1].folder.glob("model/*.safetensors")] == ["model.safetensors"]
    assert not list(run.path.rglob("*.gguf"))
    trained = load_model(recipe.model, FullTuning(), [run.stages()[-1].folder]).model.state_dict()
    before = load_model(recipe.model, FullTuning()).model.state_dict()
    assert trained.keys() == before.keys()
    assert not any(torch.equal(trained[name], before[name]) for name in trained)


def test_of_several_gguf_files_the_recipe_names_one(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        write_gguf(tmp_path / name)

    def load(**more: Any) -> None:
        load_model(ModelSection(name=str(tmp_path), **more), FullTuning())

    with pytest.raises(ModelError, match=r"^model.gguf_file: name the file .* \(GGUF files in .*: a.gguf, b.gguf\)$"):
        load()
    with pytest.raises(ModelError, match=r"^model.gguf_file: there is no 'c.gguf' \(GGUF files in .*: a.gguf, b.gguf"):
        load(gguf_file="c.gguf")
    load(gguf_file="b.gguf")


def test_gguf_without_its_reader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").touch()
    monkeypatch.setattr(folders, "find_spec", lambda name: None)
    for section in (ModelSection(name=str(tmp_path)), ModelSection(name="some/one", gguf_file="x.gguf")):
        with pytest.raises(ModelError, match=r"needs the package gguf; pip install 'clkit\[smollm\]' or gguf alone$"):
            load_model(section, FullTuning())


def test_a_damaged_gguf_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF, but no more")
    with pytest.raises(ModelError) as error:
        load_model(ModelSection(name=str(tmp_path)), FullTuning())
    assert str(error.value).startswith(f"model.name: the folder {tmp_path} cannot be loaded (")
    assert "\n" not in str(error.value)


# --- packages -----------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a Python package that must not be imported."""
    folder = tmp_path / "clkit_toy_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('the package was imported')\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.parametrize("place", [".", "model"])
def test_a_model_in_a_package_is_found_without_importing_it(package: Path, toy_llama: Path, place: str) -> None:
    shutil.copytree(toy_llama, package / place, dirs_exist_ok=True)
    (package / "data").mkdir()
    (package / "data" / "config.json").write_text("{}", "utf-8")  # without weights it is no model
    loaded = load_model(ModelSection(name="package:clkit_toy_package"), FullTuning())
    assert describe(loaded)["family"] == "decoder"
    assert "clkit_toy_package" not in sys.modules


def test_a_package_without_a_model_or_with_several_or_not_there_is_one_line(package: Path, toy_llama: Path) -> None:
    def message(name: str) -> str:
        with pytest.raises(ModelError) as error:
            load_model(ModelSection(name=f"package:{name}"), FullTuning())
        return str(error.value)

    assert message("clkit_toy_package") == (
        "model.name: the Python package 'clkit_toy_package' holds no model; name the folder of one, with config.json "
        "or a GGUF file"
    )
    for place in ("a", "b"):
        shutil.copytree(toy_llama, package / place)
    assert "holds several models (a, b)" in message("clkit_toy_package")
    assert message("clkit_no_package") == (
        "model.name: there is no Python package 'clkit_no_package' here; pip install the package that brings the "
        "module clkit_no_package"
    )
    assert "there is no Python package 'clkit_toy_package.a'" in message("clkit_toy_package.a")


# --- depth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "key", "layers"),
    [
        ("toy_t5", "num_layers", "encoder.block"),
        ("toy_t5", "num_decoder_layers", "decoder.block"),
        ("toy_llama", "num_hidden_layers", "model.layers"),
        ("toy_roberta", "num_hidden_layers", "roberta.encoder.layer"),
    ],
)
@pytest.mark.parametrize("told", [1, 4])
def test_a_config_of_other_depth_than_the_weights_is_refused(
    model: str, key: str, layers: str, told: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    shutil.copytree(request.getfixturevalue(model), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: told}))
    pretraining = Pretraining(kind="pretraining", block_tokens=32)
    for objective, labels in {
        "toy_roberta": [(pretraining, None), (Classification(kind="classification"), {"a": ("x", "y")})]
    }.get(model, [(TextToText(), None)]):
        with pytest.raises(ModelError, match=f"its weights hold 2 layers of '{layers}', its config.json says {told}"):
            load_model(ModelSection(name=str(file.parent)), FullTuning(), (), objective, labels)


def test_the_depth_of_a_model_that_was_saved_without_its_head_is_seen_too(toy_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_llama, tmp_path / "model")
    GPT2Model(GPT2Config(vocab_size=41, n_embd=16, n_layer=2, n_head=2, eos_token_id=1)).save_pretrained(
        tmp_path / "model"
    )
    load_model(ModelSection(name=str(tmp_path / "model")), FullTuning())
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_layer": 1}))
    with pytest.raises(ModelError, match=r"its weights hold 2 layers of 'transformer\.h', its config\.json says 1"):
        load_model(ModelSection(name=str(tmp_path / "model")), FullTuning())


def test_a_bias_that_the_config_leaves_out_is_refused(toy_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_llama, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    LlamaForCausalLM(LlamaConfig(**config | {"attention_bias": True})).save_pretrained(file.parent)
    load_model(ModelSection(name=str(file.parent)), FullTuning())
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"hold 'model\.layers\.0\.self_attn\.k_proj\.bias', for which its config"):
        load_model(ModelSection(name=str(file.parent)), FullTuning())

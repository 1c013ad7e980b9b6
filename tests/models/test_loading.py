"""Models from a folder, the package and the hub's cache; clear errors where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertConfig

from clkit.errors import ModelError
from clkit.models.loading import describe, load_model
from clkit.recipe.sections import FullTuning, LoraTuning, ModelSection


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
        "from clkit.models.loading import load_model; from clkit.recipe.sections import ModelSection, FullTuning; "
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
    BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    assert "model type 'bert' is not supported (families: seq2seq)" in message(str(tmp_path))


def test_an_unknown_lora_target_names_the_layers(toy_t5: Path) -> None:
    with pytest.raises(ModelError, match=r"'query' names no linear layer .*linear layers found: k, lm_head, o, q, v"):
        load_model(ModelSection(name=str(toy_t5)), LoraTuning(method="lora", targets=["query"]))

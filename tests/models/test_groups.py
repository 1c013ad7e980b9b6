"""Parameter groups cover a model exactly, and frozen parameters stay as they were, bit for bit."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clkit.engine.sequence import train
from clkit.errors import ModelError, UsageError
from clkit.models.family import Family
from clkit.models.groups import parameter_groups
from clkit.models.loading import load_model
from clkit.models.sections import FullTuning, ModelSection
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from tests.toy import toy_recipe

# Written down from the names of T5's parameters, where the code under test goes by modules and roles.
EXPECTED = {
    "embeddings": r"shared\.weight",
    "lm_head": r"lm_head\.weight",
    "position_bias": r".*\.relative_attention_bias\.weight",
    "norms": r".*layer_norm\.weight",
    "attention": r".*Attention\.[qkvo]\.weight",
    "feed_forward": r".*\.(wi|wi_0|wi_1|wo)\.weight",
}
MIGU = {"name": "migu", "layers": ["attention", "feed_forward", "lm_head"], "first_task": "masked"}


@pytest.fixture(scope="session")
def untied_t5(toy_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy T5 with an output layer of its own, as T5 1.1 has."""
    folder = tmp_path_factory.mktemp("untied") / "t5"
    shutil.copytree(toy_t5, folder)
    weights = load_file(folder / "model.safetensors")
    head = torch.randn(weights["shared.weight"].shape, generator=torch.Generator().manual_seed(1))
    save_file({**weights, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(params=["tied", "untied"])
def model(request: pytest.FixtureRequest, toy_t5: Path, untied_t5: Path) -> Path:
    return toy_t5 if request.param == "tied" else untied_t5


def load(name: str | Path, freeze: Sequence[str] = (), stages: Sequence[Path] = ()) -> Family:
    return load_model(ModelSection(name=str(name)), FullTuning(freeze=list(freeze)), stages)


def frozen(loaded: Family) -> set[str]:
    return {name for name, parameter in loaded.model.named_parameters() if not parameter.requires_grad}


def fitting(name: str, entries: Sequence[str]) -> bool:
    return any(
        re.fullmatch(EXPECTED[entry], name) if entry in EXPECTED else fnmatchcase(name, entry) for entry in entries
    )


def recipe(folder: Path, model: Path, freeze: list[str], **changes: Any) -> Recipe:
    training = {"epochs": 1.0, "weight_decay": 0.1, **changes.pop("training", {})}
    return toy_recipe(folder, model, tuning={"method": "full", "freeze": freeze}, training=training, **changes)


def parameters(run: RunFolder, stage: int) -> dict[str, torch.Tensor]:
    return load_file(run.stages()[stage].folder / "model" / "model.safetensors")


# --- groups -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tied", "untied", "embedded:tiny-t5"])
def test_each_parameter_is_in_exactly_one_group(name: str, toy_t5: Path, untied_t5: Path) -> None:
    loaded = load({"tied": toy_t5, "untied": untied_t5}.get(name, name))
    groups = parameter_groups(loaded)
    names = [parameter for parameter, _ in loaded.model.named_parameters()]
    assert Counter(parameter for group in groups.values() for parameter in group) == Counter(names)
    assert list(groups["embeddings"]) == ["shared.weight"]
    assert ("lm_head" in groups) is (name == "untied")
    for group, inside in groups.items():
        assert inside == [parameter for parameter in names if re.fullmatch(EXPECTED[group], parameter)], group
    tensors = {parameter.data_ptr() for parameter in loaded.model.state_dict().values()}
    assert len(tensors) == len(names)  # the control: nothing trains under a second name


@pytest.mark.parametrize(
    "entries",
    [["norms"], ["embeddings", "position_bias"], ["encoder.*"], ["decoder.block.0.*.q.weight", "feed_forward"]],
    ids=" ".join,
)
def test_exactly_what_is_named_is_frozen(toy_t5: Path, entries: list[str]) -> None:
    loaded = load(toy_t5, entries)
    names = {name for name, _ in loaded.model.named_parameters()}
    assert frozen(loaded) == {name for name in names if fitting(name, entries)}
    assert 0 < len(frozen(loaded)) < len(names)


def test_a_tied_head_is_frozen_with_the_embeddings_and_an_untied_one_is_not(toy_t5: Path, untied_t5: Path) -> None:
    for folder, tied in ((toy_t5, True), (untied_t5, False)):
        head = load(folder, ["embeddings"]).model.lm_head.weight
        assert head.requires_grad is not tied
    assert frozen(load(untied_t5, ["lm_head"])) == {"lm_head.weight"}


def test_an_entry_that_fits_nothing_is_an_error(toy_t5: Path, tmp_path: Path) -> None:
    groups = "embeddings, attention, position_bias, norms, feed_forward"
    or_pattern = f"(groups: {groups}; or a pattern over names such as shared.weight)"
    for entry, hint in (("norm", ", did you mean 'norms'?"), ("lm_head", ""), ("encoder.block.7.*", "")):
        with pytest.raises(ModelError) as error:
            load(toy_t5, ["embeddings", entry])
        assert str(error.value) == f"tuning.freeze: '{entry}' fits no parameter of this model{hint} {or_pattern}"
    with pytest.raises(ModelError):
        train(recipe(tmp_path, toy_t5, ["norm"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_freezing_everything_is_an_error(untied_t5: Path) -> None:
    for entries in (["*"], ["embeddings", "lm_head", "attention", "position_bias", "norms", "feed_forward"]):
        with pytest.raises(ModelError, match=r"^tuning\.freeze: nothing is left to train; name fewer groups$"):
            load(untied_t5, entries)


# --- through training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["gradient", "update"])
def test_frozen_parameters_stay_and_all_others_move(tmp_path: Path, model: Path, mask: str) -> None:
    """Through AdamW with weight decay, and MIGU that asks for the head's rows: frozen where it is tied."""
    freeze = ["embeddings", "norms"]
    run = train(recipe(tmp_path, model, freeze, strategies=[{**MIGU, "mask": mask}]), tmp_path / "run")
    start, first, second = load_file(model / "model.safetensors"), parameters(run, 1), parameters(run, 2)
    assert start.keys() == first.keys() == second.keys()
    for name, before in start.items():
        if fitting(name, freeze):
            assert torch.equal(first[name], before), name
            assert torch.equal(second[name], before), name
        else:
            assert not torch.equal(first[name], before), name
            assert not torch.equal(second[name], first[name]), name


def test_a_frozen_head_has_no_rows_for_migu(tmp_path: Path, model: Path) -> None:
    tied = "lm_head.weight" not in load_file(model / "model.safetensors")
    strategies = [{**MIGU, "layers": ["lm_head"]}]
    freeze = ["embeddings"] if tied else ["lm_head"]
    with pytest.raises(UsageError, match=r"none of these layers is trained \(lm_head\)"):
        train(recipe(tmp_path, model, freeze, strategies=strategies), tmp_path / "run")


def test_a_saved_stage_is_frozen_again_and_resuming_equals_never_having_stopped(
    tmp_path: Path, untied_t5: Path
) -> None:
    freeze = ["embeddings", "norms"]
    where = recipe(tmp_path, untied_t5, freeze, strategies=[MIGU])
    run = train(where, tmp_path / "run")
    for stage in run.stages()[1:]:
        assert frozen(load(untied_t5, freeze, [stage.folder])) == frozen(load(untied_t5, freeze)) != set()
    shutil.copytree(run.path, tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "tasks" / "02-second")
    resumed = train(where, tmp_path / "stopped", resume=True)
    whole, again = parameters(run, 2), parameters(resumed, 2)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert (resumed.path / "matrix.json").read_bytes() == (run.path / "matrix.json").read_bytes()

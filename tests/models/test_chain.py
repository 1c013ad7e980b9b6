"""`model.name` as a run, a stage or an adapter: the same model to the bit as the run itself would go on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from clkit.engine.evaluate import load_stage
from clkit.engine.exporting import export
from clkit.engine.fingerprints import model_read
from clkit.engine.prepare import load_learner, prepare
from clkit.engine.sequence import train
from clkit.errors import ModelError, RunError
from clkit.models.adapters import merge_adapter
from clkit.models.chain import chain_of
from clkit.models.family import Family
from clkit.models.loading import load_model
from clkit.models.sections import FullTuning, ModelSection
from clkit.recipe.inputs import missing_inputs
from clkit.run.folder import RunFolder
from tests.toy import TASKS, Finished, ToyRecipe, toy_recipe

LORA, INCREMENTAL = ({"method": method, "rank": 2} for method in ("lora", "incremental_lora"))
FULL = {"method": "full"}
CLASSIFY: dict[str, Any] = {"objective": {"kind": "classification"}, "prompt": {"style": "text"}}


def weights(family: Family) -> dict[str, torch.Tensor]:
    if isinstance(family.model, PeftModel):
        merge_adapter(family)
    return family.model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def loaded(name: Path) -> dict[str, torch.Tensor]:
    return weights(load_model(ModelSection(name=str(name)), FullTuning()))


@pytest.mark.parametrize("tuning", [FULL, LORA, INCREMENTAL], ids=lambda tuning: tuning["method"])
def test_a_run_a_stage_and_its_parts_are_what_the_run_goes_on_with(
    toy: ToyRecipe, finished: Finished, tuning: dict[str, Any]
) -> None:
    recipe = toy(tuning=tuning)
    run = finished(recipe)
    part = "model" if tuning is FULL else "adapter"
    first, last = (weights(load_stage(run, recipe, stage)) for stage in ("first", None))
    assert not same(first, last)
    stages = [stage.folder for stage in run.stages()]
    assert all(same(loaded(name), last) for name in (run.path, stages[-1], stages[-1] / part))
    assert same(loaded(stages[-2]), first)
    remark = chain_of(ModelSection(name=str(run.path))).remark
    assert remark is not None
    merged = {"full": "", "lora": ", 1 adapter(s) merged", "incremental_lora": ", 2 adapter(s) merged"}[
        tuning["method"]
    ]
    assert remark.startswith(f"model.name: {run.path} after second{merged}; strategies begin without")


def test_a_run_upon_a_run_is_exported_as_one_adapter(
    toy: ToyRecipe, toy_tasks: Path, flat_t5: Path, finished: Finished, tmp_path: Path
) -> None:
    below = finished(toy(tuning=INCREMENTAL))
    above = toy_recipe(toy_tasks, below.path, tuning=LORA, seed=4)
    assert missing_inputs(above) == []
    assert prepare(above).plan().remarks[0].startswith(f"model.name: {below.path} after second, 2 adapter(s) merged")
    run = train(above, tmp_path / "run")
    assert {"model.adapter-1.adapter_model.safetensors", "model.model.safetensors"} <= run.environment()["read"].keys()
    done = export(run, tmp_path / "out", lambda _: "", adapter=True)
    assert done.rank == 6
    chain = chain_of(ModelSection(name=str(tmp_path / "out")))
    assert (chain.section.name, chain.adapters) == (str(flat_t5), (tmp_path / "out",))
    mine, theirs = loaded(tmp_path / "out"), weights(load_stage(run, above, None))
    assert mine.keys() == theirs.keys()
    for name, one in mine.items():
        torch.testing.assert_close(one, theirs[name])
    assert same(loaded(run.path), theirs)


@pytest.mark.parametrize("tuning", [FULL, INCREMENTAL], ids=lambda tuning: tuning["method"])
def test_a_classifiers_head_is_kept_for_its_labels_and_drawn_for_others(
    toy_tasks: Path, toy_roberta: Path, finished: Finished, tmp_path: Path, tuning: dict[str, Any]
) -> None:
    recipe = toy_recipe(toy_tasks, toy_roberta, tuning=tuning, **CLASSIFY)
    run = finished(recipe)
    before = weights(load_stage(run, recipe, None))
    again = recipe.model_copy(update={"model": ModelSection(name=str(run.path)), "tuning": FullTuning()})
    kept = load_learner(again, TASKS)
    assert same(weights(kept), before)
    for others in ({"third": ("a", "b", "c", "d")}, {"third": ("a", "b")}):  # as many labels, and fewer
        drawn = load_learner(again, others)
        assert "head drawn at random" in drawn.remarks
        now = weights(drawn)
        encoder = {name for name in before if name.startswith("roberta.")}
        assert same({name: now[name] for name in encoder}, {name: before[name] for name in encoder})
        assert not torch.equal(now["classifier.dense.weight"], before["classifier.dense.weight"])


def test_what_is_no_model_is_refused(toy: ToyRecipe, toy_tasks: Path, finished: Finished, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished(toy(tuning=INCREMENTAL, saving={"models": "last"})).path, run)

    def said(name: Path) -> str:
        recipe = toy_recipe(toy_tasks, name)
        (problem,) = missing_inputs(recipe)
        with pytest.raises(ModelError) as caught:
            load_model(recipe.model, FullTuning())
        assert str(caught.value) == problem
        return problem

    lost = run / "tasks/03-third"
    assert f"has no finished task in {lost}" in said(lost)
    alone = tmp_path / "alone"
    shutil.copytree(run / "tasks/02-second/adapter", alone)
    config = json.loads((alone / "adapter_config.json").read_text())
    (alone / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    assert "does not say which model it is for" in said(alone)
    (alone / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(tmp_path / "gone")}))
    assert str(tmp_path / "gone") in said(alone)
    (alone / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors" in said(alone)

    weights_file = run / "tasks/01-first/adapter/adapter_model.safetensors"
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(content)
    with pytest.raises(RunError, match=r"adapter_model.safetensors is changed"):
        load_model(ModelSection(name=str(run)), FullTuning())


def test_fingerprints_change_with_any_adapter_of_the_chain(toy: ToyRecipe, finished: Finished, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished(toy(tuning=INCREMENTAL)).path, run)
    section = ModelSection(name=str(run))
    before = model_read(section)
    for number, stage in enumerate(RunFolder(run).stages()[-2:], start=1):
        with (stage.folder / "adapter/adapter_config.json").open("a") as file:
            file.write(" ")
        now = model_read(section)
        assert {key for key in now if now[key] != before[key]} == {f"model.adapter-{number}.adapter_config.json"}
        before = now

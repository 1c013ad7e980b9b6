"""Incremental LoRA at the boundary between tasks, against stock peft with every adapter loaded side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from clkit.engine.evaluate import evaluate
from clkit.engine.sequence import train
from clkit.errors import ModelError
from clkit.models.adapters import merge_adapter
from clkit.models.family import Family
from clkit.models.loading import begin_task, describe, load_model, save_model
from clkit.models.sections import IncrementalLoraTuning, ModelSection
from clkit.run.folder import RunFolder
from tests.toy import toy_recipe, write_task

TUNING = IncrementalLoraTuning(method="incremental_lora", rank=4, alpha=8.0, dropout=0.1)
TASKS = 3


def logits(model: PreTrainedModel) -> torch.Tensor:
    """The model's answer to a fixed batch; answers × sequence × vocabulary."""
    generator = torch.Generator().manual_seed(9)
    source, target = (torch.randint(3, 40, (4, length), generator=generator) for length in (11, 5))
    with torch.no_grad():
        answer: torch.Tensor = model.eval()(input_ids=source, labels=target).logits
    return answer


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for the rounding of float32."""
    return torch.allclose(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def learn(loaded: Family, index: int) -> None:
    """In place of training: every trained parameter is drawn anew, large enough to change the answers."""
    generator = torch.Generator().manual_seed(100 + index)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


class Learned:
    """A sequence of tasks: the model after each, as it was in memory, and the folder that it was saved to."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.section = ModelSection(name=str(model))
        self.loaded = load_model(self.section, TUNING)
        self.stages = [folder / str(index) for index in range(TASKS)]
        self.untrained = logits(self.loaded.model)
        self.begun: list[torch.Tensor] = []
        self.answers: list[torch.Tensor] = []
        self.weights: list[dict[str, torch.Tensor]] = []
        self.trainable: list[int] = []
        for index, stage in enumerate(self.stages):
            begin_task(self.loaded, TUNING, index, seed=index)
            self.begun.append(logits(self.loaded.model))
            self.trainable.append(describe(self.loaded)["trainable"])
            learn(self.loaded, index)
            save_model(self.loaded, stage)
            self.answers.append(logits(self.loaded.model))
            self.weights.append({name: value.clone() for name, value in self.loaded.model.state_dict().items()})


@pytest.fixture(scope="module")
def learned(toy_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    return Learned(toy_t5, tmp_path_factory.mktemp("stages"))


# --- the boundary -------------------------------------------------------------------------------------------------


def test_a_fresh_adapter_leaves_every_answer_as_it_was(learned: Learned) -> None:
    before = [learned.untrained, *learned.answers]
    for index, begun in enumerate(learned.begun):
        assert close(begun, before[index])
        assert not close(learned.answers[index], before[index])  # the control: what was learned shows


def test_merging_keeps_what_was_learned_where_unload_throws_it_away(toy_t5: Path) -> None:
    """peft's `unload()` between tasks, as its own continual example has it, gives the untrained weights back."""
    base = AutoModelForSeq2SeqLM.from_pretrained(toy_t5).state_dict()
    merged, unloaded = (load_model(ModelSection(name=str(toy_t5)), TUNING) for _ in range(2))
    learn(merged, 0)
    learn(unloaded, 0)
    adapter = {name: value.clone() for name, value in merged.model.state_dict().items() if ".lora_" in name}
    merge_adapter(merged)
    weights = merged.model.state_dict()
    assert all(torch.equal(value, base[name]) for name, value in unloaded.model.unload().state_dict().items())
    assert weights.keys() == base.keys()
    carrying = 0
    for name, value in weights.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (adapter.get(f"{layer}.lora_{which}.default.weight") for which in "AB")
        if a is None or b is None:
            assert torch.equal(value, base[name]), name
            continue
        carrying += 1
        expected = base[name].double() + TUNING.alpha / TUNING.rank * (b.double() @ a.double())
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert carrying == len(adapter) / 2 == 12


def test_only_the_newest_adapter_is_trained_and_it_does_not_grow(learned: Learned) -> None:
    assert learned.trainable == [12 * 4 * (16 + 16)] * TASKS
    trained = {name for name, parameter in learned.loaded.model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name in learned.weights[-1] if ".lora_" in name}
    assert learned.weights[-1].keys() == learned.weights[0].keys()  # no adapter of an earlier task is left beside it


def test_a_fresh_adapter_is_drawn_from_the_tasks_seed(learned: Learned) -> None:
    def fresh(seed: int) -> list[torch.Tensor]:
        loaded = load_model(learned.section, TUNING, learned.stages[:1])
        torch.manual_seed(len(learned.stages))  # whatever was drawn before
        begin_task(loaded, TUNING, 1, seed)
        return [value for name, value in loaded.model.named_parameters() if ".lora_A." in name]

    assert all(torch.equal(one, other) for one, other in zip(fresh(1), fresh(1), strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(fresh(1), fresh(2), strict=True))


def test_a_head_that_is_the_word_embedding_is_refused(toy_t5: Path) -> None:
    """Merging into it changes the embeddings too, and with them the answers, as the last line shows."""
    tied = TUNING.model_copy(update={"targets": ["q", "lm_head"]})
    with pytest.raises(ModelError, match=r"tuning.targets: 'lm_head' shares its weight with the word embeddings"):
        load_model(ModelSection(name=str(toy_t5)), tied)
    single = load_model(ModelSection(name=str(toy_t5)), tied.model_copy(update={"method": "lora"}))
    learn(single, 0)
    answer = logits(single.model)
    merge_adapter(single)
    assert not close(logits(single.model), answer)


# --- against stock peft -------------------------------------------------------------------------------------------


def side_by_side(model: Path, stages: Sequence[Path]) -> PreTrainedModel:
    """peft's own model with the adapters of all stages active together, none merged."""
    base = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=torch.float32)
    stock = PeftModel.from_pretrained(base, stages[0] / "adapter", adapter_name="0")
    names = ["0"]
    for index, stage in enumerate(stages[1:], start=1):
        names.append(str(index))
        stock.load_adapter(stage / "adapter", adapter_name=names[-1])
    stock.base_model.set_adapter(names)
    return stock


def test_it_answers_as_stock_peft_does_with_all_adapters_active(learned: Learned, toy_t5: Path) -> None:
    for index in range(TASKS):
        expected = logits(side_by_side(toy_t5, learned.stages[: index + 1]))
        assert close(learned.answers[index], expected)
        assert close(logits(load_model(learned.section, TUNING, learned.stages[: index + 1]).model), expected)


def test_a_saved_adapter_is_the_tasks_own_and_loads_in_stock_peft_alone(learned: Learned, toy_t5: Path) -> None:
    for index, stage in enumerate(learned.stages):
        base = AutoModelForSeq2SeqLM.from_pretrained(toy_t5, dtype=torch.float32)
        alone = PeftModel.from_pretrained(base, stage / "adapter").state_dict()
        own = {name: value for name, value in learned.weights[index].items() if ".lora_" in name}
        assert own
        assert all(torch.equal(alone[name], value) for name, value in own.items())


def test_loading_restores_every_weight_bit_by_bit_and_trains_the_newest_adapter(learned: Learned) -> None:
    for index, weights in enumerate(learned.weights):
        again = load_model(learned.section, TUNING, learned.stages[: index + 1]).model
        restored = again.state_dict()
        assert restored.keys() == weights.keys()
        assert all(torch.equal(restored[name], value) for name, value in weights.items())
        assert all(parameter.requires_grad == (".lora_" in name) for name, parameter in again.named_parameters())


# --- in a run -----------------------------------------------------------------------------------------------------


def three_tasks(folder: Path) -> list[dict[str, object]]:
    first, second = (write_task(folder, name) for name in ("first", "second"))
    return [first, second, {**first, "name": "third"}]


@pytest.fixture(scope="module")
def run(toy_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Three tasks, with only the last model kept where that is possible."""
    folder = tmp_path_factory.mktemp("incremental")
    recipe = toy_recipe(
        folder,
        toy_t5,
        tasks=three_tasks(folder),
        tuning={"method": "incremental_lora", "rank": 4},
        evaluation={"tasks": "all"},
        saving={"models": "last"},
    )
    return train(recipe, folder / "run")


def test_every_stage_gives_the_predictions_kept(run: RunFolder) -> None:
    assert len(run.stages()) == 1 + TASKS
    for stage in run.stages():
        kept = [json.loads(line) for line in (stage.folder / "predictions.jsonl").read_text("utf-8").splitlines()]
        assert [record for answer in evaluate(run, stage=stage.name) for record in answer.records()] == kept


def test_the_adapters_of_all_tasks_are_kept_where_one_adapter_keeps_the_last(
    run: RunFolder, toy_t5: Path, tmp_path: Path
) -> None:
    assert [stage.name for stage in run.stages() if (stage.folder / "adapter").is_dir()] == ["first", "second", "third"]
    single = toy_recipe(tmp_path, toy_t5, tuning={"method": "lora", "rank": 4}, saving={"models": "last"})
    stages = train(single, tmp_path / "run").stages()
    assert [stage.name for stage in stages if (stage.folder / "adapter").is_dir()] == ["second"]

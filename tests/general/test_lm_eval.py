"""lm-eval's tests of the model in memory: scores by hand, its own tasks from a folder, quiet and without a network."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
import torch
import yaml

import clkit.general.lm_eval as tasks_module
from clkit.engine.sequence import train
from clkit.errors import DataError, InterruptionError, RecipeError
from clkit.events import Listener
from clkit.general.ability import General
from clkit.general.lm_eval import load_lm_eval_tasks
from clkit.general.section import GeneralSection, LmEvalSection
from clkit.models.family import Family
from clkit.models.loading import load_model
from clkit.models.sections import FullTuning, LoraTuning, ModelSection
from clkit.recipe.inputs import missing_inputs
from clkit.recipe.smoke import smoke_recipe
from clkit.run.folder import RunFolder
from tests.toy import toy_recipe

INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_lm_eval = pytest.mark.skipif(not INSTALLED, reason="needs lm-eval: pip install 'clkit[lm-eval]'")

QUESTIONS = [
    (f"w{first} w{second}", ["w3", "w4 w5"], (first + second) % 2) for first in range(4) for second in range(3)
]


def write_task(folder: Path, name: str, **keys: Any) -> None:
    """A multiple-choice task of lm-eval over a local file."""
    lines = [json.dumps({"question": q, "choices": choices, "gold": gold}) for q, choices, gold in QUESTIONS]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    described = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
        "test_split": "test",
        "fewshot_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        **keys,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(described), "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own = tmp_path / "tasks"
    own.mkdir()
    write_task(own, "toy_words")
    return own


@pytest.fixture
def own_tasks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lm-eval's own thousands of tasks, whose index takes many seconds."""
    from lm_eval.tasks import TaskManager

    def index(section: LmEvalSection) -> Any:
        return TaskManager(include_path=section.include_path, include_defaults=False)

    monkeypatch.setattr(tasks_module, "_index", index)


def section(folder: Path, **keys: Any) -> dict[str, Any]:
    return {"tasks": ["toy_words"], "include_path": str(folder), **keys}


def measure(loaded: Family, lm_eval: dict[str, Any], listener: Listener | None = None) -> dict[str, float | None]:
    return General(GeneralSection(lm_eval=LmEvalSection(**lm_eval)), 64).measure(loaded, listener or Listener())


def load(folder: Path) -> Family:
    return load_model(ModelSection(name=str(folder)), FullTuning())


def log_likelihood(loaded: Family, question: str, choice: str) -> float:
    """log p of a choice after the question, summed over its tokens, without one that ends it (as lm-eval does)."""
    ids = loaded.tokenizer(question, return_tensors="pt")["input_ids"]
    answer_ids = loaded.tokenizer(f" {choice}", return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        if loaded.model.config.is_encoder_decoder:
            logits = loaded.model.eval()(input_ids=ids, labels=answer_ids).logits
        else:
            both = torch.cat([ids, answer_ids], dim=1)
            logits = loaded.model.eval()(both).logits[:, ids.shape[1] - 1 : -1]
    return logits.log_softmax(-1).gather(2, answer_ids[..., None]).sum().item()


@needs_lm_eval
class TestScores:
    @pytest.mark.parametrize("model", ["flat_t5", "flat_llama"])
    def test_accuracy_by_hand(self, folder: Path, request: pytest.FixtureRequest, model: str) -> None:
        loaded = load(request.getfixturevalue(model))
        torch.manual_seed(5)  # a model that prefers now this choice, now that
        for parameter in loaded.model.parameters():
            parameter.data += 0.6 * torch.randn_like(parameter)
        plain, per_letter = [], []
        for question, choices, gold in QUESTIONS:
            scores = [log_likelihood(loaded, question, choice) for choice in choices]
            normed = [score / len(choice) for score, choice in zip(scores, choices, strict=True)]
            plain.append(scores.index(max(scores)) == gold)
            per_letter.append(normed.index(max(normed)) == gold)
        assert measure(loaded, section(folder)) == {
            "toy_words/acc": pytest.approx(sum(plain) / len(plain)),
            "toy_words/acc_norm": pytest.approx(sum(per_letter) / len(per_letter)),
        }
        few = measure(loaded, section(folder, limit=5, batch_size=2))
        assert few["toy_words/acc"] == pytest.approx(sum(plain[:5]) / 5)

    def test_solved_examples_are_the_same_each_time(self, folder: Path, flat_llama: Path) -> None:
        loaded = load(flat_llama)
        asked: list[torch.Tensor] = []
        loaded.model.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[0]))
        general = General(GeneralSection(lm_eval=LmEvalSection(**section(folder, num_fewshot=2, limit=1))), 64)
        general.measure(loaded, Listener())
        first, asked[:] = list(asked), []
        general.measure(loaded, Listener())
        assert all(torch.equal(a, b) for a, b in zip(first, asked, strict=True))
        asked.clear()
        measure(loaded, section(folder, limit=1))
        assert first[0].shape[1] > asked[0].shape[1] + 4  # two questions with their answers stand before the one asked

    @pytest.mark.usefixtures("own_tasks_only")
    def test_groups_and_tags(self, folder: Path, flat_llama: Path) -> None:
        write_task(folder, "one", tag="both_alone")
        write_task(folder, "two", tag="both_alone", metric_list=[{"metric": "acc"}])
        group = {
            "group": "together",
            "task": ["one", "two"],
            "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean"}],
        }
        (folder / "together.yaml").write_text(yaml.safe_dump(group), "utf-8")
        loaded = load(flat_llama)
        found = measure(loaded, section(folder, tasks=["together", "toy_words"], limit=4))
        assert list(found) == ["toy_words/acc", "toy_words/acc_norm", "together/acc"]
        found = measure(loaded, section(folder, tasks=["both_alone"], limit=4))
        assert list(found) == ["one/acc", "one/acc_norm", "two/acc"]

    def test_lora(self, folder: Path, flat_llama: Path) -> None:
        loaded = load_model(ModelSection(name=str(flat_llama)), LoraTuning(method="lora", rank=2))
        assert measure(loaded, section(folder)) == measure(load(flat_llama), section(folder))  # B is zero at first


@needs_lm_eval
class TestManners:
    def test_it_is_quiet_and_needs_no_network(
        self, folder: Path, flat_llama: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = load(flat_llama)
        asked: list[Any] = []

        def connect(*arguments: Any, **options: Any) -> None:
            asked.append(arguments)
            raise OSError("no network")

        monkeypatch.setattr(socket.socket, "connect", connect)
        monkeypatch.setattr(socket, "getaddrinfo", connect)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # as a user has it who did not think of it
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        capfd.readouterr()
        measure(loaded, section(folder))
        assert capfd.readouterr() == ("", "")
        assert asked == []

    @pytest.mark.parametrize("tuning", [{"method": "full"}, {"method": "lora", "rank": 2, "dropout": 0.3}])
    def test_training_is_the_same_with_and_without(
        self, tmp_path: Path, folder: Path, flat_llama: Path, tuning: dict[str, Any]
    ) -> None:
        runs = []
        for name, general in (("without", None), ("with", {"lm_eval": section(folder, num_fewshot=1)})):
            recipe = toy_recipe(tmp_path, flat_llama, training={"epochs": 1.0}, tuning=tuning, general=general)
            runs.append(train(recipe, tmp_path / name))
        part = "model/model.safetensors" if tuning["method"] == "full" else "adapter/adapter_model.safetensors"
        for stage in ("01-first", "02-second"):
            without, with_general = ((run.path / "tasks" / stage / part).read_bytes() for run in runs)
            assert without == with_general
        assert (runs[0].path / "matrix.json").read_bytes() == (runs[1].path / "matrix.json").read_bytes()
        for stage in RunFolder.open(runs[1].path).stages():
            assert list(stage.payload["general"]) == ["toy_words/acc", "toy_words/acc_norm"]

    def test_the_model_keeps_its_tokenizer_and_modes(self, folder: Path, flat_llama: Path) -> None:
        loaded = load(flat_llama)
        loaded.model.train()
        loaded.tokenizer.padding_side = "left"
        loaded.tokenizer.pad_token = None
        config = loaded.model.config.to_json_string()
        parameters = {name: id(one) for name, one in loaded.model.named_parameters()}
        measure(loaded, section(folder))
        assert all(part.training for part in loaded.model.modules())
        assert loaded.tokenizer.pad_token is None
        assert loaded.tokenizer.padding_side == "left"
        assert loaded.model.config.to_json_string() == config
        assert {name: id(one) for name, one in loaded.model.named_parameters()} == parameters

    def test_it_shows_its_progress_and_can_be_stopped(self, folder: Path, flat_t5: Path) -> None:
        heard: list[Any] = []

        class Heard(Listener):
            def evaluating(self, task: str, examples: int) -> None:
                heard.append((task, examples))

            def answered(self, examples: int) -> None:
                heard.append(examples)

        def stop() -> None:
            raise InterruptionError("SIGTERM")

        loaded = load(flat_t5)
        measure(loaded, section(folder), Heard())
        assert heard[0] == ("lm-eval", 2 * len(QUESTIONS))
        assert sum(heard[1:]) == 2 * len(QUESTIONS)
        with pytest.raises(InterruptionError):
            General(GeneralSection(lm_eval=LmEvalSection(**section(folder))), 64).measure(loaded, Listener(), stop)


@needs_lm_eval
class TestErrors:
    @pytest.mark.usefixtures("own_tasks_only")
    def test_an_unknown_task(self, tmp_path: Path, folder: Path, flat_t5: Path) -> None:
        lm_eval = section(folder, tasks=["toy_word", "toy_words"])
        recipe = toy_recipe(tmp_path, flat_t5, general={"lm_eval": lm_eval})
        line = (
            "general.lm_eval.tasks: lm-eval has no task 'toy_word', nor one in a readable YAML file of "
            f"{folder}, did you mean 'toy_words'? (`lm-eval ls tasks` lists them)"
        )
        assert missing_inputs(recipe) == [line]
        with pytest.raises(RecipeError) as refused:
            train(recipe, tmp_path / "run")
        assert refused.value.problems == [line]
        assert not (tmp_path / "run" / "recipe.yaml").exists()

    @pytest.mark.slow
    def test_a_misspelt_task_of_its_own(self, tmp_path: Path, folder: Path, flat_t5: Path) -> None:
        names = ["helaswag", "winogrande", "arc_challenge", "toy_words"]
        recipe = toy_recipe(tmp_path, flat_t5, general={"lm_eval": section(folder, tasks=names)})
        (line,) = missing_inputs(recipe)
        assert "'helaswag'" in line
        assert "did you mean 'hellaswag'?" in line

    def test_data_that_are_not_there(self, folder: Path) -> None:
        write_task(folder, "lost")
        (folder / "lost.jsonl").unlink()
        with pytest.raises(DataError, match=r"general\.lm_eval\.tasks: 'lost' cannot be loaded \(.*lost\.jsonl"):
            load_lm_eval_tasks(LmEvalSection(**section(folder, tasks=["lost"])))

    def test_code_of_models_is_not_run(self, folder: Path) -> None:
        write_task(folder, "program", unsafe_code=True)
        with pytest.raises(DataError, match="'program' runs code that models write"):
            load_lm_eval_tasks(LmEvalSection(**section(folder, tasks=["program"])))

    def test_solved_examples_for_a_task_that_takes_none(self, folder: Path) -> None:
        write_task(folder, "bare", num_fewshot=0)
        load_lm_eval_tasks(LmEvalSection(**section(folder, tasks=["bare"], num_fewshot=0)))
        with pytest.raises(DataError, match=r"num_fewshot: the task 'bare' takes no solved examples"):
            load_lm_eval_tasks(LmEvalSection(**section(folder, tasks=["bare"], num_fewshot=3)))


def test_without_lm_eval_a_recipe_that_asks_for_it_is_refused_before_anything_is_loaded(
    tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks_module, "find_spec", lambda name: None)
    recipe = toy_recipe(tmp_path, flat_t5, general={"lm_eval": {"tasks": ["hellaswag"]}})
    line = "general.lm_eval: lm-eval is not installed; pip install 'clkit[lm-eval]'"
    assert missing_inputs(recipe) == [line]
    with pytest.raises(RecipeError) as refused:
        train(recipe, tmp_path / "run")
    assert refused.value.problems == [line]
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.skipif(not INSTALLED, reason="the folder is looked for once lm-eval is there")
def test_a_missing_folder(tmp_path: Path, flat_t5: Path) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, general={"lm_eval": section(tmp_path / "none")})
    assert missing_inputs(recipe) == [f"general.lm_eval.include_path: no folder '{tmp_path}/none'"]


def test_a_miniature_needs_no_hub(tmp_path: Path, flat_t5: Path) -> None:
    small = smoke_recipe(toy_recipe(tmp_path, flat_t5, general={"when": "ends", "lm_eval": {"tasks": ["hellaswag"]}}))
    assert small.general == GeneralSection(when="ends", texts="builtin")

"""What is exported answers as the run did, by stock transformers and peft; the card's examples run as they stand."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file

from clkit.engine.evaluate import load_stage
from clkit.engine.exporting import TEXT, export
from clkit.engine.sequence import train
from clkit.errors import UsageError
from clkit.models.examples import task_texts
from clkit.models.family import UNFINISHED, Generating
from clkit.recipe.recipe import Recipe
from clkit.report.card import PEFT_CLASSES, model_card
from clkit.run.folder import RunFolder
from clkit.tasks.loading import load_tasks
from clkit.tasks.prompts import build_prompt
from tests.toy import TASKS, Finished, toy_recipe

AUTO = {
    "seq2seq": "AutoModelForSeq2SeqLM",
    "decoder": "AutoModelForCausalLM",
    "encoder": "AutoModelForSequenceClassification",
}
LORA, INCREMENTAL = ({"method": method, "rank": 3, "alpha": 12.0} for method in ("lora", "incremental_lora"))
FULL = {"method": "full"}
MERGED, ADAPTER = False, True


@pytest.fixture
def make(toy_tasks: Path, toy_t5: Path, toy_llama: Path, toy_roberta: Path, finished: Finished) -> Any:
    models = {"seq2seq": toy_t5, "decoder": toy_llama, "encoder": toy_roberta}

    def make(family: str, tuning: dict[str, Any], **changes: Any) -> RunFolder:
        objective = (
            {"objective": {"kind": "classification"}, "prompt": {"style": "text"}} if family == "encoder" else {}
        )
        training = {"batch_size": 4, "learning_rate": 1e-2, "epochs": 8.0}
        changes = {"tuning": tuning, "training": training, **objective, **changes}
        return finished(toy_recipe(toy_tasks, models[family], **changes))

    return make


def load(folder: Path, family: str, *, adapter: bool) -> Any:
    """The model as a stranger would load it."""
    if not adapter:
        return getattr(transformers, AUTO[family]).from_pretrained(folder)
    labels = {}
    if family == "encoder":
        config = transformers.AutoConfig.from_pretrained(folder)
        labels = {"id2label": config.id2label, "label2id": config.label2id}
    model = getattr(peft, PEFT_CLASSES[AUTO[family]]).from_pretrained(folder, **labels)
    if family != "encoder":
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model


def answers(folder: Path, family: str, prompts: dict[str, list[str]], *, adapter: bool) -> list[str]:
    """What stock libraries answer to one prompt after the other, with nothing of clkit."""
    model, tokenizer = load(folder, family, adapter=adapter), transformers.AutoTokenizer.from_pretrained(folder)
    given = []
    for task, prompt in [(task, prompt) for task in prompts for prompt in prompts[task]]:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        if family == "encoder":
            given.append(model.config.id2label[int(model(input_ids=ids).logits[0].argmax())])
            continue
        most = 1 + max(len(label.split()) for label in TASKS[task])
        answer = model.generate(input_ids=ids, max_new_tokens=most)[0]
        given.append(tokenizer.decode(answer[ids.shape[1] if family == "decoder" else 0 :], skip_special_tokens=True))
    return [answer.strip() for answer in given]


def predictions(run: RunFolder, stage: int, tasks: tuple[str, ...]) -> list[str]:
    lines = (run.stages()[stage].folder / "predictions.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [record["prediction"].removesuffix(UNFINISHED) for record in records if record["task"] in tasks]


def asked(run: RunFolder, *tasks: str) -> dict[str, list[str]]:
    recipe = Recipe.load(run.recipe_path)
    family = load_stage(run, recipe, None)
    chosen = [task for task in load_tasks(recipe) if task.name in tasks]
    return {task.name: task_texts(task, "test", family, recipe).prompts for task in chosen}


@pytest.mark.parametrize(
    ("family", "tuning", "adapter"),
    [
        ("seq2seq", FULL, MERGED),
        ("seq2seq", LORA, ADAPTER),
        ("seq2seq", INCREMENTAL, MERGED),
        ("seq2seq", INCREMENTAL, ADAPTER),
        ("decoder", FULL, MERGED),
        ("decoder", LORA, MERGED),
        ("decoder", LORA, ADAPTER),
        ("decoder", INCREMENTAL, ADAPTER),
        ("encoder", FULL, MERGED),
        ("encoder", LORA, MERGED),
        ("encoder", INCREMENTAL, ADAPTER),
    ],
)
def test_stock_libraries_give_the_runs_own_predictions_and_the_cards_examples_run(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, tuning: dict[str, Any], adapter: bool
) -> None:
    run = make(family, tuning)
    out = tmp_path / "out"
    done = export(run, out, model_card, adapter=adapter)
    given = answers(out, family, asked(run, *TASKS), adapter=adapter)
    assert given == predictions(run, 2, tuple(TASKS))
    assert len(set(given)) > 1
    assert done.rank == (None if not adapter else 6 if tuning is INCREMENTAL else 3)
    assert (out / "model.safetensors").is_file() != adapter

    monkeypatch.chdir(out)
    recipe = Recipe.load(run.recipe_path)
    own = load_stage(run, recipe, None)
    own.model.eval()
    card = Path("README.md").read_text("utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", card, flags=re.MULTILINE | re.DOTALL)
    for task, example in zip(load_tasks(recipe), examples, strict=True):
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile(example, "README.md", "exec"), {})
        (expected,) = own.answer([str(build_prompt(task, TEXT, recipe.prompt))], task)
        assert said.getvalue().strip() == expected.removesuffix(UNFINISHED).strip()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == ("peft" if adapter else "transformers")
    assert "base_model" not in front  # which has no place on the hub
    assert str(Path(recipe.model.name).parent) not in card

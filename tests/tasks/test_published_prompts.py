"""The prompts of the papers' 15 tasks against the published code, text by text and token by token.

`published` was written anew after O-LoRA's `uie_dataset_lora.py`, `uie_collator.py` and `instruction_config_cl.json`
(github.com/cmnfriend/O-LoRA), which MIGU's code shares: a task's question, its options, its sentence as it stands in
the folder, and the two lines before them; COPA has its sentence alone.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

from clkit.models.examples import task_texts
from clkit.models.loading import load_model
from clkit.models.sections import FullTuning, ModelSection
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.tasks.task import Split

QUESTIONS = {
    "NLI": 'What is the logical relationship between the "sentence 1" and the "sentence 2"? '
    "Choose one from the option.\n",
    "QQP": 'Whether the "first sentence" and the "second sentence" have the same meaning? '
    "Choose one from the option.\n",
    "SC": "What is the sentiment of the following paragraph? Choose one from the option.\n",
    "TC": "What is the topic of the following paragraph? Choose one from the option.\n",
    "BoolQA": "According to the following passage, is the question true or false? Choose one from the option.\n",
    "MultiRC": "According to the following passage and question, is the candidate answer true or false? "
    "Choose one from the option.\n",
    "WiC": "Given a word and two sentences, whether the word is used with the same sense in both sentence? "
    "Choose one from the option.\n",
}


def published(folder: Path, group: str, dataset: str, split: str) -> list[str]:
    labels = json.loads((folder / group / dataset / "labels.json").read_text(encoding="utf-8"))
    template = "{0}" + "\nAnswer:"
    if group != "COPA":
        template = QUESTIONS[group] + "Option: " + ", ".join(labels) + " \n" + template
    records = json.loads((folder / group / dataset / f"{split}.json").read_text(encoding="utf-8"))
    return [f"Task:{group}\nDataset:{dataset}\n" + template.format(record["sentence"]) for record in records]


def test_every_prompt_is_the_published_one(cl_benchmark: Path, t5_tiny: Path) -> None:
    recipe = Recipe.load("t5_order4", [f"benchmark.folder={cl_benchmark}", "prompt.max_tokens=100000"])
    assert recipe.prompt.task_name
    tasks = load_tasks(recipe)
    assert len(tasks) == 15
    families = [load_model(ModelSection(name=name), FullTuning()) for name in (str(t5_tiny), "embedded:tiny-llama")]
    splits: tuple[Split, ...] = ("train", "test")
    for task, split in product(tasks, splits):
        theirs = published(cl_benchmark, task.group, task.name, split)
        for family in families:
            ours = task_texts(task, split, family, recipe).prompts
            assert ours == theirs, task.name
            assert family.tokenizer(ours[:100])["input_ids"] == family.tokenizer(theirs[:100])["input_ids"]


def test_answers_are_encoded_as_published(cl_benchmark: Path, t5_tiny: Path) -> None:
    """The published collator tokenizes the label by itself, which ends it with the end token."""
    recipe = Recipe.load("t5_order4", [f"benchmark.folder={cl_benchmark}", f"model.name={t5_tiny}"])
    family = load_model(recipe.model, recipe.tuning)
    for task in load_tasks(recipe):
        assert task.labels is not None
        encoded = family.encode(["x"] * len(task.labels), task.labels)["labels"]
        assert encoded == [family.tokenizer(label)["input_ids"] for label in task.labels]

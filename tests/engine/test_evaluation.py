"""Answers, batches and scoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clkit.engine.evaluation import SIMILAR, Examiner, batches_of_similar_length
from clkit.engine.examples import task_prompts
from clkit.models.loading import LoadedModel, load_model
from clkit.recipe.recipe import Recipe
from clkit.recipe.sections import FullTuning
from clkit.tasks.loading import load_tasks
from clkit.tasks.task import Task
from tests.toy import toy_recipe


@given(lengths=st.lists(st.integers(1, 600), max_size=80), size=st.integers(1, 16))
def test_batches_hold_every_index_once_and_little_padding(lengths: list[int], size: int) -> None:
    batches = batches_of_similar_length(lengths, size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) <= size
        assert all(lengths[index] >= SIMILAR * longest for index in batch)


@pytest.fixture
def recipe(tmp_path: Path, toy_t5: Path) -> Recipe:
    return toy_recipe(tmp_path, toy_t5)


@pytest.fixture
def toy(recipe: Recipe) -> tuple[LoadedModel, list[Task]]:
    return load_model(recipe.model, FullTuning()), load_tasks(recipe)


def one_by_one(loaded: LoadedModel, task: Task, recipe: Recipe, new_tokens: int) -> list[str]:
    """Greedy decoding written out: no batches, no cache, no padding."""
    model, tokenizer = loaded.model.eval(), loaded.tokenizer
    answers = []
    for prompt in task_prompts(task, "test", tokenizer, recipe):
        source = tokenizer(prompt, return_tensors="pt")
        decoded = [model.config.decoder_start_token_id]
        for _ in range(new_tokens):
            with torch.no_grad():
                logits = model(**source, decoder_input_ids=torch.tensor([decoded])).logits
            decoded.append(int(logits[0, -1].argmax()))
            if decoded[-1] == tokenizer.eos_token_id:
                break
        text = tokenizer.decode(decoded, skip_special_tokens=True)
        answers.append(text if decoded[-1] == tokenizer.eos_token_id else text + " …")
    return answers


def evaluated(recipe: Recipe, **evaluation: Any) -> Recipe:
    return recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update=evaluation)})


def test_answers_are_those_of_decoding_one_by_one_in_the_order_of_the_data(
    toy: tuple[LoadedModel, list[Task]], recipe: Recipe
) -> None:
    loaded, tasks = toy
    examiner = Examiner(tasks, evaluated(recipe, batch_size=5))
    for task, longest in zip(tasks, (2, 3), strict=True):  # "w3 w4" and the end of sequence are three tokens
        answers = examiner.test(loaded, task.name)
        assert list(answers.predictions) == one_by_one(loaded, task, recipe, longest)
        assert list(answers.gold) == task.test["answer"][:]


def test_ranking_picks_the_label_with_the_largest_likelihood(
    toy: tuple[LoadedModel, list[Task]], recipe: Recipe
) -> None:
    loaded, tasks = toy
    examiner = Examiner(tasks, evaluated(recipe, batch_size=7, answer="rank"))
    model, tokenizer = loaded.model.eval(), loaded.tokenizer
    for task in tasks:
        expected = []
        for prompt in task_prompts(task, "test", tokenizer, recipe):
            likelihood = []
            for label in task.labels or ():
                labels = tokenizer(label, return_tensors="pt")["input_ids"]
                with torch.no_grad():  # the model's own loss is a mean over the label's tokens
                    loss = model(**tokenizer(prompt, return_tensors="pt"), labels=labels).loss
                likelihood.append(-float(loss) * labels.numel())
            expected.append((task.labels or ())[likelihood.index(max(likelihood))])
        assert list(examiner.test(loaded, task.name).predictions) == expected
        assert len(set(expected)) > 1 or task.name == "second"

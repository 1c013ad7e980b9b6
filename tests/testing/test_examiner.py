"""Answers, batches and scoring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from clkit.errors import DataError
from clkit.events import Listener
from clkit.models.examples import task_texts
from clkit.models.family import Family
from clkit.models.loading import load_model
from clkit.models.sections import FullTuning, ModelSection
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.results.scores import Likelihoods
from clkit.tasks.task import Task
from clkit.testing import examiner as module
from clkit.testing.examiner import MORE, SIMILAR, Examiner, batches_of_similar_length
from tests.toy import toy_recipe


@given(lengths=st.lists(st.integers(1, 600), max_size=80), size=st.integers(1, 16))
def test_batches_hold_every_index_once_and_little_padding(lengths: list[int], size: int) -> None:
    batches = batches_of_similar_length(lengths, size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) <= MORE * size
        assert len(batch) * longest <= size * max(lengths)
        assert all(lengths[index] >= SIMILAR * longest for index in batch)


@pytest.fixture
def recipe(tmp_path: Path, flat_t5: Path) -> Recipe:
    return toy_recipe(tmp_path, flat_t5)


@pytest.fixture
def toy(recipe: Recipe) -> tuple[Family, list[Task]]:
    return load_model(recipe.model, FullTuning()), load_tasks(recipe)


def one_by_one(loaded: Family, task: Task, recipe: Recipe, new_tokens: int) -> list[str]:
    """Greedy decoding written out: no batches, no cache, no padding."""
    model, tokenizer = loaded.model.eval(), loaded.tokenizer
    answers = []
    for prompt in task_texts(task, "test", loaded, recipe).prompts:
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
    toy: tuple[Family, list[Task]], recipe: Recipe
) -> None:
    loaded, tasks = toy
    examiner = Examiner(tasks, evaluated(recipe, batch_size=5))
    for task, longest in zip(tasks, (2, 3), strict=True):  # "w3 w4" and the end of sequence are three tokens
        answers = examiner.test(loaded, task.name)
        assert list(answers.predictions) == one_by_one(loaded, task, recipe, longest)
        assert list(answers.gold) == task.test["answer"][:]


def test_ranking_picks_the_label_with_the_largest_likelihood(toy: tuple[Family, list[Task]], recipe: Recipe) -> None:
    loaded, tasks = toy
    examiner = Examiner(tasks, evaluated(recipe, batch_size=7, answer="rank"))
    model, tokenizer = loaded.model.eval(), loaded.tokenizer
    for task in tasks:
        expected = []
        for prompt in task_texts(task, "test", loaded, recipe).prompts:
            likelihood = []
            for label in task.labels or ():
                labels = tokenizer(label, return_tensors="pt")["input_ids"]
                with torch.no_grad():  # the model's own loss is a mean over the label's tokens
                    loss = model(**tokenizer(prompt, return_tensors="pt"), labels=labels).loss
                likelihood.append(-float(loss) * labels.numel())
            expected.append((task.labels or ())[likelihood.index(max(likelihood))])
        assert list(examiner.test(loaded, task.name).predictions) == expected
        assert len(set(expected)) > 1 or task.name == "second"


def test_both_ways_of_asking_are_each_what_it_is_alone(toy: tuple[Family, list[Task]], recipe: Recipe) -> None:
    family, tasks = toy
    tested = {
        answer: [Examiner(tasks, evaluated(recipe, answer=answer)).test(family, task.name) for task in tasks]
        for answer in ("generate", "rank", "both")
    }
    for generated, ranked, both in zip(*tested.values(), strict=True):
        assert list(both.predictions) == list(generated.predictions)
        assert list(both.ranked) == list(ranked.predictions)
        assert both.scores == generated.scores | {"accuracy_ranked": ranked.scores["exact_match"]}
        assert ranked.scores["outside_labels"] == 0
    free = replace(tasks[0], labels=None)  # which cannot be ranked, beside a task that can
    assert Examiner([free], evaluated(recipe, answer="both")).test(family, free.name).ranked is None


def test_chance_is_that_of_the_split_that_is_tested(toy: tuple[Family, list[Task]], recipe: Recipe) -> None:
    _, (task, _) = toy
    labels = task.labels or ()
    learned, tested = ([labels[0]] + [labels[1]] * 2, [labels[0]] * 3 + [labels[1]])
    free = replace(task, name="free", labels=None)
    own = replace(
        task,
        train=Dataset.from_dict({"text": ["w1"] * 3, "answer": learned}),
        test=Dataset.from_dict({"text": ["w1"] * 4, "answer": tested}),
    )
    examiner = Examiner([own, free], recipe)
    assert examiner.chance(own.name)["exact_match"] == {"uniform": 1 / len(labels), "majority": 1 / 4}
    assert examiner.chance("free") == {}
    assert Examiner([own], evaluated(recipe, metric="loss")).chance(own.name) == {}


def likelihoods(examiner: Examiner, loaded: Family, task: str, listener: Listener | None = None) -> Likelihoods:
    tested = examiner.test(loaded, task, listener)
    assert isinstance(tested, Likelihoods)
    return tested


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_loss_is_that_of_the_answers_one_by_one(
    toy: tuple[Family, list[Task]], recipe: Recipe, batch_size: int
) -> None:
    loaded, tasks = toy
    model, tokenizer = loaded.model.eval(), loaded.tokenizer
    examiner = Examiner(tasks, evaluated(recipe, batch_size=batch_size, metric="loss"))
    for task in tasks:
        tested = likelihoods(examiner, loaded, task.name)
        prompts = task_texts(task, "test", loaded, recipe).prompts
        for index, (prompt, answer) in enumerate(zip(prompts, task.test["answer"], strict=True)):
            labels = tokenizer(answer, return_tensors="pt")["input_ids"]
            with torch.no_grad():  # the model's own loss is a mean over the answer's tokens, the end of sequence too
                mean = float(model(**tokenizer(prompt, return_tensors="pt"), labels=labels).loss)
            assert tested.tokens[index] == labels.numel()
            assert tested.nll[index] == pytest.approx(mean * labels.numel(), rel=1e-5)
        assert tested.loss == pytest.approx(sum(tested.nll) / sum(tested.tokens))
        assert examiner.examples(loaded, task.name) == tested.examples == len(task.test)


@pytest.fixture
def plain(tmp_path: Path, flat_llama: Path) -> tuple[Family, list[Task], Recipe]:
    """A decoder, and two domains of plain text, in blocks of 8 tokens or fewer."""
    domains = []
    for name, first in (("one", 0), ("two", 20)):
        for split in ("train", "test"):
            documents = [" ".join(f"w{first + (n * m) % 17}" for m in range(1, n)) for n in range(2, 14)]
            (tmp_path / f"{name}-{split}.txt").write_text("\n\n".join(documents), "utf-8")
        paths = {split: str(tmp_path / f"{name}-{split}.txt") for split in ("train", "test")}
        domains.append({"name": name, "source": {"kind": "files", **paths}})
    recipe = Recipe.model_validate(
        {
            "name": "plain",
            "model": {"name": str(flat_llama)},
            "tasks": domains,
            "objective": {"kind": "pretraining", "block_tokens": 8},
            "evaluation": {"batch_size": 3},
        }
    )
    return load_model(recipe.model, FullTuning(), objective=recipe.objective), load_tasks(recipe), recipe


class Counts(Listener):
    """How many examples a test announced and how many were done."""

    def __init__(self) -> None:
        self.announced = self.done = 0

    def evaluating(self, task: str, examples: int) -> None:
        self.announced += examples

    def answered(self, examples: int) -> None:
        self.done += examples


def test_the_perplexity_of_plain_text_is_that_of_its_blocks_one_by_one(
    plain: tuple[Family, list[Task], Recipe],
) -> None:
    loaded, tasks, recipe = plain
    model, tokenizer = loaded.model.eval(), loaded.tokenizer
    examiner = Examiner(tasks, recipe)
    for task in tasks:
        nll, tokens = 0.0, 0
        blocks = task_texts(task, "test", loaded, recipe).answers
        for block in blocks:
            ids = tokenizer(block, return_tensors="pt")["input_ids"]
            with torch.no_grad():  # the model's own loss is a mean over all tokens but the first
                nll += float(model(input_ids=ids, labels=ids).loss) * (ids.numel() - 1)
            tokens += ids.numel() - 1
        counts = Counts()
        tested = likelihoods(examiner, loaded, task.name, counts)
        assert tested.scores["loss"] == pytest.approx(nll / tokens, rel=1e-5)
        assert tested.scores["perplexity"] == pytest.approx(2.718281828459045 ** (nll / tokens), rel=1e-5)
        assert sum(tested.tokens) == tokens
        assert counts.announced == counts.done == tested.examples == examiner.examples(loaded, task.name) == len(blocks)
        assert len(blocks) > 8


def test_processes_share_the_batches_and_find_the_same(
    plain: tuple[Family, list[Task], Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, tasks, recipe = plain
    alone = likelihoods(Examiner(tasks, recipe), loaded, "one")
    shares: list[Any] = []
    for rank in (0, 1):
        state = SimpleNamespace(process_index=rank, num_processes=2, device=torch.device("cpu"))
        monkeypatch.setattr(module, "processes", lambda state=state: state)
        monkeypatch.setattr(module, "gather_object", lambda found: shares.append(found) or found)
        likelihoods(Examiner(tasks, recipe), loaded, "one")
    assert all(0 < len(share) < alone.examples for share in shares)
    monkeypatch.setattr(module, "gather_object", lambda found: shares[0] + shares[1])
    assert likelihoods(Examiner(tasks, recipe), loaded, "one") == alone


def test_masked_spans_are_the_same_in_every_test_and_their_loss_the_models_own() -> None:
    recipe = Recipe.model_validate(
        {
            "name": "spans",
            "model": {"name": "embedded:tiny-t5"},
            "tasks": [{"name": "topics", "source": {"kind": "sample", "task": "topics"}}],
            "objective": {"kind": "pretraining", "block_tokens": 64},
            "data": {"test_per_task": 12},
            "evaluation": {"batch_size": 1},
        }
    )
    loaded = load_model(ModelSection(name="embedded:tiny-t5"), FullTuning(), objective=recipe.objective)
    tasks = load_tasks(recipe)
    tested = likelihoods(Examiner(tasks, recipe), loaded, "topics")
    assert likelihoods(Examiner(tasks, recipe), loaded, "topics") == tested
    blocks = task_texts(tasks[0], "test", loaded, recipe).answers
    collate = loaded.collator()
    for index, block in enumerate(blocks):
        batch = collate([{"input_ids": loaded.tokenizer(block, add_special_tokens=False)["input_ids"]}])
        with torch.no_grad():
            mean = float(loaded.model(input_ids=batch["input_ids"], labels=batch["labels"]).loss)
        assert tested.tokens[index] == batch["labels"].numel()
        assert tested.nll[index] == pytest.approx(mean * batch["labels"].numel(), rel=1e-5)
    assert tested.examples == len(blocks) > 3


def test_texts_without_a_word_are_named(plain: tuple[Family, list[Task], Recipe]) -> None:
    loaded, tasks, recipe = plain
    empty = replace(tasks[0], test=Dataset.from_dict({"text": ["", " \n"], "answer": [None, None]}))
    with pytest.raises(DataError, match=r"^task 'one': the texts of the test split hold no word; choose another$"):
        Examiner([empty], recipe).examples(loaded, "one")

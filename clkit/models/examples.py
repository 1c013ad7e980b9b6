"""A task's examples as a model learns and is tested on them: a prompt, an answer and the name of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from typing import NamedTuple, Protocol

from datasets import Dataset

from clkit.errors import DataError
from clkit.models.family import Family, Generating
from clkit.models.objective import Objective, Pretraining
from clkit.models.registry import known_families
from clkit.results.answers import Comparison
from clkit.section import code_points
from clkit.tasks.blocks import blocks
from clkit.tasks.conversations import NO_TURNS
from clkit.tasks.prompts import build_prompt, fit_all
from clkit.tasks.sections import PromptSection
from clkit.tasks.task import Split, Task, string_columns

#: Tokens of a block of plain text beside other examples, at most.
TEXT_TOKENS = 256


class Reading(Protocol):
    """What a recipe says of how examples are read."""

    @property
    def prompt(self) -> PromptSection: ...

    @property
    def objective(self) -> Objective: ...


class Texts(NamedTuple):
    """The examples of a split as the model is to read and write them.

    Attributes:
        prompts: each shortened to fit; of a conversation, with all that stands before the answer.
        answers: for pretraining, blocks of text, which answer no prompt.
        cut: how many prompts were shortened.
    """

    prompts: list[str]
    answers: list[str]
    cut: int = 0


def task_texts(task: Task, split: Split, family: Family, recipe: Reading) -> Texts:
    """The examples of a split.

    Raises:
        DataError: a prompt is too long however much it is shortened, the chat template does not hold a conversation, or
            the texts for pretraining hold no word.
    """
    rows = task.split(split)
    if recipe.objective.kind != "pretraining":
        return _texts(task, rows, family, recipe)
    answers = blocks(rows["text"], family.tokenizer, recipe.objective.block_tokens)
    if not answers:
        raise DataError(f"task '{task.name}': the texts of the {split} split hold no word; choose another")
    return Texts([""] * len(answers), answers)


def _texts(task: Task, rows: Dataset, family: Family, recipe: Reading) -> Texts:
    turns, places = (
        rows[name] if name in rows.column_names else repeat(default)
        for name, default in (("turns", NO_TURNS), ("place", ""))
    )
    columns = zip(rows["text"], turns, places, strict=False)
    prompts = [build_prompt(task, text, recipe.prompt, said, place) for text, said, place in columns]
    answers = rows["answer"][:]
    if family.chat is not None:
        prompts, answers = family.chat.frame(prompts, answers, f"task '{task.name}'")
    fitted = fit_all(prompts, family.tokenizer, recipe.prompt.max_tokens, framed=family.chat is not None)
    return Texts(fitted, answers, sum(str(whole) != text for whole, text in zip(prompts, fitted, strict=True)))


def without_unusable(task: Task, family: Family, recipe: Reading) -> Task:
    """The task without the rows that make no prompt, where such are to be dropped: their turns are not what the chat
    template can render, say, or too long.

    Raises:
        DataError: that leaves none.
    """
    if not task.drops or recipe.objective.kind == "pretraining":
        return task
    dropped = dict(task.dropped)
    splits = {name: rows for name in ("train", "validation", "test") if (rows := getattr(task, name)) is not None}
    for name, rows in splits.items():
        fault, kept = None, []
        for index in range(len(rows)):
            try:
                _texts(task, rows.select([index]), family, recipe)
            except DataError as error:
                fault = fault or error
            else:
                kept.append(index)
        if fault is not None:
            if not kept:
                raise fault
            splits[name] = rows.select(kept)
            dropped[f"unusable {name}"] = dropped.get(f"unusable {name}", 0) + len(rows) - len(kept)
    return replace(task, **splits, dropped=dropped)


def task_examples(task: Task, texts: Texts, *, plain_text: bool = False) -> Dataset:
    """The examples as a table with the columns `prompt`, `answer` and `task`.

    Args:
        plain_text: the answers are texts beside examples of another objective, which null in place of a prompt says.
    """
    prompts = [None] * len(texts.prompts) if plain_text else texts.prompts
    return string_columns({"prompt": prompts, "answer": texts.answers, "task": [task.name] * len(prompts)})


def refuse_unwritable_labels(family: Family, task: Task, by: Comparison) -> None:
    """Check that every label survives the tokenizer: one that does not could never be answered.

    Raises:
        DataError: a label is read back as something else.
    """
    for label, read in unwritable(family, task.labels or (), by):
        known = f"'{read}'" if read.strip() else "nothing"
        raise DataError(
            f"task '{task.name}': the model's tokenizer cannot spell the label '{label}' ({code_points(label)}): it "
            f"reads {known} of it, so no answer could be right; give other words in `labels` or `label_names`, or use "
            "another model"
        )


def unwritable(family: Family, answers: Sequence[str], by: Comparison) -> list[tuple[str, str]]:
    """The answers that exact match would not know again if the model wrote their tokens, with what is read of them."""
    if not isinstance(family, Generating) or not answers:
        return []
    read = family.as_written(answers)
    return [pair for pair in zip(answers, read, strict=True) if not by.same(*pair)]


def encode(family: Family, examples: Dataset, chosen: Sequence[int] | None = None) -> Dataset:
    """The examples as the model reads them, one row each; ``chosen``: only these, in this order."""
    rows = examples if chosen is None else examples.select(chosen)
    columns = [rows[name][:] for name in ("prompt", "answer", "task")]
    plain = {index for index, prompt in enumerate(columns[0]) if prompt is None}
    if not plain:
        return Dataset.from_dict(family.encode(*columns))
    texts = predicting(family).encode_texts([columns[1][index] for index in sorted(plain)])
    own = [index for index in range(len(rows)) if index not in plain]
    if not own:
        return Dataset.from_dict(texts)
    encoded = family.encode(*([column[index] for index in own] for column in columns))
    placed = sorted(range(len(rows)), key=[*own, *sorted(plain)].__getitem__)
    return Dataset.from_dict({name: [*encoded[name], *texts[name]] for name in encoded}).select(placed)


def predicting(family: Family) -> Family:
    """The same model, for plain text whatever the family's own objective is: as it was pre-trained."""
    pretraining = known_families()[family.name]["pretraining"]
    return pretraining(family.model, family.tokenizer, Pretraining(kind="pretraining", block_tokens=TEXT_TOKENS))

"""A task's examples as a model learns and is tested on them: a prompt, an answer and the name of the task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from datasets import Dataset, Features, List, Value, concatenate_datasets

from clkit.errors import DataError
from clkit.models.family import Family, Generating
from clkit.models.lengths import Examples, Lengths
from clkit.models.objective import Objective, Pretraining
from clkit.models.registry import known_families
from clkit.results.answers import Comparison
from clkit.section import code_points
from clkit.tasks.blocks import blocks
from clkit.tasks.conversations import NO_TURNS
from clkit.tasks.prompts import Limit, build_prompt
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
        cut, cut_answers: how many prompts and answers were shortened.
        learned: where in each prompt turns are learned too; None where only answers are.
    """

    prompts: list[str]
    answers: list[str]
    cut: int = 0
    cut_answers: int = 0
    learned: list[list[tuple[int, int]]] | None = None


def task_texts(task: Task, split: Split, family: Family, recipe: Reading) -> Texts:
    """The examples of a split.

    Raises:
        DataError: an example is too long where that is an error, or a prompt however much it is shortened, the chat
            template does not hold a conversation, or the texts for pretraining hold no word.
    """
    rows = task.split(split)
    if recipe.objective.kind != "pretraining":
        own = _Rows(task, rows, family, recipe, learned=split == "train")
        if recipe.prompt.on_too_long == "error":
            own.refuse_too_long()
        return own.texts()
    answers = blocks(rows["text"], family.tokenizer, recipe.objective.block_tokens)
    if not answers:
        raise DataError(f"task '{task.name}': the texts of the {split} split hold no word; choose another")
    return Texts([""] * len(answers), answers)


class _Rows:
    """Rows of a task as prompts and answers, and what is too long of them."""

    def __init__(self, task: Task, rows: Dataset, family: Family, recipe: Reading, *, learned: bool) -> None:
        self._task, self._family, self._section = task, family, recipe.prompt
        self._text, answers = rows["text"][:], rows["answer"][:]
        self._turns, self._places = (
            rows[name][:] if name in rows.column_names else [default] * len(rows)
            for name, default in (("turns", NO_TURNS), ("place", ""))
        )
        self._plain_answers = answers
        # A label is never cut: `Lengths` has nothing to say of it.
        self._lengths = Lengths(family, recipe.prompt, learned=learned and task.labels is None)
        objective = recipe.objective
        self._all_turns = learned and objective.kind == "text_to_text" and objective.loss_on == "all_turns"
        self.whole = self._framed(range(len(rows)), self._turns)

    def _framed(self, indices: Sequence[int], turns: Sequence[str]) -> Examples:
        prompts = [
            build_prompt(self._task, self._text[index], self._section, said, self._places[index])
            for index, said in zip(indices, turns, strict=True)
        ]
        answers = [self._plain_answers[index] for index in indices]
        if self._family.chat is not None:
            where = f"task '{self._task.name}'"
            prompts, answers = self._family.chat.frame(prompts, answers, where, all_turns=self._all_turns)
        return Examples(prompts, answers)

    def too_long(self) -> Iterator[tuple[int, Limit, int]]:
        return self._lengths.too_long(self.whole)

    def refuse_too_long(self) -> None:
        for index, limit, tokens in self.too_long():
            place = self._places[index] or f"task '{self._task.name}'"
            raise DataError(
                f"{place}: {limit.key}: the {limit.what} takes {tokens:,} tokens, more than {limit.tokens:,}; shorten "
                "it, raise the limit, or set prompt.on_too_long to shorten or drop"
            )

    def texts(self) -> Texts:
        short = self._lengths.shortened(self.whole, self._turns, lambda *rows: self._framed(*rows).prompts)
        prompts = [str(prompt) for prompt in short.prompts]
        cut = sum(str(whole) != prompt for whole, prompt in zip(self.whole.prompts, prompts, strict=True))
        cut_answers = sum(whole != answer for whole, answer in zip(self.whole.answers, short.answers, strict=True))
        learned = [prompt.all_learned() for prompt in short.prompts] if self._all_turns else None
        return Texts(prompts, list(short.answers), cut, cut_answers, learned)


def without_unusable(task: Task, family: Family, recipe: Reading) -> Task:
    """The task without the rows that make no prompt, where such are to be dropped (their turns are not what the chat
    template can render, say), and without training examples that are too long, where these are.

    Raises:
        DataError: that leaves none.
    """
    if recipe.objective.kind == "pretraining":
        return task
    if task.drops:
        task = _without_broken(task, family, recipe)
    if recipe.prompt.on_too_long != "drop":
        return task
    long = {index: limit for index, limit, _ in _Rows(task, task.train, family, recipe, learned=True).too_long()}
    if len(long) == len(task.train):
        raise DataError(
            f"task '{task.name}': all {len(long):,} training examples are longer than {long[0].key} "
            f"({long[0].tokens:,}); raise it, or set prompt.on_too_long to shorten"
        )
    kept = [index for index in range(len(task.train)) if index not in long]
    counted = {"too long train": len(long)} if long else {}
    return replace(task, train=task.train.select(kept), dropped={**task.dropped, **counted}) if long else task


def _without_broken(task: Task, family: Family, recipe: Reading) -> Task:
    dropped = dict(task.dropped)
    splits = {name: rows for name in ("train", "validation", "test") if (rows := getattr(task, name)) is not None}
    for name, rows in splits.items():
        fault, kept = None, []
        for index in range(len(rows)):
            try:
                _Rows(task, rows.select([index]), family, recipe, learned=name == "train").texts()
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
    """The examples as a table with the columns `prompt`, `answer` and `task`, and `learned` where there is such.

    Args:
        plain_text: the answers are texts beside examples of another objective, which null in place of a prompt says.
    """
    prompts = [None] * len(texts.prompts) if plain_text else texts.prompts
    table = string_columns({"prompt": prompts, "answer": texts.answers, "task": [task.name] * len(prompts)})
    if texts.learned is None:
        return table
    spans = Features({"learned": List(List(Value("int64")))})
    return concatenate_datasets([table, Dataset.from_dict({"learned": texts.learned}, features=spans)], axis=1)


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
    learned = rows["learned"][:] if "learned" in rows.column_names else None

    def encoded(indices: Sequence[int]) -> dict[str, list[Any]]:
        prompts, answers, tasks = ([column[index] for index in indices] for column in columns)
        made = family.encode(prompts, answers, tasks)
        if learned is not None:
            family.learn_turns(made, prompts, answers, [learned[index] for index in indices])
        return made

    if not plain:
        return Dataset.from_dict(encoded(range(len(rows))))
    texts = predicting(family).encode_texts([columns[1][index] for index in sorted(plain)])
    own = [index for index in range(len(rows)) if index not in plain]
    if not own:
        return Dataset.from_dict(texts)
    placed = sorted(range(len(rows)), key=[*own, *sorted(plain)].__getitem__)
    return Dataset.from_dict({name: [*rest, *texts[name]] for name, rest in encoded(own).items()}).select(placed)


def predicting(family: Family) -> Family:
    """The same model, for plain text whatever the family's own objective is: as it was pre-trained."""
    pretraining = known_families()[family.name]["pretraining"]
    return pretraining(family.model, family.tokenizer, Pretraining(kind="pretraining", block_tokens=TEXT_TOKENS))

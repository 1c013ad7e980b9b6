"""A task's examples as a model learns and is tested on them: a prompt, an answer and the name of the task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, Protocol

from datasets import Dataset, Features, List, Value

from clkit.errors import DataError
from clkit.models.family import Family, Generating
from clkit.models.lengths import Examples, Lengths
from clkit.models.objective import Objective, Pretraining
from clkit.models.registry import known_families
from clkit.results.answers import Comparison
from clkit.tasks.blocks import iter_blocks
from clkit.tasks.conversations import NO_TURNS
from clkit.tasks.prompts import Limit, build_prompt
from clkit.tasks.sections import PromptSection
from clkit.tasks.stored import BATCH, in_batches, stored, string_features, values
from clkit.tasks.task import Split, Task
from clkit.wording import code_points

#: Tokens of a block of plain text beside other examples, at most.
TEXT_TOKENS = 256
_COLUMNS = ("prompt", "answer", "task")


class Reading(Protocol):
    """What a recipe says of how examples are read."""

    @property
    def prompt(self) -> PromptSection: ...

    @property
    def objective(self) -> Objective: ...


class Texts(NamedTuple):
    """The examples of a split as the model is to read and write them.

    Attributes:
        examples: a table with the columns `prompt`, shortened to fit (of a conversation, all that stands before the
            answer), `answer` (for pretraining a block of text, which answers no prompt), `task` (its name) and, where
            turns in prompts are learned too, `learned`: where those stand.
        cut, cut_answers: how many prompts and answers were shortened.
    """

    examples: Dataset
    cut: int = 0
    cut_answers: int = 0

    @property
    def prompts(self) -> list[str]:
        """All prompts at once, as a test needs them."""
        return [*values(self.examples, "prompt")]

    @property
    def answers(self) -> list[str]:
        """The answers to `prompts`."""
        return [*values(self.examples, "answer")]


def task_texts(task: Task, split: Split, family: Family, recipe: Reading) -> Texts:
    """The examples of a split.

    Raises:
        DataError: an example is too long where that is an error, or a prompt however much it is shortened, the chat
            template does not hold a conversation, or the texts for pretraining hold no word.
    """
    rows = task.split(split)
    if recipe.objective.kind == "pretraining":
        examples = stored(_blocks(task, rows, family, recipe.objective.block_tokens), _features(all_turns=False))
        if not len(examples):
            raise DataError(f"task '{task.name}': the texts of the {split} split hold no word; choose another")
        return Texts(examples)
    cut: Counter[str] = Counter()

    def made() -> Iterator[Mapping[str, Sequence[Any]]]:
        for batch in in_batches(rows):
            some = _Rows(task, batch, family, recipe, learned=split == "train")
            if recipe.prompt.on_too_long == "error":
                some.refuse_too_long()
            yield some.texts(cut)

    examples = stored(made(), _features(split == "train" and _learns_all_turns(recipe)))
    return Texts(examples, cut["prompts"], cut["answers"])


def _features(all_turns: bool) -> Features:
    features = string_features(*_COLUMNS)
    return Features({**features, "learned": List(List(Value("int64")))}) if all_turns else features


def _learns_all_turns(recipe: Reading) -> bool:
    return recipe.objective.kind == "text_to_text" and recipe.objective.loss_on == "all_turns"


def _blocks(task: Task, rows: Dataset, family: Family, block_tokens: int) -> Iterator[Mapping[str, Sequence[Any]]]:
    made = iter_blocks(values(rows, "text"), family.tokenizer, block_tokens)
    while some := list(islice(made, BATCH)):
        yield {"prompt": [""] * len(some), "answer": some, "task": [task.name] * len(some)}


class _Rows:
    """A batch of a task's rows as prompts and answers, and what is too long of them."""

    def __init__(
        self, task: Task, rows: Mapping[str, Sequence[Any]], family: Family, recipe: Reading, *, learned: bool
    ) -> None:
        self._task, self._family, self._section = task, family, recipe.prompt
        self._text, self._plain_answers = rows["text"], rows["answer"]
        self._turns, self._places = (
            rows.get(name, [default] * len(self._text)) for name, default in (("turns", NO_TURNS), ("place", ""))
        )
        # A label is never cut: `Lengths` has nothing to say of it.
        self._lengths = Lengths(family, recipe.prompt, learned=learned and task.labels is None)
        self._all_turns = learned and _learns_all_turns(recipe)
        self.whole = self._framed(range(len(self._text)), self._turns)

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

    def texts(self, cut: Counter[str]) -> Mapping[str, Sequence[Any]]:
        """The examples by column.

        Args:
            cut: where is counted how many `prompts` and `answers` were shortened.
        """
        short = self._lengths.shortened(self.whole, self._turns, lambda *rows: self._framed(*rows).prompts)
        prompts = [str(prompt) for prompt in short.prompts]
        cut["prompts"] += sum(str(whole) != prompt for whole, prompt in zip(self.whole.prompts, prompts, strict=True))
        pairs = zip(self.whole.answers, short.answers, strict=True)
        cut["answers"] += sum(whole != answer for whole, answer in pairs)
        learned = {"learned": [prompt.all_learned() for prompt in short.prompts]} if self._all_turns else {}
        return {"prompt": prompts, "answer": short.answers, "task": [self._task.name] * len(prompts), **learned}


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
    long = {
        number * BATCH + index: limit
        for number, batch in enumerate(in_batches(task.train))
        for index, limit, _ in _Rows(task, batch, family, recipe, learned=True).too_long()
    }
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
        broken: dict[int, DataError] = {}
        for number, batch in enumerate(in_batches(rows)):
            faults = _faults(task, batch, family, recipe, learned=name == "train")
            broken |= {number * BATCH + index: fault for index, fault in faults}
        if broken:
            if len(broken) == len(rows):
                raise broken[0]
            splits[name] = rows.select([index for index in range(len(rows)) if index not in broken])
            dropped[f"unusable {name}"] = dropped.get(f"unusable {name}", 0) + len(broken)
    return replace(task, **splits, dropped=dropped)


def _faults(
    task: Task, rows: Mapping[str, Sequence[Any]], family: Family, recipe: Reading, *, learned: bool
) -> Iterator[tuple[int, DataError]]:
    """The index of each row that makes no prompt, and why; one by one only where not all of them together do."""
    try:
        _Rows(task, rows, family, recipe, learned=learned).texts(Counter())
    except DataError:
        for index in range(len(rows["text"])):
            try:
                row = {name: [values[index]] for name, values in rows.items()}
                _Rows(task, row, family, recipe, learned=learned).texts(Counter())
            except DataError as error:
                yield index, error


def beside_others(texts: Texts, *, all_turns: bool) -> Dataset:
    """Plain texts as examples beside those of another objective: null in place of a prompt says what they are.

    Args:
        all_turns: the others have a column `learned`.
    """

    def made() -> Iterator[Mapping[str, Sequence[Any]]]:
        for batch in in_batches(texts.examples):
            size = len(batch["prompt"])
            yield {**batch, "prompt": [None] * size, **({"learned": [[]] * size} if all_turns else {})}

    return stored(made(), _features(all_turns))


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
    return stored(_encoded(family, batch) for batch in in_batches(rows))


def _encoded(family: Family, rows: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
    plain = [index for index, prompt in enumerate(rows["prompt"]) if prompt is None]
    own = [index for index, prompt in enumerate(rows["prompt"]) if prompt is not None]
    made: dict[str, list[Any]] = {}
    if own:
        prompts, answers, tasks = ([rows[name][index] for index in own] for name in _COLUMNS)
        made = family.encode(prompts, answers, tasks)
        if "learned" in rows:
            family.learn_turns(made, prompts, answers, [rows["learned"][index] for index in own])
    if not plain:
        return made
    texts = predicting(family).encode_texts([rows["answer"][index] for index in plain])
    placed = sorted(range(len(own) + len(plain)), key=[*own, *plain].__getitem__)
    both = {name: [*made.get(name, ()), *values] for name, values in texts.items()}
    return {name: [values[at] for at in placed] for name, values in both.items()}


def predicting(family: Family) -> Family:
    """The same model, for plain text whatever the family's own objective is: as it was pre-trained."""
    pretraining = known_families()[family.name]["pretraining"]
    return pretraining(family.model, family.tokenizer, Pretraining(kind="pretraining", block_tokens=TEXT_TOKENS))

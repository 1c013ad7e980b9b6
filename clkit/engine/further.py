"""Data that strategies train on beside the tasks' own: general texts and instructions, say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from datasets import Dataset

from clkit.engine.limits import checked_texts
from clkit.errors import ClkitError, DataError
from clkit.models.examples import TEXT_TOKENS, beside_others, encode, without_unusable
from clkit.models.family import IGNORED, Family
from clkit.models.objective import Pretraining
from clkit.models.positions import positions
from clkit.recipe.recipe import Recipe
from clkit.strategies.contract import Strategy
from clkit.strategies.hooks import call
from clkit.tasks.loading import load_further
from clkit.tasks.task import Task
from clkit.wording import counts_by_name

#: By the strategy's name in the recipe and the key of its options.
FurtherTasks = Mapping[tuple[str, str], Task]
#: So many examples of a task, and of further data, tell how long their answers are.
_LOOKED_AT = 200


class FurtherExamples(NamedTuple):
    """What strategies are given, by the strategy's name and the key of its options, and what the user should know."""

    data: Mapping[str, Mapping[str, Dataset]]
    remarks: Sequence[str]


def further_tasks(recipe: Recipe) -> FurtherTasks:
    """The further data of a recipe.

    Raises:
        DataError: they cannot be read; says which key of the recipe names them.
    """
    found = {}
    for options in recipe.strategies:
        for key, data in options.further_data().items():
            task, plain_text = data.as_task(options.name, key), recipe.is_plain_text(data.source)
            try:
                found[options.name, key] = load_further(task, data.number, recipe.seed, plain_text=plain_text)
            except DataError as error:
                raise DataError(f"strategies.{options.name}.{key}: {error}") from error
    return found


def further_examples(recipe: Recipe, tasks: FurtherTasks, family: Family) -> FurtherExamples:
    """The further data as examples: texts and answers as they are written, without instruction, options or `Answer:`.

    Plain text beside tasks that are none is cut into blocks, and learned as the family was pre-trained.

    Raises:
        ClkitError: the model cannot learn them.
    """
    found: dict[str, dict[str, Dataset]] = {}
    remarks: list[str] = []
    for (name, key), task in tasks.items():
        (source,) = (one.further_data()[key].source for one in recipe.strategies if one.name == name)
        own_way = recipe.objective.kind == "pretraining" or not recipe.is_plain_text(source)
        way = _as_written(recipe) if own_way else _as_blocks(recipe, family)
        try:
            task = without_unusable(task, family, way)
            texts, told = checked_texts(family, way, task, "train", tested=False)
            # The columns are those of the tasks' examples.
            examples = texts.examples if own_way else beside_others(texts, all_turns=recipe.learns_all_turns)
            encode(family, examples, range(1))  # which refuses a tokenizer without what plain text needs
        except ClkitError as error:
            raise type(error)(f"strategies.{name}.{key}: {error}") from error
        found.setdefault(name, {})[key] = examples
        dropped = f"; left out: {rows}" if (rows := counts_by_name(task.dropped)) else ""
        remarks += [f"strategies.{name}.{key}: {len(examples):,} examples to draw from{dropped}", *told]
    return FurtherExamples(found, remarks)


def _as_written(recipe: Recipe) -> Recipe:
    if recipe.objective.kind == "pretraining":
        return recipe
    prompt = recipe.prompt.model_copy(update={"style": "text", "task_name": False})
    return recipe.model_copy(update={"prompt": prompt})


def _as_blocks(recipe: Recipe, family: Family) -> Recipe:
    most = positions(family.model).block(min(recipe.prompt.max_tokens, TEXT_TOKENS))
    blocks = Pretraining(kind="pretraining", block_tokens=most)
    return recipe.model_copy(update={"objective": blocks})


def weights(family: Family, strategies: Sequence[Strategy], own: Dataset, name: str) -> Iterator[str]:
    """A remark on what part the further data have in the loss beside the examples of a task: it is a mean over tokens.

    Args:
        name: of the task.
    """
    for strategy in strategies:
        for key, data in strategy.data.items():
            added = call(strategy, "replayed", [len(own)], gives=int)
            ours, theirs = (_learned_tokens(family, rows) for rows in (own, data))
            share = added * theirs / (added * theirs + len(own) * ours)
            yield (
                f"strategies.{strategy.options.name}.{key}: {added:,} examples beside the {len(own):,} of '{name}', "
                f"{share:.0%} of the tokens that are learned"
            )


def _learned_tokens(family: Family, examples: Dataset) -> float:
    """Tokens with a loss per example; where the collator chooses them, all."""
    rows = encode(family, examples, range(min(len(examples), _LOOKED_AT)))
    if "labels" not in rows.column_names:
        return sum(map(len, rows["input_ids"])) / len(rows)
    return sum(sum(label != IGNORED for label in labels) for labels in rows["labels"]) / len(rows)

"""Takes the model of a stage out of a run: one folder that needs no clkit, with a card that says what it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clkit import __version__
from clkit.engine.evaluate import learned_stages, load_learned
from clkit.engine.protocols import planned_stages
from clkit.engine.pushing import Repository
from clkit.errors import UsageError
from clkit.events import Listener
from clkit.models.chain import chain_of
from clkit.models.classifying import Classifying
from clkit.models.exporting import save_merged, save_summed
from clkit.models.family import Family, Generating
from clkit.models.folders import Origin
from clkit.models.objective import Classification
from clkit.recipe.inputs import paths_read
from clkit.recipe.recipe import Recipe
from clkit.results.matrix import AccuracyMatrix
from clkit.run.atomic import write_atomically
from clkit.run.exports import check_export, exported
from clkit.run.folder import RunFolder
from clkit.run.scores import last_records, read_scores
from clkit.tasks.conversations import NO_TURNS
from clkit.tasks.inputs import asked, given
from clkit.tasks.prompts import Prompt, build_prompt
from clkit.tasks.sections import TaskRecipe
from clkit.tasks.task import Task
from clkit.wording import did_you_mean

#: Stands for an input in the examples: no text of the data leaves the run, but for a system turn that all tests share.
TEXT = "The text goes here."


@dataclass(frozen=True)
class Use:
    """How the model is asked about one task, with `TEXT` as the input.

    Attributes:
        lines: of Python that print the answer, as `Family.usage` gives them.
        other_turns: other turns than the prompt's stood before inputs: it was asked in the middle of conversations.
    """

    task: str
    labels: Sequence[str] | None
    prompt: Prompt
    lines: list[str]
    other_turns: bool = False


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        learned: the tasks that the model learned, in order.
        matrix: the scores on them, up to the stage that was exported.
        read: fingerprints of what the run read, by key, as far as it recorded them.
        uses: one per task; for pretraining, where inputs are plain texts, just one.
        auto_class: the class of `transformers` that loads the model.
        rank: of the adapter; None where the model was merged.
    """

    recipe: Recipe
    stage: str
    learned: tuple[str, ...]
    matrix: AccuracyMatrix
    read: Mapping[str, Any]
    uses: list[Use]
    auto_class: str
    rank: int | None = None

    @property
    def base_on_hub(self) -> str | None:
        """The hub's name of the model that all began with; None where it came from elsewhere."""
        base = chain_of(self.recipe.model).section
        return base.name if Origin.of(base).folder is None else None


def export(
    run: RunFolder,
    folder: Path,
    card: Callable[[Exported], str],
    *,
    stage: str | None = None,
    task: str | None = None,
    adapter: bool = False,
    replace: bool = False,
    accept_changes: bool = False,
    push: str | None = None,
    public: bool = False,
    listener: Listener | None = None,
) -> Exported:
    """Write the model of a stage into a folder of its own, which is there whole or not at all.

    Args:
        card: what README.md is to say.
        stage: its name or number; the last finished one where None.
        task: whose head is exported, where each task has one.
        adapter: write one adapter on the model that the run began with, rather than the model merged.
        replace: replace an earlier export.
        accept_changes: go on although the model that the run began with, below its adapters, is another now.
        push: upload it to the hub too, under this name; as private, unless ``public``.

    Raises:
        ClkitError: it cannot be uploaded.
        UsageError: the folder may not be written to, or there is nothing of what is asked for.
        RunError: the stage was not finished, or its model was not kept.
    """
    recipe = Recipe.load(run.recipe_path)
    check_export(folder, replace=replace, reads=paths_read(recipe))
    stages = learned_stages(run, stage, recipe, accept_changes=accept_changes, listener=listener)
    if not stages:
        raise UsageError(f"{run.path}: nothing was learned at this stage: its model is {recipe.model.name} itself")
    if adapter:
        _check_adapter(recipe)
    names = [one.name.partition("-")[2] for one in stages]
    planned = {one.name: one.learned for one in planned_stages(recipe)}
    learned = tuple(name for one in names for name in planned[one])
    chosen = _chosen_head(recipe, learned, task)
    repository = Repository.reserve(push, public=public) if push is not None else None
    read = run.read()
    recipes = [one for one in recipe.task_recipes() if one.name in chosen]
    tasks = [asked(one, read.get(f"tasks.{one.name}.labels"), given([])) for one in recipes]
    family = load_learned(run, recipe, stages)
    uses = _uses(family, tasks, recipe, [_before(one, stages) for one in recipes])
    if isinstance(family, Classifying):
        family.keep_only(chosen)
    said = {"clkit": __version__, "recipe": recipe.name, "seed": recipe.seed, "stage": names[-1], "tasks": chosen}
    with exported(folder, said) as made:
        rank = _save(family, recipe, stages if adapter else None, tasks, made)
        matrix = _restricted(read_scores(run.path).matrix, learned, len(stages))
        done = Exported(recipe, names[-1], learned, matrix, read, uses, family.auto_class.__name__, rank)
        write_atomically(made / "README.md", card(done))
    if repository is not None:
        repository.upload(folder)
    return done


def _save(
    family: Family, recipe: Recipe, stages: Sequence[Path] | None, tasks: Sequence[Task], folder: Path
) -> int | None:
    """Write what these stages learned as one adapter, whose rank is given back; where None, the model merged."""
    longest = max(_new_tokens(family, one, recipe) for one in tasks)
    if stages is None:
        save_merged(family, folder, longest)
        return None
    incremental = recipe.tuning.method == "incremental_lora"
    base = chain_of(recipe.model)
    earlier = [*base.adapters, *(stage / "adapter" for stage in stages[:-1] if incremental)]
    return save_summed(family, earlier, folder, longest, base.section.revision)


def _check_adapter(recipe: Recipe) -> None:
    if recipe.tuning.method == "full":
        raise UsageError("--adapter: the run has tuning.method: full, and so no adapter; export the model without it")
    base = chain_of(recipe.model).section
    if Origin.of(base).gguf_file(base.gguf_file) is not None:
        raise UsageError("--adapter: the run began with a GGUF file, on which peft loads none; export without it")


def _chosen_head(recipe: Recipe, learned: tuple[str, ...], task: str | None) -> tuple[str, ...]:
    """The tasks that the exported model is for."""
    own_heads = isinstance(recipe.objective, Classification) and recipe.objective.heads == "per_task"
    if not own_heads:
        if task is not None:
            raise UsageError("--task: it chooses among the heads of objective.heads: per_task, and this run has none")
        return learned
    if task is None and len(learned) > 1:
        raise UsageError(
            f"--task: each task has a head of its own, and a stock classifier has one; choose one of "
            f"{', '.join(learned)}, and export the others to folders of their own"
        )
    if task is not None and task not in learned:
        raise UsageError(f"--task: '{task}' was not learned{did_you_mean(task, learned)} (tasks: {', '.join(learned)})")
    return (task,) if task is not None else learned


def _new_tokens(family: Family, task: Task, recipe: Recipe) -> int:
    most = recipe.evaluation.max_new_tokens
    return family.new_tokens(task, most) if isinstance(family, Generating) else most


def _uses(family: Family, tasks: Sequence[Task], recipe: Recipe, before: Sequence[_Before]) -> list[Use]:
    if recipe.objective.kind == "pretraining":
        return [Use("any text", None, Prompt("", TEXT, ""), family.usage(TEXT, recipe.evaluation.max_new_tokens))]
    prompts = [build_prompt(task, TEXT, recipe.prompt, said.shared) for task, said in zip(tasks, before, strict=True)]
    if family.chat is not None:
        framed, _ = family.chat.frame(prompts, [TEXT] * len(prompts), "the examples")
        # White space behind a prompt is of the answer's first token.
        prompts = [Prompt(one.before, one.text, one.after.rstrip(" ")) for one in framed]
    return [
        Use(task.name, task.labels, prompt, family.usage(str(prompt), _new_tokens(family, task, recipe)), said.more)
        for task, prompt, said in zip(tasks, prompts, before, strict=True)
    ]


class _Before(NamedTuple):
    """What was said before the inputs of a task.

    Attributes:
        shared: before all of them, as a JSON list of {role, content}: a system turn, or nothing.
        more: before some of them, or nobody knows what.
    """

    shared: str = NO_TURNS
    more: bool = False


def _before(task: TaskRecipe, stages: Sequence[Path]) -> _Before:
    """As the last of these stages that tested the task has recorded it."""
    if getattr(task.source, "messages", None) is None:
        return _Before()
    said = [record.get("turns") for record in last_records(stages, task.name)]
    first = said[0] if said and said.count(said[0]) == len(said) else None
    if first == [] or (first and len(said) > 1 and all(turn["role"] == "system" for turn in first)):
        return _Before(json.dumps(first))
    return _Before(more=True)


def _restricted(matrix: AccuracyMatrix, learned: Sequence[str], stages: int) -> AccuracyMatrix:
    """The scores on these tasks alone, after the stages that the model went through."""
    columns = [matrix.tasks.index(name) for name in learned]
    rows = matrix.rows
    if matrix.protocol == "sequential":
        rows = rows[:stages]
    elif matrix.protocol == "per_task":  # a model's own row is that of its task
        rows = [rows[columns[0]]]
    return AccuracyMatrix(
        tasks=list(learned),
        counts=[matrix.counts[column] for column in columns],
        metric=matrix.metric,
        higher_is_better=matrix.higher_is_better,
        zero_shot=matrix.zero_shot and [matrix.zero_shot[column] for column in columns],
        rows=[[row[column] for column in columns] for row in rows],
        protocol=matrix.protocol,
    )

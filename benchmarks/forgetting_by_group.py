"""python benchmarks/forgetting_by_group.py RUN [--examples 100]

Which parameters forget: how much of the change in the earlier tasks' loss each group of parameters causes.

RUN is a finished run with full tuning whose models were all kept (`saving.models: all`, the default). For each task i
after the first, the loss of the earlier tasks (nats per answer token, on their test examples) is computed with the
model before task i, with the model after it, with only one group moved to its new values ("alone"), and with all groups
moved but that one ("without"). The groups' shares need not add up to one: the loss is not additive.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from clkit.models.examples import encode, task_texts
from clkit.models.family import Family
from clkit.models.groups import parameter_groups
from clkit.models.loading import load_model
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.report.console import quiet_libraries
from clkit.run.folder import RunFolder
from clkit.tasks.task import Task
from clkit.testing.examiner import negative_log_likelihoods

BATCH = 32


def answer_loss(loaded: Family, task: Task, recipe: Recipe, examples: int) -> float:
    """Mean −log p of an answer token over the first test examples of a task."""
    own = task_texts(task, "test", loaded, recipe).examples
    rows = encode(loaded, own, range(min(examples, len(own)))).to_list()
    collate = loaded.collator()
    measured = []
    for start in range(0, len(rows), BATCH):
        measured += negative_log_likelihoods(loaded, collate(rows[start : start + BATCH]))
    return sum(loss for loss, _ in measured) / sum(tokens for _, tokens in measured)


def weights(recipe: Recipe, stage: Path) -> dict[str, Tensor]:
    """The parameters as they were saved after a task."""
    return {
        name: value.detach()
        for name, value in load_model(recipe.model, recipe.tuning, [stage]).model.named_parameters()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--examples", type=int, default=100, help="test examples of each earlier task")
    arguments = parser.parse_args()
    quiet_libraries()
    run = RunFolder.open(arguments.run)
    recipe = Recipe.load(run.recipe_path)
    if recipe.tuning.method != "full":
        parser.error("the run must have been made with full tuning")
    tasks = load_tasks(recipe)
    stages = [stage for stage in run.stages() if stage.index > 0]
    loaded = load_model(recipe.model, recipe.tuning, [stages[0].folder])
    loaded.model.eval()
    groups = parameter_groups(loaded)
    parameters = dict(loaded.model.named_parameters())

    def loss(values: dict[str, Tensor], earlier: list[Task]) -> float:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(values[name])
        return sum(answer_loss(loaded, task, recipe, arguments.examples) for task in earlier) / len(earlier)

    rows: dict[str, list[tuple[float, float]]] = {group: [] for group in groups}
    changes = []
    for index in range(1, len(stages)):
        old, new = weights(recipe, stages[index - 1].folder), weights(recipe, stages[index].folder)
        earlier = tasks[:index]
        before, after = loss(old, earlier), loss(new, earlier)
        changes.append(after - before)
        print(f"{stages[index].name}: loss of the earlier tasks {before:.2f} -> {after:.2f}", flush=True)
        for group, names in groups.items():
            alone = loss(old | {name: new[name] for name in names}, earlier) - before
            without = loss(new | {name: old[name] for name in names}, earlier) - before
            rows[group].append((alone, without))
    total = sum(changes)
    print(f"\nall groups: {total / len(changes):+.2f} nats per answer token, mean over {len(changes)} tasks\n")
    print("| group | parameters | this group alone | all but this group |\n|---|---|---|---|")
    for group, pairs in rows.items():
        alone, without = (sum(values) for values in zip(*pairs, strict=True))
        count = sum(parameters[name].numel() for name in groups[group])
        moved = " | ".join(f"{change / len(pairs):+.2f} ({change / total:.0%})" for change in (alone, without))
        print(f"| {group} | {count:,} | {moved} |")


if __name__ == "__main__":
    main()

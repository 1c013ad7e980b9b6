"""Measures a model's output magnitudes per task and layer: what MIGU masks by, made visible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers.pytorch_utils import Conv1D

from clkit.draws import sample, seeded
from clkit.engine.prepare import labels_of, load_learner
from clkit.engine.protocols import lineage, planned_stages
from clkit.errors import ModelError
from clkit.events import Listener
from clkit.models.depths import at_depths
from clkit.models.distributions import top_rows
from clkit.models.examples import encode, task_texts, without_unusable
from clkit.models.experts import ExpertWeight
from clkit.models.family import Batch, Family
from clkit.models.groups import coverage, role_of
from clkit.models.layers import Layer, row_sites, select_ranked
from clkit.models.magnitudes import MagnitudeCollector, l1_normalised
from clkit.processes import processes
from clkit.recipe.recipe import Recipe
from clkit.run.layout import ZERO_SHOT
from clkit.tasks.task import Task


class LayerMagnitudes(NamedTuple):
    """One layer's output magnitudes.

    Attributes:
        n: L1-normalised magnitudes (paper eq. 4): tasks × d_out; each row sums to 1. Of fused experts, whose rows are
            counted through, it is tasks × (experts · d_out).
        chosen: the share of batches in which a row was a top row: tasks × d_out.
        persistence: of the top rows of a batch, the share that the next one has too, on average: tasks; NaN where there
            was one batch only.
    """

    n: torch.Tensor
    chosen: torch.Tensor
    persistence: torch.Tensor


@dataclass(frozen=True)
class Watching:
    """What is measured, and on how much.

    Attributes:
        layers: roles, names or patterns, as in `strategies.migu.layers`.
        depth: numbers and ranges of blocks, such as `0,2-3,last`; all where None.
        examples: at most so many training examples of each task, drawn by the recipe's seed.
        batch: how many of them are one batch, as if they were a step.
        top_share: the share of rows that counts as "top", 1 − T in MIGU's terms.
    """

    layers: Sequence[str]
    depth: str | None = None
    examples: int = 64
    batch: int = 16
    top_share: float = 0.3


@dataclass(frozen=True)
class StageMagnitudes:
    """One model's magnitudes, and how far its rows lie from where they were in an earlier one.

    Attributes:
        name: of the stage's folder.
        since: the stage whose model went before; None where there is none to compare with.
        learned: the tasks learned since.
        moved: ‖ΔW_row‖ since then, adapters merged: d_out for each layer whose shape has not changed.
    """

    name: str
    layers: Mapping[str, LayerMagnitudes]
    since: str | None = None
    learned: Sequence[str] = ()
    moved: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Magnitudes:
    """What was measured of one model, or of several stages of a run.

    Attributes:
        roles: of each layer, in the model's order.
        coverage: what share of the trained weights the layers are, in words.
    """

    tasks: Sequence[str]
    watching: Watching
    roles: Mapping[str, str]
    coverage: str
    stages: Sequence[StageMagnitudes]


def inspect_stages(
    recipe: Recipe, tasks: Sequence[Task], stages: Sequence[Sequence[Path]], watching: Watching, listener: Listener
) -> Magnitudes:
    """Measure the model after each of these stages, in order.

    Args:
        stages: the folders that a stage's model went through, its own last; none for the untrained model.

    Raises:
        ModelError: a model cannot be loaded, or a layer entry fits nothing.
    """
    tasks = [_drawn(task, recipe, watching.examples) for task in tasks]
    measured: list[StageMagnitudes] = []
    weights: dict[str, dict[str, torch.Tensor]] = {}
    roles: dict[str, str] = {}
    covered = ""
    for folders in stages:
        family = load_learner(recipe, labels_of(tasks), folders)
        watched = select_ranked(family, watching.layers, "--layers")
        if watching.depth is not None:
            watched = {layer: watched[layer] for layer in at_depths(watched, watching.depth)}
        layers = measure_magnitudes(family, tasks, watched, recipe, watching, listener)
        stage = StageMagnitudes(folders[-1].name if folders else ZERO_SHOT, layers)
        weights[stage.name] = _weights(watched)
        since, learned = _before(recipe, stage.name, [one.name for one in measured])
        if since is not None:
            moved = dict(_moved(weights[since], weights[stage.name]))
            stage = replace(stage, since=since, learned=learned, moved=moved)
        measured.append(stage)
        for name in [*weights][1:-1]:  # whatever follows goes on from the first or the last
            del weights[name]
        roles |= {layer: role_of(family, layer) for layer in layers}
        covered = covered or str(coverage(family, (site.weight for site in row_sites(watched))))
    return Magnitudes([task.name for task in tasks], watching, roles, covered, measured)


def _before(recipe: Recipe, stage: str, measured: Sequence[str]) -> tuple[str | None, list[str]]:
    """Which of the measured stages a stage's model went through last, and what it has learned since."""
    planned = planned_stages(recipe)
    own = next((place for place, one in enumerate(planned) if one.name == _task(stage)), None)
    if own is None:
        return None, []
    learned: list[str] = []
    for one in reversed(planned[lineage(planned, own)]):
        since = next((name for name in measured if _task(name) == one.name), None)
        if since is not None:
            return since, learned
        learned = [*one.learned, *learned]
    return next((name for name in measured if name == ZERO_SHOT), None), learned


def _task(stage: str) -> str:
    """The stage's name by that of its folder."""
    return "" if stage == ZERO_SHOT else stage.partition("-")[2]


def _drawn(task: Task, recipe: Recipe, examples: int) -> Task:
    """The task with so many of its training rows, for those of a file may be sorted."""
    chosen = sample(len(task.train), examples, seeded("inspect", recipe.seed, task.name))
    return replace(task, train=task.train.select(chosen))


@torch.no_grad()
def measure_magnitudes(
    family: Family,
    tasks: Sequence[Task],
    watched: Mapping[str, Layer],
    recipe: Recipe,
    watching: Watching,
    listener: Listener,
) -> dict[str, LayerMagnitudes]:
    """Run the tasks' training examples through the model, answers included, as in training.

    Args:
        recipe: whose prompts and objective are used.

    Raises:
        ModelError: none of the layers was used on every task.
    """
    collector = MagnitudeCollector(watched, family.token_mask, family.reads_tokens)
    family.model.to(processes().device).eval()
    measured: list[dict[str, list[torch.Tensor]]] = []
    try:
        for task in tasks:
            sums: dict[str, list[torch.Tensor]] = {}
            for batch in batches(family, task, recipe, watching, listener):
                with collector.collecting(batch):
                    family.model(**{key: value for key, value in batch.items() if key != "labels"})
                for layer, total in collector.take().items():
                    sums.setdefault(layer, []).append(total.flatten())
            measured.append(sums)
    finally:
        collector.remove()
    # An expert that no example of some task is sent to has no magnitudes to compare.
    used = [layer for layer in watched if all(layer in sums for sums in measured)]
    if not used:
        raise ModelError(
            f"--layers: no forward pass went through any of these ({', '.join(watching.layers)}) on every task"
        )
    return {layer: _layer([torch.stack(sums[layer]) for sums in measured], watching.top_share) for layer in used}


def batches(family: Family, task: Task, recipe: Recipe, watching: Watching, listener: Listener) -> Iterator[Batch]:
    """The task's training examples as the model reads them, where the model is."""
    own = task_texts(without_unusable(task, family, recipe), "train", family, recipe).examples
    rows = encode(family, own, range(min(watching.examples, len(own)))).to_list()
    collate = family.collator()
    listener.evaluating(task.name, len(rows))
    for start in range(0, len(rows), watching.batch):
        some = rows[start : start + watching.batch]
        yield {key: value.to(family.model.device) for key, value in collate(some).items()}
        listener.answered(len(some))


def _layer(sums: Sequence[torch.Tensor], top_share: float) -> LayerMagnitudes:
    """What the sums of each task's batches (batches × d_out) say of a layer."""
    tops = [top_rows(batch, top_share) for batch in sums]
    kept = [(top[1:] & top[:-1]).sum(dim=1) / top[0].sum() for top in tops]
    return LayerMagnitudes(
        torch.stack([l1_normalised(batch.sum(dim=0)) for batch in sums]).cpu(),
        torch.stack([top.float().mean(dim=0) for top in tops]).cpu(),
        torch.stack([shared.mean() for shared in kept]).cpu(),
    )


@torch.no_grad()
def _weights(layers: Mapping[str, Layer]) -> dict[str, torch.Tensor]:
    """The weight of each layer as it answers: float32, rows × d_in. Adapters are merged, and their model is spent.

    Of packed weights, which do not move, it is what the adapter adds to them; where that hangs on them, nothing.
    """
    found = {}
    for name, module in layers.items():
        base: Any = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if base.weight.is_floating_point():
            base.weight.data = base.weight.data.float()  # in half precision much of an adapter would be rounded away
            if isinstance(module, LoraLayer):
                module.merge()
            axis = base.axis if isinstance(base, ExpertWeight) else int(isinstance(base, Conv1D))
            found[name] = base.weight.detach().movedim(axis, -2).flatten(0, -2).cpu()
        elif isinstance(module, LoraLayer) and not module.lora_variant:
            found[name] = sum(module.get_delta_weight(adapter).float().cpu() for adapter in module.active_adapters)
    return found


def _moved(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for layer, weight in after.items():
        if layer in before and before[layer].shape == weight.shape:
            yield layer, torch.linalg.vector_norm(weight - before[layer], dim=1)

"""Measures afterwards what a run has not: the cells of its matrix whose stage is still there to be tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from clkit.engine.evaluate import evaluate, task_named
from clkit.engine.forgetting import kept_records
from clkit.errors import RunError, UsageError
from clkit.events import Listener
from clkit.recipe.recipe import Recipe
from clkit.results.scores import Tested
from clkit.run.filled import add_filled
from clkit.run.folder import RunFolder, Stage
from clkit.run.layout import check_links
from clkit.run.lock import locked

Test = Callable[..., list[Tested]]


def fill(
    run: RunFolder,
    *,
    stage: str | None = None,
    tasks: Sequence[str] | None = None,
    accept_changes: bool = False,
    listener: Listener | None = None,
) -> None:
    """Test each finished stage whose model was kept on every task that its row lacks, and keep the scores.

    Stages stay as they are sealed; `filled.json` holds what was measured later, with the answers, and is written after
    each stage.

    Args:
        stage: only this one, by its name or number.
        tasks: only these.

    Raises:
        UsageError: the run learns no sequence, there is no such task or stage, or the test data were changed.
        RunError: the run is being written, or what is to be tested is damaged.
    """
    listener = listener or Listener()
    recipe = Recipe.load(run.recipe_path)
    if recipe.protocol != "sequential":
        raise UsageError(f"--fill: the run's protocol is {recipe.protocol}, whose matrix has no cells to fill")
    names = [task_named(recipe, name).name for name in tasks or [task.name for task in recipe.task_recipes()]]
    check_links(run.path)
    with locked(run.path) as remark:
        if remark is not None:
            listener.noted(remark)
        done = [one for one in run.stages() if stage in (None, one.name, str(one.index))]
        if not done:
            raise RunError(f"{run.path}: no finished stage '{stage or 'last'}'")
        test = partial(evaluate, run, accept_changes=accept_changes, same_data=True, listener=listener)
        for one in done:
            _fill_row(run, one, names, test, listener)
        run.export()


def _fill_row(run: RunFolder, stage: Stage, names: Sequence[str], test: Test, listener: Listener) -> None:
    matrix = run.read_matrix()
    row = matrix.rows[stage.index - 1] if stage.index else matrix.zero_shot
    empty = [task for task, score in zip(matrix.tasks, row or [], strict=False) if score is None and task in names]
    after = f"after {stage.name}" if stage.index else stage.name
    if empty and not stage.model_kept:
        listener.noted(f"{after}: its model was not kept (saving.models: last), so nothing can be measured")
    elif empty:
        tested = test(stage=str(stage.index), tasks=empty)
        metrics = dict.fromkeys(metric for one in tested for metric in one.scores)
        scores = {
            metric: {one.task: one.scores[metric] for one in tested if metric in one.scores} for metric in metrics
        }
        records = [record for one in tested for record in kept_records(run, one)]
        add_filled(run.path, {one.index: one.payload for one in run.stages()}, stage.index, scores, records)
        listener.noted(f"{after}: measured {', '.join(empty)}")

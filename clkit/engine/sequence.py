"""The run over a protocol's stages: train, test after each, keep every finished one."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from clkit.engine.failures import explained
from clkit.engine.fit import Fitted, fit
from clkit.engine.prepare import Prepared, prepare
from clkit.engine.protocols import PlannedStage, lineage, planned_stages
from clkit.engine.resuming import Unfinished, clear_for_resuming, find_unfinished, mark_trained, resuming_differences
from clkit.errors import UsageError
from clkit.events import Listener
from clkit.models.loading import save_model
from clkit.processes import processes
from clkit.recipe.inputs import paths_read
from clkit.recipe.recipe import Recipe
from clkit.recipe.saving import recipe_yaml
from clkit.results.chance import chance_rows
from clkit.results.kinds import UNBOUNDED, Row
from clkit.results.matrix import AccuracyMatrix
from clkit.run.atomic import write_jsonl
from clkit.run.environment import environment
from clkit.run.folder import ZERO_SHOT, RunFolder
from clkit.run.lock import locked
from clkit.testing.examiner import Examiner
from clkit.training.interruption import Interruption
from clkit.training.state import save_strategies


def train(
    recipe: Recipe,
    run: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> RunFolder:
    """Teach a model the recipe's tasks, one after another or as its protocol says, and test it after each stage.

    Args:
        run: the run folder; `runs/NAME-SEED` where None.
        resume: go on where an earlier run of the same recipe stopped, also inside a task.
        overwrite: replace an earlier run.

    Raises:
        UsageError: the run folder exists already, or, with ``resume``, holds another recipe.
        RunError: another process writes the run folder, or, with ``resume``, something in it is damaged.
        InterruptionError: a signal asked the run to stop (Ctrl-C, SIGTERM, SIGUSR1), and all that it did is saved.
        ClkitError: the run failed; what was saved stays.
    """
    path = Path(run) if run is not None else recipe.run_path
    process = processes()
    listener = listener if listener and process.is_main_process else Listener()
    if not process.is_main_process:
        process.wait_for_everyone()  # until the main process has the lock
        return _train(recipe, path, resume=resume, overwrite=overwrite, listener=listener)
    if not resume or RunFolder(path).is_empty():
        RunFolder.check_free(
            path, overwrite=overwrite, reads=paths_read(recipe)
        )  # before a lock is put into a folder of the user's
    else:
        RunFolder(path).check_links()
    with locked(path) as remark:
        if remark is not None:
            listener.noted(remark)
        process.wait_for_everyone()
        return _train(recipe, path, resume=resume, overwrite=overwrite, listener=listener)


def _train(recipe: Recipe, path: Path, *, resume: bool, overwrite: bool, listener: Listener) -> RunFolder:
    process = processes()
    earlier = RunFolder.open(path) if resume and not RunFolder(path).is_empty() else None
    differing = _refuse_changed_recipe(earlier, recipe) if earlier else []
    finished = [stage.folder for stage in earlier.stages() if stage.index > 0] if earlier else []
    unfinished = _find_unfinished(earlier, recipe, listener) if earlier else None
    gone_on_from = _gone_on_from(recipe, finished, unfinished)
    if earlier is not None and process.is_main_process:
        loaded = gone_on_from if recipe.tuning.method == "incremental_lora" else gone_on_from[-1:]
        earlier.check_before_resuming([folder for folder in loaded if folder in finished])
    # Everything is loaded before anything is written, so that a wrong recipe neither leaves a folder nor empties one.
    prepared = prepare(recipe, gone_on_from)
    process.wait_for_everyone()
    if process.is_main_process:
        now = environment(recipe.seed, sys.argv)
        if earlier is not None:
            clear_for_resuming(earlier, recipe, unfinished)
            earlier.log.append({"event": "resumed", "differing": differing, **now})
        else:
            RunFolder.create(path, recipe_yaml(recipe), now, overwrite=overwrite)
    process.wait_for_everyone()
    folder = RunFolder.open(path)
    try:
        with Interruption() as interruption:
            _Sequence(prepared, folder, listener, interruption, unfinished).run()
    except Exception as error:
        known = explained(error, folder.path)
        if known is None:
            raise
        raise known from error
    finally:
        listener.finished()
    return folder


def _find_unfinished(earlier: RunFolder, recipe: Recipe, listener: Listener) -> Unfinished | None:
    """What all processes go on from: the main one looks, and reads every byte of it."""
    found = [find_unfinished(earlier, recipe, listener.noted) if processes().is_main_process else None]
    unfinished: Unfinished | None = broadcast_object_list(found)[0]
    checkpoint = unfinished.checkpoint if unfinished else None
    if checkpoint is not None and checkpoint.processes != processes().num_processes:
        now = processes().num_processes
        listener.noted(
            f"{checkpoint.folder} was saved by {checkpoint.processes} process(es), and {now} go on from it: "
            "what is drawn at random, as by dropout, differs from a run that was never stopped"
        )
    return unfinished


def _gone_on_from(recipe: Recipe, finished: Sequence[Path], unfinished: Unfinished | None) -> Sequence[Path]:
    """The folders of the stages that the model to be loaded went through."""
    stages = planned_stages(recipe)
    index = len(finished)
    trained = [*finished, unfinished.folder] if unfinished and unfinished.trained else finished
    return trained[lineage(stages, index)] if index < len(stages) else []


def _refuse_changed_recipe(earlier: RunFolder, recipe: Recipe) -> list[str]:
    """The keys in which the recipe differs from the run's, where none of them decides the result."""
    different = resuming_differences(earlier, recipe)
    if different.result:
        raise UsageError(
            f"{earlier.path}: --resume needs the recipe of the run, but these keys differ: "
            f"{', '.join(different.result)}; take the changes back, or train into another folder with --run DIR"
        )
    return different.other


class _Sequence:
    """One run in progress."""

    def __init__(
        self,
        prepared: Prepared,
        folder: RunFolder,
        listener: Listener,
        interruption: Interruption,
        unfinished: Unfinished | None,
    ) -> None:
        self._interruption = interruption
        self._unfinished = unfinished
        self._folder = folder
        self._listener = listener
        self._prepared = prepared
        self._recipe = recipe = prepared.recipe
        self._finished = folder.stages()
        names = [task.name for task in prepared.tasks]
        self._between_batches = partial(interruption.check, "while testing")
        self._examiner = Examiner(prepared.tasks, recipe, self._between_batches)
        self._matrix = AccuracyMatrix(
            tasks=names,
            metric=recipe.metric,
            higher_is_better=recipe.metric not in UNBOUNDED,
            counts=[self._examiner.examples(prepared.family, name) for name in names],
            protocol=recipe.protocol,
            chance=chance_rows([self._examiner.chance(name) for name in names]),
        )
        self._main = processes().is_main_process

    def run(self) -> None:
        self._listener.started(self._prepared.plan())
        done = {stage.index: stage for stage in self._finished}
        if self._recipe.evaluation.zero_shot or self._general_is_due(0):
            self._matrix.zero_shot = done[0].payload["row"] if 0 in done else self._zero_shot()
            self._write_matrix()
        for index, planned in enumerate(self._prepared.stages):
            if index + 1 in done:
                self._listener.skipped(planned.name)
                row = self._row(done[index + 1].payload)
            else:
                row = self._learn(index, planned)
            self._matrix.add_row(row)
            self._write_matrix()

    def _zero_shot(self) -> Row | None:
        """What the model can do before it learns: a row, None if only its general ability is measured."""
        stage = self._stage(0, ZERO_SHOT)
        names = [task.name for task in self._prepared.tasks]
        outcome: dict[str, Any] = {"row": None}
        if self._recipe.evaluation.zero_shot:
            outcome = self._evaluate(ZERO_SHOT, names, stage)
        outcome |= self._measure_general(ZERO_SHOT, 0)
        self._finish(0, ZERO_SHOT, outcome)
        row: Row | None = outcome["row"]
        return row

    def _learn(self, index: int, planned: PlannedStage) -> list[float | None]:
        begun = self._unfinished if self._unfinished and self._unfinished.index == index else None
        stage = begun.folder if begun else self._stage(index + 1, planned.name)
        if begun and begun.trained:
            fitted = begun.trained
            self._prepared.family.see(self._prepared.seen(index))
            self._listener.noted(f"{planned.name}: trained before, and tested now")
        else:
            fitted = self._train(index, planned, stage, begun)
        outcome = self._evaluate(planned.name, planned.tested, stage)
        outcome |= self._measure_general(planned.name, index + 1)
        self._finish(index + 1, planned.name, {**outcome, **asdict(fitted)})
        built_on = self._recipe.tuning.method == "incremental_lora" and planned.position > 0
        if self._main and self._recipe.saving.models == "last" and not built_on and index > 0:
            self._folder.drop_model(index, self._prepared.stages[index - 1].name)
        return self._row(outcome)

    def _train(self, index: int, planned: PlannedStage, stage: Path, begun: Unfinished | None) -> Fitted:
        self._interruption.check(f"before '{planned.name}'")
        if index > 0 and planned.position == 0:  # the first stage has the model as it was loaded
            self._prepared.renew()
        fitted = fit(
            self._prepared,
            index,
            self._listener,
            self._folder,
            interruption=self._interruption,
            gone_on_from=begun.checkpoint if begun else None,
        )
        if self._main:
            save_model(self._prepared.family, stage)
            save_strategies(self._prepared.strategies, stage)
            mark_trained(stage, fitted)
        return fitted

    def _evaluate(self, stage_name: str, tested: Sequence[str], stage: Path) -> dict[str, Any]:
        """What `done.json` says of an evaluation: the row of the matrix, and those of the other metrics."""
        started = time.monotonic()
        outcomes = [self._examiner.test(self._prepared.family, name, self._listener) for name in tested]
        found = {outcome.task: outcome.scores for outcome in outcomes}
        names = [task.name for task in self._prepared.tasks]
        metrics = dict.fromkeys(metric for scores in found.values() for metric in scores)
        rows = {metric: [found.get(name, {}).get(metric) for name in names] for metric in metrics}
        row = rows.get(self._recipe.metric, [None] * len(names))
        seconds = time.monotonic() - started
        if self._main:
            write_jsonl(stage / "predictions.jsonl", (record for outcome in outcomes for record in outcome.records()))
        self._listener.evaluated(stage_name, dict(zip(names, row, strict=True)), seconds)
        return {"row": row, "scores": rows, "evaluation_seconds": seconds}

    def _general_is_due(self, finished: int) -> bool:
        general = self._prepared.general
        return general is not None and general.is_due(finished, len(self._prepared.stages))

    def _measure_general(self, stage_name: str, finished: int) -> dict[str, Any]:
        """What `done.json` says of general ability when so many stages are finished; nothing where it is not due."""
        general = self._prepared.general
        if general is None or not self._general_is_due(finished):
            return {}
        started = time.monotonic()
        measured = general.measure(self._prepared.family, self._listener, self._between_batches)
        seconds = time.monotonic() - started
        self._listener.measured(stage_name, measured, seconds)
        return {"general": measured, "general_seconds": seconds}

    @staticmethod
    def _row(outcome: Mapping[str, Any]) -> Row:
        row: Row = outcome["row"]
        return row

    def _stage(self, index: int, name: str) -> Path:
        return self._folder.start_stage(index, name) if self._main else self._folder.stage_folder(index, name)

    def _finish(self, index: int, name: str, payload: Mapping[str, Any]) -> None:
        if self._main:
            self._folder.log.append({"event": "evaluated", "stage": name, **payload})
            self._folder.finish_stage(index, name, {**payload, "matrix": self._matrix.header()})
        processes().wait_for_everyone()

    def _write_matrix(self) -> None:
        if self._main:
            self._folder.write_matrix(self._matrix)

"""The run over a protocol's stages: train, test after each, keep every finished one."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from clkit.engine.failures import explained
from clkit.engine.fingerprints import examine_read, refuse_changes
from clkit.engine.fit import Fitted, fit
from clkit.engine.growing import Earlier, refuse_changed_recipe
from clkit.engine.prepare import Prepared, prepare
from clkit.engine.protocols import PlannedStage, planned_stages
from clkit.engine.resuming import (
    Unfinished,
    clear_for_resuming,
    find_unfinished,
    gone_on_from,
    is_finished,
    mark_trained,
    refuse_damaged_run,
    refuse_nothing,
    tests_first,
    tidy,
)
from clkit.engine.surroundings import repeatable_and_quiet
from clkit.errors import RunError
from clkit.events import Listener, Plan
from clkit.models.loading import save_model
from clkit.processes import processes
from clkit.recipe.inputs import paths_read
from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.results.kinds import UNBOUNDED
from clkit.results.matrix import AccuracyMatrix
from clkit.results.scores import chance_rows
from clkit.run.atomic import write_jsonl
from clkit.run.environment import changed_versions, environment
from clkit.run.folder import RunFolder
from clkit.run.layout import GROWING, ZERO_SHOT, check_links
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
    accept_changes: bool = False,
    listener: Listener | None = None,
) -> RunFolder:
    """Teach a model the recipe's tasks, one after another or as its protocol says, and test it after each stage.

    Args:
        run: the run folder; `runs/NAME-SEED` where None.
        resume: go on where an earlier run of the same recipe stopped, also inside a task.
        overwrite: replace an earlier run.
        accept_changes: go on although data or the starting model are not those that the run read. It is recorded.

    Raises:
        UsageError: the run folder exists already, or, with ``resume``, does not, or holds another recipe, or read
            other data or another model.
        RunError: another process writes the run folder, or, with ``resume``, something in it is damaged.
        InterruptionError: a signal asked the run to stop (Ctrl-C, SIGTERM, SIGUSR1), and all that it did is saved.
        ClkitError: the run failed; what was saved stays.
    """
    path = Path(run) if run is not None else recipe.run_path
    process = processes()
    listener = listener if listener and process.is_main_process else Listener()
    if not process.is_main_process:
        process.wait_for_everyone()  # until the main process has the lock
        return _train(recipe, path, listener, resume=resume, overwrite=overwrite, accept=accept_changes)
    if resume:
        refuse_nothing(path)
        check_links(path)
    else:  # before a lock is put into a folder of the user's
        RunFolder.check_free(path, overwrite=overwrite, reads=paths_read(recipe))
    with locked(path) as remark:
        if remark is not None:
            listener.noted(remark)
        process.wait_for_everyone()
        return _train(recipe, path, listener, resume=resume, overwrite=overwrite, accept=accept_changes)


def dry_run(recipe: Recipe, run: str | Path, *, accept_changes: bool = False, listener: Listener | None = None) -> Plan:
    """What going on with a run would do, after every check that `train` makes of it. Nothing is written.

    Raises:
        ClkitError: as `train`, before its first step.
    """
    refuse_nothing(Path(run))
    return _look(recipe, RunFolder.open(run), listener or Listener(), accept=accept_changes).prepared.plan()


@dataclass(frozen=True)
class _Start:
    """What a run starts from, all loaded and checked, and nothing written.

    Attributes:
        differing: keys of the recipe that differ from the run's, and do not decide the result of what it has.
        accepted: what is no longer as the run read it, in words.
    """

    prepared: Prepared
    unfinished: Unfinished | None = None
    differing: Sequence[str] = ()
    accepted: Sequence[str] = ()


def _look(recipe: Recipe, earlier: RunFolder | None, listener: Listener, *, accept: bool) -> _Start:
    """Load everything before anything is written, so that what is wrong neither leaves a folder nor empties one."""
    if earlier is None:
        return _Start(prepare(recipe))
    differing, new = refuse_changed_recipe(earlier, recipe)
    stages = planned_stages(recipe)
    done = earlier.stages()
    if done and done[0].index > 0 and len(done) < len(stages) and tests_first(recipe):
        raise RunError(
            f"{earlier.stage_folder(0, ZERO_SHOT)} is missing, and only the untrained model can be tested anew: put it "
            "back, or train anew with --overwrite"
        )
    unfinished = _find_unfinished(earlier, stages, listener)
    loaded = gone_on_from(stages, [stage.folder for stage in done if stage.index > 0], unfinished)
    if processes().is_main_process:
        needed = loaded if recipe.tuning.method == "incremental_lora" else loaded[-1:]
        refuse_damaged_run(earlier, stages, needed)
        if done and not earlier.log.path.is_file():
            listener.noted(f"{earlier.log.path} is missing: what was logged is lost, and a new one is begun")
        for number in earlier.log.unreadable():
            listener.noted(f"{earlier.log.path}:{number}: no JSON object (cut short by a crash?); the line is removed")
    examples = {stage.name: stage.payload["examples"] for stage in done if "examples" in stage.payload}
    prepared = prepare(recipe, Earlier(loaded, examples, new))
    accepted = refuse_changes(earlier, recipe, prepared.read, accept=accept)
    for remark in accepted:
        listener.noted(f"accepted: {remark}")
    return _Start(prepared, unfinished, differing, accepted)


@repeatable_and_quiet()
def _train(recipe: Recipe, path: Path, listener: Listener, *, resume: bool, overwrite: bool, accept: bool) -> RunFolder:
    process = processes()
    earlier = RunFolder.open(path) if resume else None
    if earlier is not None and is_finished(earlier, recipe):
        _end(earlier, recipe, listener)
        return earlier
    start = _look(recipe, earlier, listener, accept=accept)
    process.wait_for_everyone()
    if process.is_main_process:
        now = environment(recipe.seed, sys.argv)
        if earlier is not None:
            _go_on(earlier, start, now, listener)
        else:
            RunFolder.create(path, recipe_yaml(recipe), {**now, "read": start.prepared.read}, overwrite=overwrite)
    process.wait_for_everyone()
    folder = RunFolder.open(path)
    try:
        with Interruption() as interruption:
            _Sequence(start, folder, listener, interruption).run()
    except Exception as error:
        known = explained(error, folder.path)
        if known is None:
            raise
        raise known from error
    finally:
        listener.finished()
    return folder


def _end(run: RunFolder, recipe: Recipe, listener: Listener) -> None:
    """What is left to do where all stages are finished: neither the model nor the data are needed for it."""
    refuse_changed_recipe(run, recipe)
    stages = planned_stages(recipe)
    if processes().is_main_process:
        refuse_damaged_run(run, stages, [])
        clear_for_resuming(run, stages, None)
        listener.noted(f"{run.path}: finished before, nothing is trained again")
        for found in examine_read(run):
            if found.state == "changed":
                listener.noted(f"{found.path} is no longer what the run read ({found.note})")
        tidy(run, recipe, stages)
    processes().wait_for_everyone()


def _go_on(earlier: RunFolder, start: _Start, now: Mapping[str, Any], listener: Listener) -> None:
    """Make a run's folder ready to be gone on with, and record that it is."""
    clear_for_resuming(earlier, start.prepared.stages, start.unfinished)
    environment = earlier.environment()
    for remark in changed_versions(environment.get("versions", {}), now["versions"]):
        listener.noted(remark)
    new = start.prepared.earlier.new
    told = {"differing": start.differing, "accepted": start.accepted, "new": new}
    earlier.log.append({"event": "resumed", **told, **now})
    if start.accepted:
        accepted = [*environment.get("accepted", []), {"when": now["started"], "changes": start.accepted}]
        earlier.note_in_environment(read=start.prepared.read, accepted=accepted)
    if new:
        listener.noted(f"{earlier.path}: learns further tasks: {', '.join(new)}")
    if new or GROWING in environment:
        earlier.replace_recipe(recipe_yaml(start.prepared.recipe), read=start.prepared.read)


def _find_unfinished(earlier: RunFolder, stages: Sequence[PlannedStage], listener: Listener) -> Unfinished | None:
    """What all processes go on from: the main one looks, and reads every byte of it."""
    found = [find_unfinished(earlier, stages, listener.noted) if processes().is_main_process else None]
    unfinished: Unfinished | None = broadcast_object_list(found)[0]
    checkpoint = unfinished.checkpoint if unfinished else None
    if checkpoint is not None and checkpoint.processes != processes().num_processes:
        now = processes().num_processes
        listener.noted(
            f"{checkpoint.folder} was saved by {checkpoint.processes} process(es), and {now} go on from it: "
            "what is drawn at random, as by dropout, differs from a run that was never stopped"
        )
    return unfinished


class _Sequence:
    """One run in progress."""

    def __init__(self, start: _Start, folder: RunFolder, listener: Listener, interruption: Interruption) -> None:
        self._interruption = interruption
        self._unfinished = start.unfinished
        self._read = start.prepared.read
        self._folder = folder
        self._listener = listener
        self._prepared = prepared = start.prepared
        self._recipe = recipe = prepared.recipe
        names = [task.name for task in prepared.tasks]
        self._between_batches = partial(interruption.check, "while testing")
        self._examiner = Examiner(prepared.tasks, recipe, self._between_batches)
        self._header = AccuracyMatrix(
            tasks=names,
            metric=recipe.metric,
            higher_is_better=recipe.metric not in UNBOUNDED,
            counts=[self._examiner.examples(prepared.family, name) for name in names],
            protocol=recipe.protocol,
            chance=chance_rows([self._examiner.chance(name) for name in names]),
        ).header()
        self._main = processes().is_main_process

    def run(self) -> None:
        self._listener.started(self._prepared.plan())
        finished = {stage.index for stage in self._folder.stages()}
        if finished:
            self._tidy()
        if tests_first(self._recipe) and 0 not in finished:
            self._zero_shot()
        for index, planned in enumerate(self._prepared.stages):
            if index + 1 in finished:
                self._listener.skipped(planned.name)
            else:
                self._learn(index, planned)

    def _zero_shot(self) -> None:
        """What the model can do before it learns: a row, None if only its general ability is measured."""
        stage = self._stage(0, ZERO_SHOT)
        names = [task.name for task in self._prepared.tasks]
        outcome: dict[str, Any] = {"row": None}
        if self._recipe.evaluation.zero_shot:
            outcome = self._evaluate(ZERO_SHOT, names, stage)
        self._finish(0, ZERO_SHOT, outcome | self._measure_general(ZERO_SHOT, 0))

    def _learn(self, index: int, planned: PlannedStage) -> None:
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
        keys = [f"tasks.{name}.{self._recipe.evaluation.split}" for name in tested]
        read = {key: self._read[key] for key in keys}
        return {"row": row, "scores": rows, "read": read, "evaluation_seconds": seconds}

    def _measure_general(self, stage_name: str, finished: int) -> dict[str, Any]:
        """What `done.json` says of general ability when so many stages are finished; nothing where it is not due."""
        general = self._prepared.general
        if general is None or not general.is_due(finished, len(self._prepared.stages)):
            return {}
        started = time.monotonic()
        measured = general.measure(self._prepared.family, self._listener, self._between_batches)
        seconds = time.monotonic() - started
        self._listener.measured(stage_name, measured, seconds)
        return {"general": measured, "general_seconds": seconds}

    def _stage(self, index: int, name: str) -> Path:
        return self._folder.start_stage(index, name) if self._main else self._folder.stage_folder(index, name)

    def _finish(self, index: int, name: str, payload: Mapping[str, Any]) -> None:
        if self._main:
            self._folder.log.append({"event": "evaluated", "stage": name, **payload})
            self._folder.finish_stage(index, name, {**payload, "matrix": self._header})
        self._tidy()
        processes().wait_for_everyone()

    def _tidy(self) -> None:
        if self._main:
            tidy(self._folder, self._recipe, self._prepared.stages)

"""The run over a protocol's stages: train, test after each, keep every finished one."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from clkit.engine.devices import Device
from clkit.engine.fingerprints import examine_read, refuse_changes
from clkit.engine.growing import Earlier, refuse_changed_recipe
from clkit.engine.prepare import prepare
from clkit.engine.protocols import PlannedStage, planned_stages, tests_first
from clkit.engine.resuming import (
    Unfinished,
    clear_for_resuming,
    find_unfinished,
    gone_on_from,
    is_finished,
    refuse_damaged_run,
    tidy,
)
from clkit.engine.stages import Stages, Start, carry_out
from clkit.engine.surroundings import repeatable_and_quiet
from clkit.engine.tracking import Tracking
from clkit.errors import RunError
from clkit.events import Listener, Listeners, Plan
from clkit.processes import processes
from clkit.recipe.inputs import paths_read
from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.run.environment import changed_versions, environment
from clkit.run.folder import RunFolder
from clkit.run.layout import GROWING, ZERO_SHOT, check_links
from clkit.run.lock import locked
from clkit.run.place import check_begun, check_free
from clkit.training.arguments import chosen_precision


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
        InterruptionError: a signal asked the run to stop, and all that it did is saved.
        ClkitError: the run failed; what was saved stays.
    """
    path = Path(run) if run is not None else recipe.run_path
    process = processes()
    listener = listener if listener and process.is_main_process else Listener()
    if not process.is_main_process:
        process.wait_for_everyone()  # until the main process has the lock
        return _train(recipe, path, listener, resume=resume, overwrite=overwrite, accept=accept_changes)
    if resume:
        check_begun(path)
        check_links(path)
    else:  # before a lock is put into a folder of the user's
        check_free(path, overwrite=overwrite, reads=paths_read(recipe))
    with locked(path) as remark:
        if remark is not None:
            listener.noted(remark)
        process.wait_for_everyone()
        return _train(recipe, path, listener, resume=resume, overwrite=overwrite, accept=accept_changes)


def dry_run(
    recipe: Recipe,
    run: str | Path,
    device: Device | None = None,
    *,
    accept_changes: bool = False,
    listener: Listener | None = None,
) -> Plan:
    """What going on with a run would do, after every check that `train` makes of it. Nothing is written.

    Raises:
        ClkitError: as `train`, before its first step.
    """
    check_begun(Path(run))
    check_links(Path(run))
    return _look(recipe, RunFolder.open(run), listener or Listener(), accept=accept_changes).prepared.plan(device)


def _look(recipe: Recipe, earlier: RunFolder | None, listener: Listener, *, accept: bool) -> Start:
    """Load everything before anything is written, so that what is wrong neither leaves a folder nor empties one."""
    if earlier is None:
        return Start(prepare(recipe))
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
        _tell_of_lost_log(earlier, listener)
        for number in earlier.log.unreadable():
            listener.noted(f"{earlier.log.path}:{number}: no JSON object (cut short by a crash?); the line is removed")
    finished = {stage.name: stage.payload.get("examples", 0) for stage in done if stage.index > 0}
    read = earlier.read()
    prepared = prepare(recipe, Earlier(loaded, finished, new, read))
    accepted = refuse_changes(earlier, recipe, prepared.read, accept=accept)
    for remark in accepted:
        listener.noted(f"accepted: {remark}")
    return Start(prepared, unfinished, differing, accepted)


@repeatable_and_quiet()
def _train(recipe: Recipe, path: Path, listener: Listener, *, resume: bool, overwrite: bool, accept: bool) -> RunFolder:
    process = processes()
    earlier = RunFolder.open(path) if resume else None
    if earlier is not None and is_finished(earlier, recipe):
        end(earlier, recipe, listener)
        return earlier
    start = _look(recipe, earlier, listener, accept=accept)
    process.wait_for_everyone()
    if process.is_main_process:
        now = environment(recipe.seed, sys.argv)
        if recipe.training.precision == "auto":  # a remark is made where a run goes on with another one
            now["versions"]["training.precision"] = chosen_precision(recipe.training)
        if earlier is not None:
            go_on(earlier, start, now, listener)
        else:
            RunFolder.create(path, recipe_yaml(recipe), {**now, "read": start.prepared.read}, overwrite=overwrite)
    process.wait_for_everyone()
    folder = RunFolder.open(path)
    if process.is_main_process and recipe.training.report_to:
        listener = Listeners(listener, Tracking(recipe, folder, listener))
    return carry_out(partial(Stages, start), folder, listener)


def _tell_of_lost_log(run: RunFolder, listener: Listener) -> None:
    if run.stages() and not run.log.path.is_file():
        listener.noted(f"{run.log.path} is missing: what was logged is lost, and a new one is begun")


def end(run: RunFolder, recipe: Recipe, listener: Listener, *, measured: bool = False) -> None:
    """What is left to do where all stages are finished: neither the model nor the data are needed for it."""
    refuse_changed_recipe(run, recipe, measured=measured)
    stages = planned_stages(recipe)
    if processes().is_main_process:
        refuse_damaged_run(run, stages, [])
        _tell_of_lost_log(run, listener)
        if not run.log.path.is_file():
            run.log.append({"event": "resumed", **environment(recipe.seed, sys.argv)})
        clear_for_resuming(run, stages, None)
        listener.noted(f"{run.path}: finished before, nothing is {'measured' if measured else 'trained'} again")
        for found in examine_read(run):
            if found.state == "changed":
                listener.noted(f"{found.path} is no longer what the run read ({found.note})")
        tidy(run, recipe, stages)
    processes().wait_for_everyone()


def go_on(earlier: RunFolder, start: Start, now: Mapping[str, Any], listener: Listener) -> None:
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

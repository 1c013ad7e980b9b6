"""Examines a run folder: what of it is whole, missing, changed, unknown or unfinished. It writes nothing.

What is not as it was written is refused before anything goes on from it, and the refusal says what helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from clkit.errors import RunError, UsageError
from clkit.run.folder import RunFolder
from clkit.run.layout import (
    ENVIRONMENT,
    EXPORTS,
    FILLED,
    FORGETTING,
    FORMAT,
    INSPECT,
    RECIPE,
    RUN_FILES,
    TASKS,
    TRACKERS,
    leftovers,
)
from clkit.run.lock import LOCK_FILE, LOCK_FILES, Holder
from clkit.run.seal import CHECKPOINTS, DAMAGED, DONE_FILE, Checked, Done, State, read_object

# A file that nothing is known of does no harm to what is.
_FINE: tuple[State, ...] = ("whole", "unknown")


def is_whole(checked: Sequence[Checked]) -> bool:
    """Whether the run is finished, and all of it is as it was written."""
    return all(found.state in _FINE for found in checked)


def verdict(checked: Sequence[Checked]) -> str:
    """What is said of a run that is whole: of what is beside it, or cannot be read any more, nothing is known."""
    unknown = any(found.state == "unknown" for found in checked)
    return "what the run wrote is whole" if unknown else "everything is whole"


def examine(path: Path) -> Iterator[Checked]:
    """Check every file of a run, each as far as it can be: against a checksum, or by what it follows from.

    Yields:
        What was found, by its path in the run folder; a whole stage as one.

    Raises:
        RunError: there is no run folder, or a newer clkit made it.
    """
    run = RunFolder(path)
    if not path.is_dir():
        raise RunError(f"{path}: no such run folder")
    if not any((path / part).exists() for part in (*RUN_FILES, TASKS) if part not in LOCK_FILES):
        raise RunError(f"{path} is no run folder: nothing of a run is in it")
    yield _environment(run)
    yield _recipe(run)
    yield from _log(run)
    yield from _scores(run)
    yield from _filled(run)
    yield from _stages(run)
    if (path / LOCK_FILE).exists():
        yield Checked(LOCK_FILE, "unfinished", f"locked by {Holder.of(path) or 'a process that it does not name'}")
    yield from _others(run)


def advice(path: Path, checked: Sequence[Checked]) -> list[str]:
    """What can be done about what was found, a line each."""
    run = RunFolder(path)
    command = f"clkit train {run.recipe_path} --run {path} --resume"
    damaged = [found.path for found in checked if found.state in DAMAGED]
    begun = [stage.path for stage in run.stage_folders()]
    stages = [folder for folder in begun if any(name.startswith(f"{TASKS}/{folder.name}/") for name in damaged)]
    lines = []
    if {ENVIRONMENT, RECIPE} & {*damaged}:
        lines.append("without its own recipe.yaml and env.json the run cannot go on: put them back")
    elif stages:
        lines.append(f"{stages[0]}: {remedy(run, stages[0])}")
    elif FILLED in damaged:
        lines.append(f"put {FILLED} back, or remove it: `clkit eval {path} --fill` measures it anew")
    elif {*EXPORTS} & {*damaged}:
        lines.append(f"`{command}` writes matrix.json and metrics.json anew")
    elif any(found.state == "unfinished" for found in checked) and not damaged:
        lines.append(f"`{command}` goes on with the run, unless a process still does")
    if any(name.startswith(("model.", "tasks.", "general.")) for name in damaged):
        lines.append("what the run read has changed: put it back, or resume with --accept-changes")
    return lines


def _environment(run: RunFolder) -> Checked:
    if not run.env_path.is_file():
        return Checked(ENVIRONMENT, "missing")
    try:
        run.environment()
    except RunError as error:
        found = _format(run)
        if type(found) is int and found > FORMAT:
            raise
        return Checked(ENVIRONMENT, "changed", _about(run.env_path, error))
    return Checked(ENVIRONMENT, "whole")


def _format(run: RunFolder) -> object:
    try:
        return read_object(run.env_path).get("format")
    except RunError:
        return None


def _recipe(run: RunFolder) -> Checked:
    if not run.recipe_path.is_file():
        return Checked(RECIPE, "missing")
    try:
        run.recipe()
        original = run.recipe_is_original()
    except RunError as error:
        if str(error).startswith(str(run.recipe_path)):
            return Checked(RECIPE, "changed", _about(run.recipe_path, error))
        return Checked(RECIPE, "unchecked", "its checksum stands in env.json, which is not whole")
    return Checked(RECIPE, "whole") if original else Checked(RECIPE, "changed", "the run began with another")


def _log(run: RunFolder) -> Iterator[Checked]:
    name = run.log.path.name
    if not run.log.path.is_file():
        if any(stage.is_finished for stage in run.stage_folders()):
            yield Checked(name, "missing", "what was logged is lost; --resume begins a new one")
        return
    spoilt = run.log.unreadable()
    if spoilt:
        lines = ", ".join(str(number) for number in spoilt[:3]) + (", ..." if len(spoilt) > 3 else "")
        yield Checked(name, "changed", f"no JSON object in line {lines} (cut short by a crash?); --resume removes it")
    else:
        yield Checked(name, "whole")


def _scores(run: RunFolder) -> Iterator[Checked]:
    try:
        scores = run.scores()
    except RunError as error:
        if not any(stage.is_finished for stage in run.stage_folders()):
            yield Checked(TASKS, "unfinished", "nothing was evaluated so far")
        elif "stages disagree" in str(error) or "do not fit" in str(error):
            yield Checked(TASKS, "changed", _about(run.path, error))
        return
    if scores.damage:  # said of the stage
        return
    if scores.matrix.in_progress:
        yield Checked(TASKS, "unfinished", scores.matrix.in_progress)
    for name, content in scores.exports().items():
        path = run.path / name
        try:
            whole = read_object(path) == content
        except RunError as error:
            yield Checked(name, "changed" if path.is_file() else "missing", _about(path, error))
        else:
            note = "" if whole else "does not follow from the scores of the stages"
            yield Checked(name, "whole" if whole else "changed", note)


def _filled(run: RunFolder) -> Iterator[Checked]:
    if (run.path / FILLED).is_file():
        try:
            Done.read(run.path, FILLED)
        except RunError as error:
            yield Checked(FILLED, "changed", _about(run.path / FILLED, error))
        else:
            yield Checked(FILLED, "whole")


def _stages(run: RunFolder) -> Iterator[Checked]:
    begun = run.stage_folders()
    numbers = [stage.number for stage in begun]
    last = max((stage.number for stage in begun if stage.is_finished), default=0)
    for index in sorted({*range(1, last)} - {*numbers}):
        yield Checked(f"{TASKS}/{index:02d}-*", "missing", "a stage after it is finished")
    left = leftovers(run.path)
    for index, _, folder in begun:
        place = f"{TASKS}/{folder.name}"
        if (folder / DONE_FILE).is_file():
            yield from _finished(folder, place, left)
        elif index < last:
            yield Checked(f"{place}/{DONE_FILE}", "missing", "without it the stage does not count as finished")
        else:
            checkpoints = sum(entry.is_dir() for entry in folder.glob(f"{CHECKPOINTS}/*"))
            yield Checked(place, "unfinished", f"{checkpoints or 'no'} checkpoint{'s' * (checkpoints != 1)}")
        if numbers.count(index) > 1:
            yield Checked(place, "changed", f"another stage has number {index} too")


def _finished(folder: Path, place: str, left: Sequence[Path]) -> Iterator[Checked]:
    try:
        done = Done.read(folder)
    except RunError as error:
        yield Checked(f"{place}/{DONE_FILE}", "changed", _about(folder / DONE_FILE, error))
        return
    found = list(done.check(folder))
    if all(one.state in _FINE for one in found):
        size = sum(seal.size for seal in done.files.values())
        dropped = "" if done.model_kept else ", the model not kept (saving.models: last)"
        count = f"{len(done.files)} file{'s' * (len(done.files) != 1)}"
        yield Checked(place, "whole", f"{count}, {size:,} bytes{dropped}")
    for one in found:
        path = folder / one.path
        if one.state != "whole" and not any(path.is_relative_to(going) for going in left):
            yield Checked(f"{place}/{one.path}", one.state, one.note)


def _others(run: RunFolder) -> Iterator[Checked]:
    """What is nothing of the run: what a kill left behind, and whatever is not clkit's."""
    left = leftovers(run.path)
    for path in sorted(left):
        yield Checked(path.relative_to(run.path).as_posix(), "unknown", "left behind by a kill; --resume removes it")
    known = {stage.path for stage in run.stage_folders()} | {*left}
    tasks = run.path / TASKS
    entries = [entry for entry in run.path.iterdir() if entry.name not in (*RUN_FILES, TASKS, INSPECT, TRACKERS)]
    entries += tasks.iterdir() if tasks.is_dir() else []
    for entry in sorted(entry for entry in entries if entry not in known):
        yield Checked(entry.relative_to(run.path).as_posix(), "unknown")


def _about(path: Path, error: RunError) -> str:
    """What an error says, without the path that it begins with."""
    return str(error).removeprefix(str(path)).lstrip(": ")


def refuse_damage(run: RunFolder, folders: Sequence[Path], parts: Sequence[str] | None = None) -> None:
    """Make sure that finished stages are as the run left them.

    Args:
        parts: the files and folders in them that matter; all where None.

    Raises:
        RunError: something in them is missing or was changed.
    """
    for folder in folders:
        try:
            Done.read(folder).refuse_damage(folder, parts)
        except RunError as error:
            raise RunError(f"{error}; {remedy(run, folder)}") from error


def damage_beside(folder: Path, parts: Sequence[str]) -> list[str]:
    """A remark on each file of a finished stage, but those in ``parts``, that is not as the run left it."""
    done = Done.read(folder)
    others = {name.split("/")[0] for name in done.files} - {*parts}
    return [
        f"{folder / found.path} is not what the run wrote: {found.state} ({found.note})"
        for found in done.check(folder, others)
        if found.state in DAMAGED
    ]


def remedy(run: RunFolder, folder: Path) -> str:
    """What helps where a stage is damaged: which folders to remove so that `--resume` makes the stage anew."""
    forgetting = run.environment().get(FORGETTING)
    if forgetting is not None:
        return f"`clkit forget-data {run.path} --task {forgetting}` was cut short: repeat it"
    begun = run.stage_folders()
    (index,) = [stage.number for stage in begun if stage.path == folder]
    before = [stage.path for stage in begun if 0 < stage.number < index][-1:]
    later = any(stage.number > index for stage in begun)
    try:
        alone = run.recipe().get("protocol") == "per_task"  # then no stage goes on from another
        kept = all(Done.read(path).model_kept for path in before)
        unfinished = index == 0 and run.scores().matrix.in_progress is not None
    except (RunError, UsageError):
        return f"put it back; `clkit doctor {run.path}` lists all that is damaged"
    if (later and unfinished) or not (kept or alone):
        why = "the zero-shot test needs the untrained model" if index == 0 else "the model before it was not kept"
        return f"put it back, or train anew with --overwrite ({why})"
    more = " and the stages after it" if later and index > 0 else ""
    return (
        f"put it back, or remove {folder}{more} and make it anew: "
        f"`clkit train {run.recipe_path} --run {run.path} --resume`"
    )

"""Examines a run folder: what of it is whole, missing, changed, unknown or unfinished. It writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from clkit.errors import RunError
from clkit.run.folder import FORMAT, RunFolder
from clkit.run.lock import LOCK_FILE, Holder
from clkit.run.recovery import recover_matrix
from clkit.run.seal import CHECKPOINTS, DONE_FILE, Checked, Done, State, read_object

#: Of an older run, which recorded no checksums: what can be read may still not be what was written.
NO_MANIFEST = "no manifest (made by an older clkit)"
_PARTS = ("env.json", "recipe.yaml", "log.jsonl", "matrix.json", "metrics.json", LOCK_FILE, "tasks")
#: `clkit inspect-magnitudes` writes here; whatever lies here can be measured again.
_BESIDE = ("inspect",)
# A file that nothing is known of does no harm to what is.
_FINE: tuple[State, ...] = ("whole", "unknown")


def is_whole(checked: Sequence[Checked]) -> bool:
    """Whether the run is finished, and all of it is as it was written."""
    return all(found.state in _FINE for found in checked)


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
    if not any((path / part).exists() for part in _PARTS if part != LOCK_FILE):
        raise RunError(f"{path} is no run folder: nothing of a run is in it")
    yield _environment(run)
    yield _recipe(run)
    yield from _log(run)
    yield from _scores(run)
    yield from _stages(run)
    if (path / LOCK_FILE).exists():
        yield Checked(LOCK_FILE, "unfinished", f"locked by {Holder.of(path) or 'a process that it does not name'}")
    yield from _strangers(run)


def advice(path: Path, checked: Sequence[Checked]) -> list[str]:
    """What can be done about what was found, a line each."""
    command = f"clkit train {path / 'recipe.yaml'} --run {path} --resume"
    damaged = [found for found in checked if found.state in ("missing", "changed")]
    stages = sorted({"/".join(found.path.split("/")[:2]) for found in damaged if found.path.startswith("tasks/")})
    lines = []
    if stages:
        lines.append(
            f"put the files back, or remove {path / stages[0]} and the stages after it: "
            f"then `{command}` trains them anew"
        )
    elif {found.path for found in damaged} & {"matrix.json", "metrics.json"}:
        lines.append(f"`{command}` writes matrix.json and metrics.json anew")
    elif any(found.state == "unfinished" for found in checked) and not damaged:
        lines.append(f"`{command}` goes on with the run, unless a process still does")
    if {found.path for found in damaged} & {"env.json", "recipe.yaml"}:
        lines.append("without its own recipe.yaml and env.json the run cannot go on: put them back")
    if all(found.state in (*_FINE, "unchecked") for found in checked):
        lines.append("nothing is damaged as far as it can be told, but not everything can be checked")
    return lines


def _environment(run: RunFolder) -> Checked:
    name = run.env_path.name
    if not run.env_path.is_file():
        return Checked(name, "missing")
    try:
        found = read_object(run.env_path).get("format")
    except RunError as error:
        return Checked(name, "changed", _about(run.env_path, error))
    try:
        run.environment()
    except RunError as error:
        if type(found) is int and found > FORMAT:
            raise
        return Checked(name, "changed", _about(run.env_path, error))
    return Checked(name, "whole")


def _recipe(run: RunFolder) -> Checked:
    name = run.recipe_path.name
    if not run.recipe_path.is_file():
        return Checked(name, "missing")
    try:
        run.recipe()
        original = run.recipe_is_original()
    except RunError as error:
        if str(error).startswith(str(run.recipe_path)):
            return Checked(name, "changed", _about(run.recipe_path, error))
        return Checked(name, "unchecked", "its checksum stands in env.json, which is not whole")
    if original is None:
        return Checked(name, "unchecked", NO_MANIFEST)
    return Checked(name, "whole") if original else Checked(name, "changed", "it is not the one that the run began with")


def _log(run: RunFolder) -> Iterator[Checked]:
    if not run.log.path.is_file():
        return
    lines = run.log.path.read_bytes().splitlines()
    spoilt = sum(not _is_json(line) for line in lines if line)
    note = f"{spoilt} of {len(lines):,} lines cannot be read (cut short by a crash?)" if spoilt else ""
    yield Checked(run.log.path.name, "changed" if spoilt else "whole", note)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _scores(run: RunFolder) -> Iterator[Checked]:
    name = run.matrix_path.name
    there = run.matrix_path.is_file()
    if not there and not any((folder / DONE_FILE).is_file() for _, _, folder in run.stage_folders()):
        yield Checked(name, "unfinished", "nothing was evaluated so far")
        return
    try:
        right, _ = recover_matrix(run)
    except RunError as error:
        yield Checked(name, "changed" if there else "missing", _about(run.matrix_path, error))
        return
    try:
        saved = run.read_matrix()
    except RunError as error:
        yield Checked(name, "changed" if there else "missing", _about(run.matrix_path, error))
        return
    if saved != right:
        yield Checked(name, "changed", "it does not hold the scores of the stages")
    elif saved.in_progress:
        yield Checked(name, "unfinished", saved.in_progress)
    else:
        yield Checked(name, "whole")
    yield _metrics(run, {key: metric.value for key, metric in saved.metrics().items()})


def _metrics(run: RunFolder, right: dict[str, float | None]) -> Checked:
    name = run.metrics_path.name
    if not run.metrics_path.is_file():
        return Checked(name, "missing", "follows from matrix.json")
    try:
        saved = read_object(run.metrics_path)
    except RunError as error:
        return Checked(name, "changed", _about(run.metrics_path, error))
    for key, metric in saved.items():  # an older clkit knew fewer of them, and worded notes differently
        value = metric.get("value") if isinstance(metric, dict) else metric
        if key not in right or value != right[key]:
            return Checked(name, "changed", f"'{key}' does not follow from matrix.json")
    return Checked(name, "whole")


def _stages(run: RunFolder) -> Iterator[Checked]:
    folders = run.stage_folders()
    numbers = [index for index, _, _ in folders]
    scored = _scored(run)
    for index in sorted(scored - set(numbers)):
        yield Checked(f"tasks/{index:02d}-*", "missing", "its scores stand in matrix.json")
    for index, _, folder in folders:
        place = f"tasks/{folder.name}"
        if (folder / DONE_FILE).is_file():
            yield from _finished(folder, place)
        elif index in scored or any(other > index and (path / DONE_FILE).is_file() for other, _, path in folders):
            yield Checked(f"{place}/{DONE_FILE}", "missing", "without it the stage does not count as finished")
        else:
            checkpoints = sum(entry.is_dir() for entry in folder.glob(f"{CHECKPOINTS}/*"))
            yield Checked(place, "unfinished", f"{checkpoints or 'no'} checkpoint{'s' * (checkpoints != 1)}")
        if numbers.count(index) > 1:
            yield Checked(place, "changed", f"another stage has number {index} too")


def _scored(run: RunFolder) -> set[int]:
    """The numbers of the stages whose scores `matrix.json` holds."""
    try:
        matrix = run.read_matrix()
    except RunError:
        return set()
    return {*range(1, len(matrix.rows) + 1), *([] if matrix.zero_shot is None else [0])}


def _finished(folder: Path, place: str) -> Iterator[Checked]:
    try:
        done = Done.read(folder)
    except RunError as error:
        yield Checked(f"{place}/{DONE_FILE}", "changed", _about(folder / DONE_FILE, error))
        return
    if done.files is None:
        yield Checked(place, "unchecked", NO_MANIFEST)
        return
    found = list(done.check(folder))
    if all(one.state in _FINE for one in found):
        size = sum(seal.size for seal in done.files.values())
        dropped = "" if done.model_kept else ", the model not kept (saving.models: last)"
        count = f"{len(done.files)} file{'s' * (len(done.files) != 1)}"
        yield Checked(place, "whole", f"{count}, {size:,} bytes{dropped}")
    for one in found:
        if one.state != "whole":
            yield Checked(f"{place}/{one.path}", one.state, one.note)


def _strangers(run: RunFolder) -> Iterator[Checked]:
    stages = {folder for _, _, folder in run.stage_folders()}
    tasks = run.path / "tasks"
    entries = [entry for entry in run.path.iterdir() if entry.name not in (*_PARTS, *_BESIDE)]
    entries += [entry for entry in tasks.iterdir() if entry not in stages] if tasks.is_dir() else []
    for entry in sorted(entries):
        yield Checked(entry.relative_to(run.path).as_posix(), "unknown")


def _about(path: Path, error: RunError) -> str:
    """What an error says, without the path that it begins with."""
    return str(error).removeprefix(str(path)).lstrip(": ")

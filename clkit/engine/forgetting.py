"""Takes the texts of a task's data out of a run: those kept for replay, and those in the records of its tests.

Each stage is sealed anew before its files are replaced. A kill in between leaves a file that has not the hash that its
`done.json` says, but will have when the same is taken out of it: the same call, repeated, finishes what was cut short.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from clkit.engine.evaluate import task_named
from clkit.errors import RunError
from clkit.recipe.recipe import Recipe
from clkit.results.scores import Tested, without_texts
from clkit.run.atomic import jsonl, remove, write_atomically, write_json
from clkit.run.doctor import remedy
from clkit.run.filled import filled_without
from clkit.run.folder import RunFolder
from clkit.run.layout import FILLED, FORGETTING, FORGOTTEN, PREDICTIONS, TRAINED_FILE, leftovers, refuse_strangers
from clkit.run.lock import locked
from clkit.run.seal import DONE_FILE, VALUES, Done, FileSeal
from clkit.strategies.hooks import call, make
from clkit.strategies.registry import load_strategy
from clkit.training.state import values_text


@dataclass
class Kept:
    """What a run keeps of a task's texts.

    Attributes:
        stages: how many keep some, of which `replaying` for replay.
        files: the new content of each file that changes.
        seals: the new seal of each stage's folder that has one, and its name.
        begun: of a stage that is begun anew, since the data that it was trained on so far cannot be had again.
    """

    stages: int = 0
    replaying: int = 0
    files: dict[Path, str] = field(default_factory=dict)
    seals: dict[Path, tuple[str, Done]] = field(default_factory=dict)
    begun: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        begun = f"; what was begun of {self.begun[0].name} is removed, and trained anew" if self.begun else ""
        return f"texts in {self.stages} stage(s), {self.replaying} of them with examples for replay{begun}"


def forget_data(run: RunFolder, task: str, confirmed: Callable[[Kept], bool]) -> Kept | None:
    """Take the texts of a task's data out of a run. The weights stay, and so do the scores.

    Args:
        confirmed: is asked before anything is changed.

    Returns:
        What was taken out; None where that was not confirmed.

    Raises:
        UsageError: the run has no such task.
        RunError: another process writes the run, or a file that keeps texts is damaged; nothing was changed.
    """
    with locked(run.path):
        recipe = Recipe.load(run.recipe_path)
        task_named(recipe, task)
        refuse_strangers(run.path)
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        kept = _find(run, recipe, task, when)
        if not confirmed(kept):
            return None
        run.note_in_environment(**{FORGETTING: task})
        for folder, (name, done) in kept.seals.items():
            done.write(folder, name)
        for path, content in kept.files.items():
            write_atomically(path, content)
        for path in [*kept.begun, *leftovers(run.path)]:
            remove(path)
        environment = {key: value for key, value in run.environment().items() if key != FORGETTING}
        environment[FORGOTTEN] = {**environment.get(FORGOTTEN, {}), task: when}
        write_json(run.env_path, environment)
        run.log.append({"event": "forgotten_data", "task": task, "when": when})
        return kept


def kept_records(run: RunFolder, tested: Tested) -> Iterable[Mapping[str, Any]]:
    """What is kept of a test: no texts of a task whose texts were taken out."""
    environment = run.environment()
    if tested.task not in environment.get(FORGOTTEN, {}):
        return tested.records()
    labels = environment["read"].get(f"tasks.{tested.task}.labels", ())
    return [without_texts(record, labels) for record in tested.records()]


def _find(run: RunFolder, recipe: Recipe, task: str, when: str) -> Kept:
    labels = run.read().get(f"tasks.{task}.labels", ())

    def of_others(record: Mapping[str, Any]) -> Mapping[str, Any]:
        return without_texts(record, labels) if record["task"] == task else record

    take_out: Mapping[str, Callable[[str], str]] = {
        VALUES: lambda text: _state_without(recipe, text, task),
        PREDICTIONS: lambda text: jsonl(map(of_others, map(json.loads, text.rstrip("\n").split("\n") if text else ()))),
    }
    kept = Kept()
    if filled := filled_without(run.path, of_others):
        kept.seals[run.path] = FILLED, filled
    unsealed = []
    for stage in run.stage_folders():
        name = DONE_FILE if stage.is_finished else TRAINED_FILE
        if not (stage.path / name).is_file():
            unsealed.append(stage.path)
            continue
        done = Done.read(stage.path, name)
        seals = dict(done.files)
        for file, without in take_out.items():
            path = stage.path / file
            if file not in seals:
                unsealed += [path] if path.exists() else []
                continue
            text, sealed = _read(run, path, without, seals[file])
            if text is not None:
                kept.files[path], seals[file] = text, sealed
        changed = [path.name for path in kept.files if path.parent == stage.path]
        kept.stages += bool(changed)
        kept.replaying += VALUES in changed
        if seals != done.files:
            said = {**done.payload.get(FORGOTTEN, {}), task: when}
            payload = {**done.payload, FORGOTTEN: said} if name == DONE_FILE else done.payload
            kept.seals[stage.path] = name, replace(done, payload=payload, files=seals)
    # What a stage replays decides what a checkpoint of it goes on with.
    kept.begun = [*_begun(unsealed, anew=bool(kept.replaying))]
    return kept


def _read(run: RunFolder, path: Path, without: Callable[[str], str], sealed: FileSeal) -> tuple[str | None, FileSeal]:
    """A file's content without the task's texts and the seal of that; None where it has none of them."""
    try:
        text = path.read_text("utf-8")
        new = without(text)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}); {remedy(run, path.parent)}") from error
    now, then = _seal(text), _seal(new)
    if sealed not in (now, then):
        raise RunError(f"{path} is changed, its sha256 differs; {remedy(run, path.parent)}")
    return (None, now) if text == new else (new, then)


def _seal(text: str) -> FileSeal:
    content = text.encode()
    return FileSeal(len(content), sha256(content).hexdigest())


def _begun(unsealed: list[Path], *, anew: bool) -> Iterator[Path]:
    for path in unsealed:
        if anew or path.is_file():
            yield path
        elif (path / PREDICTIONS).is_file():
            yield path / PREDICTIONS


def _state_without(recipe: Recipe, text: str, task: str) -> str:
    values: dict[str, Any] = json.loads(text)
    for options in recipe.strategies:
        strategy = make(load_strategy(options.name), options)
        values[options.name] = call(strategy, "forget_data", values[options.name], task)
    return values_text(values)

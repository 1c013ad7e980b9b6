"""The run folder: written so that a crash at any moment leaves it whole, and read back strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkit.errors import RunError
from clkit.results.matrix import AccuracyMatrix
from clkit.run.atomic import RunLog, remove, sync, write_atomically, write_json
from clkit.run.layout import (
    ENVIRONMENT,
    FORMAT,
    GROWING,
    LOG,
    OBJECTS,
    RECIPE,
    STAGE_PARTS,
    TASKS,
    StageFolder,
    is_of_model,
    leftovers,
    remove_own_files,
    remove_whole,
    stage_folders,
)
from clkit.run.place import check_free
from clkit.run.recipe_text import parse_recipe
from clkit.run.scores import Scores, read_scores
from clkit.run.seal import Done, read_object, seal_files, text_sha256

if TYPE_CHECKING:
    from clkit import Report


@dataclass(frozen=True)
class Stage:
    """A finished stage: the zero-shot evaluation (index 0) or a training (from 1), with what the engine says of it."""

    index: int
    name: str
    folder: Path
    payload: dict[str, Any]
    model_kept: bool


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. Make it with `create`, `open` or `newest`, which check what is there."""

    path: Path

    @classmethod
    def create(
        cls, path: str | Path, recipe_yaml: str, environment: Mapping[str, Any], *, overwrite: bool = False
    ) -> RunFolder:
        """A new run folder with its recipe and environment. ``overwrite`` removes an earlier run's files first.

        Raises:
            UsageError: the folder is not empty, or ``overwrite`` meets something that is no run folder.
        """
        run = cls(Path(path))
        check_free(run.path, overwrite=overwrite)
        if run.path.is_dir():
            remove_own_files(run.path)
        run.path.mkdir(parents=True, exist_ok=True)
        # env.json comes first: it is what tells a half-made run folder from a folder of the user's.
        write_json(run.env_path, {"format": FORMAT, "recipe_sha256": text_sha256(recipe_yaml), **environment})
        write_atomically(run.recipe_path, recipe_yaml)
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run folder.

        Raises:
            RunError: it is no run folder (the message says what is missing), or another version of clkit made it.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            raise RunError(f"{run.path}: no such run folder")
        missing = [file.name for file in (run.recipe_path, run.env_path) if not file.is_file()]
        if missing:
            raise RunError(f"{run.path} is no run folder: {' and '.join(missing)} missing")
        run.environment()
        return run

    @classmethod
    def newest(cls, root: str | Path = "runs") -> RunFolder:
        """The run in ``root`` that was written last.

        Raises:
            RunError: there is none, or it cannot be opened.
        """
        return cls.open(cls.newest_path(root))

    @classmethod
    def newest_path(cls, root: str | Path = "runs") -> Path:
        """Where the newest run is, be it whole or not.

        Raises:
            RunError: there is none.
        """
        written = {
            run.path: max(file.stat().st_mtime_ns for file in (run.recipe_path, run.log.path) if file.is_file())
            for run in (cls(recipe.parent) for recipe in Path(root).glob(f"*/{RECIPE}"))
        }
        if not written:
            raise RunError(f"no run in {root}/: start one with `clkit train`, or name a run folder")
        return max(written, key=lambda path: (written[path], path))

    @property
    def recipe_path(self) -> Path:
        return self.path / RECIPE

    @property
    def env_path(self) -> Path:
        return self.path / ENVIRONMENT

    @property
    def log(self) -> RunLog:
        return RunLog(self.path / LOG)

    def recipe_yaml(self) -> str:
        """The text of the resolved recipe.

        Raises:
            RunError: it cannot be read.
        """
        try:
            return self.recipe_path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise RunError(f"{self.recipe_path}: {error}") from error

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as plain data, unvalidated.

        Raises:
            RunError: it cannot be read or is no YAML mapping.
        """
        data = parse_recipe(self.recipe_yaml(), str(self.recipe_path))
        if not isinstance(data, dict):
            raise RunError(f"{self.recipe_path} must hold a YAML mapping")
        return data

    def recipe_is_original(self) -> bool:
        """Whether `recipe.yaml` is as the run began with it, or was grown to.

        Raises:
            RunError: `recipe.yaml` or `env.json` cannot be read.
        """
        return text_sha256(self.recipe_yaml()) in map(self.environment().get, ("recipe_sha256", GROWING))

    def replace_recipe(self, recipe_yaml: str, **values: Any) -> None:
        """Go on with another recipe. `env.json` keeps the former one, and takes these values.

        A kill at any moment leaves one of the two as the run's recipe; the next call finishes what it cut short.
        """
        former, sha256 = self.recipe_yaml(), text_sha256(recipe_yaml)
        if former != recipe_yaml:
            formers = {**self.environment().get("former_recipes", {}), text_sha256(former): former}
            self.note_in_environment(former_recipes=formers, **{GROWING: sha256})
            write_atomically(self.recipe_path, recipe_yaml)
        environment = {**self.environment(), "recipe_sha256": sha256, **values}
        write_json(self.env_path, {key: value for key, value in environment.items() if key != GROWING})

    def read(self) -> dict[str, Any]:
        """Fingerprints of what the run read, by its key (`clkit.engine.fingerprints`); nothing of an early version's.

        Raises:
            RunError: `env.json` is damaged.
        """
        found = self.environment().get("read")
        return found if isinstance(found, dict) else {}

    def environment(self) -> dict[str, Any]:
        """What `env.json` holds.

        Raises:
            RunError: it is damaged, or another clkit wrote it in a layout that this one does not know.
        """
        data = read_object(self.env_path, OBJECTS)
        found = data.get("format")
        if type(found) is not int or found < 1:
            raise RunError(f"{self.env_path}: 'format' must be a number from 1, got {found!r}")
        if found > FORMAT:
            raise RunError(
                f"{self.path} was made by a newer clkit (folder format {found}, this clkit reads {FORMAT}): "
                "upgrade with `pip install -U clkit`"
            )
        return data

    def note_in_environment(self, **values: Any) -> None:
        """Change what `env.json` says of these keys."""
        write_json(self.env_path, {**self.environment(), **values})

    def scores(self, metric: str | None = None) -> Scores:
        """What the run's stages scored, as far as they are whole (`clkit.run.scores.read_scores`)."""
        return read_scores(self.path, metric)

    def read_matrix(self) -> AccuracyMatrix:
        """The scores so far.

        Raises:
            RunError: there are none yet, or a stage is damaged.
        """
        matrix, damage, _ = self.scores()
        if damage:
            raise RunError(damage[0])
        return matrix

    @property
    def matrix(self) -> AccuracyMatrix:
        """`read_matrix`, which a notebook shows as a table."""
        return self.read_matrix()

    def report(self) -> Report:
        """The page of this run (`clkit report`), which a notebook shows; `save` writes it into a file.

        Raises:
            RunError: there are no scores yet, or all are damaged.
        """
        from clkit import Report  # by the front door: the page stands on this room

        return Report.of([self])

    def export(self) -> None:
        """Write `matrix.json` and `metrics.json`, for other programs."""
        for name, content in self.scores().exports().items():
            write_json(self.path / name, content)

    def stage_folder(self, index: int, name: str) -> Path:
        """Where stage ``index`` keeps its files: 0 for `ZERO_SHOT`, then the trainings from 1."""
        return self.path / TASKS / f"{index:02d}-{name}"

    def start_stage(self, index: int, name: str) -> Path:
        """An empty folder for a stage; what an interrupted attempt left there is removed.

        Raises:
            RunError: the stage is finished already.
        """
        folder = self.stage_folder(index, name)
        if StageFolder(index, name, folder).is_finished:
            raise RunError(f"{folder} is finished already")
        remove(folder)
        folder.mkdir(parents=True)
        return folder

    def finish_stage(self, index: int, name: str, payload: Mapping[str, Any]) -> None:
        """Mark a stage as finished: its files are brought to disk first; `done.json` with their manifest comes last."""
        folder = self.stage_folder(index, name)
        for file in folder.rglob("*"):
            sync(file)
        Done(dict(payload), seal_files(folder, STAGE_PARTS)).write(folder)

    def drop_model(self, folder: Path) -> None:
        """Remove the model of a finished stage and the strategies' state that belongs to it, if they are there.

        Its `done.json` says so first, so that they are never taken for lost.
        """
        done = Done.read(folder)
        dropped = {folder / file for file in done.files if is_of_model(file)}
        if done.model_kept:
            kept = {file: seal for file, seal in done.files.items() if not is_of_model(file)}
            replace(done, files=kept, model_kept=False).write(folder)
        for path in [*dropped, *leftovers(self.path)]:
            remove_whole(path, folder)

    def stages(self) -> list[Stage]:
        """The finished stages in order; the zero-shot evaluation, where there is one, comes first with index 0.

        Raises:
            RunError: a `done.json` is damaged, a task is finished although one before it is not, or two stages have the
                same number.
        """
        try:
            return self._stages()
        except RunError as error:
            raise RunError(f"{error}; see `clkit doctor {self.path}`") from error

    def _stages(self) -> list[Stage]:
        stages: list[Stage] = []
        for index, name, folder in (begun for begun in self.stage_folders() if begun.is_finished):
            expected = stages[-1].index + 1 if stages else min(index, 1)
            if index < expected:
                raise RunError(f"{self.path}: the folders of two stages have number {index}")
            if index > expected:
                raise RunError(f"{self.path}: {folder.name} is finished, but task {expected} is not")
            done = Done.read(folder)
            stages.append(Stage(index, name, folder, done.payload, done.model_kept))
        return stages

    def discard_unfinished(self, but: Path | None = None) -> list[Path]:
        """Remove the stage folders without `done.json`, but for one, and what a kill left in the others.

        Raises:
            RunError: the finished stages have a gap; nothing is removed then.
        """
        finished = {stage.folder for stage in self.stages()}
        removed = [begun.path for begun in self.stage_folders() if begun.path not in finished | {but}]
        for path in [*removed, *leftovers(self.path)]:
            remove_whole(path, self.path / TASKS)
        return removed

    def stage_folders(self) -> list[StageFolder]:
        """Number, name and folder of every stage that was begun, in order."""
        return stage_folders(self.path)

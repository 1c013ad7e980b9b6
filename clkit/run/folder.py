"""The run folder: what is in it, written so that a crash at any moment leaves it whole, and read back strictly.

::

    runs/t5_order1-42/
      recipe.yaml               the resolved recipe
      env.json                  versions, seed, command; the number of this layout; the recipe's SHA-256
      lock.json                 who writes the run, while someone does (`clkit.run.lock`)
      log.jsonl                 one JSON object per line, while training
      matrix.json metrics.json  the scores so far, and what follows from them
      tasks/00-zero-shot/       predictions.jsonl, done.json
      tasks/01-dbpedia/         the model or adapter, predictions.jsonl, and done.json, which is written last
                                and seals the other files (`clkit.run.seal`); 01-all-tasks/ where all tasks are learned
                                together. Until it is trained checkpoints/, from then on trained.json
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clkit.errors import RunError, UsageError
from clkit.results.matrix import AccuracyMatrix
from clkit.run.atomic import sync, write_atomically, write_json
from clkit.run.lock import LOCK_FILE
from clkit.run.log import RunLog
from clkit.run.own_files import remove_own_files, strangers
from clkit.run.seal import DONE_FILE, MODEL_PARTS, STATE_FILES, Done, read_object, seal_files, text_sha256

#: Raised whenever an older clkit would misread the folder. 2: matrix.json says its protocol. Manifests came without a
#: new number, for an older clkit does not look at them.
FORMAT = 2
ZERO_SHOT = "zero-shot"


@dataclass(frozen=True)
class Stage:
    """A finished stage: the zero-shot evaluation (index 0) or a training (from 1), with what the engine says of it."""

    index: int
    name: str
    folder: Path
    payload: dict[str, Any]


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
        cls.check_free(path, overwrite=overwrite)
        run = cls(Path(path))
        if run.path.is_dir():
            remove_own_files(run.path)
        run.path.mkdir(parents=True, exist_ok=True)
        # env.json comes first: it is what tells a half-made run folder from a folder of the user's.
        write_json(run.env_path, {"format": FORMAT, "recipe_sha256": text_sha256(recipe_yaml), **environment})
        write_atomically(run.recipe_path, recipe_yaml)
        return run

    @classmethod
    def check_free(cls, path: str | Path, *, overwrite: bool = False, reads: Iterable[Path] = ()) -> None:
        """Whether `create` would make a run here. It changes nothing, so it can come before anything slow.

        Args:
            reads: files and folders that the new run is made from.

        Raises:
            UsageError: the folder is not empty, or ``overwrite`` meets something that is no run folder, files that
                clkit did not write, or what the new run reads.
        """
        run = cls(Path(path))
        if run.path.exists() and not run.path.is_dir():
            raise UsageError(f"{run.path} is a file; choose a folder with --run DIR")
        if run.is_empty():
            return
        if not overwrite:
            raise UsageError(
                f"{run.path} is not empty: continue that run with --resume, replace it with --overwrite, "
                "or choose another folder with --run DIR"
            )
        # A recipe.yaml may well lie in a folder of the user's; an env.json with a format is clkit's own.
        try:
            ours = "format" in read_object(run.env_path)
        except RunError:
            ours = False
        if not ours:
            raise UsageError(
                f"{run.path} is not empty and no run folder (no env.json of clkit's), so --overwrite leaves it alone; "
                "choose another folder with --run DIR"
            )
        needed = next((read for read in reads if read.resolve().is_relative_to(run.path.resolve())), None)
        if needed is not None:
            raise UsageError(
                f"{run.path}: --overwrite would remove {needed}, which the new run reads; "
                "choose another folder with --run DIR"
            )
        others = strangers(run.path)
        if others:
            named = ", ".join(str(path.relative_to(run.path)) for path in others[:3])
            more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
            raise UsageError(
                f"{run.path} holds files that clkit did not write ({named}{more}), so --overwrite leaves it alone; "
                "move them away, or choose another folder with --run DIR"
            )

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run folder.

        Raises:
            RunError: it is no run folder (the message says what is missing), or a newer clkit made it.
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
        """The run in ``root`` whose recipe or matrix was written last.

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
            run.path: max(file.stat().st_mtime_ns for file in (run.recipe_path, run.matrix_path) if file.is_file())
            for run in (cls(recipe.parent) for recipe in Path(root).glob("*/recipe.yaml"))
        }
        if not written:
            raise RunError(f"no run in {root}/: start one with `clkit train`, or name a run folder")
        return max(written, key=lambda path: (written[path], path))

    @property
    def recipe_path(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def env_path(self) -> Path:
        return self.path / "env.json"

    @property
    def log(self) -> RunLog:
        return RunLog(self.path / "log.jsonl")

    @property
    def matrix_path(self) -> Path:
        return self.path / "matrix.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.json"

    def is_empty(self) -> bool:
        """Whether nothing is there yet, or nothing but a lock."""
        return not self.path.is_dir() or all(entry.name == LOCK_FILE for entry in self.path.iterdir())

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

    def environment(self) -> dict[str, Any]:
        """What `env.json` holds.

        Raises:
            RunError: it is damaged, or another clkit wrote it in a layout that this one does not know.
        """
        data = read_object(self.env_path)
        found = data.get("format")
        if type(found) is not int or found < 1:
            raise RunError(f"{self.env_path}: 'format' must be a number from 1, got {found!r}")
        if found > FORMAT:
            raise RunError(
                f"{self.path} was made by a newer clkit (folder format {found}, this clkit reads {FORMAT}): "
                "upgrade with `pip install -U clkit`"
            )
        return data

    def write_matrix(self, matrix: AccuracyMatrix) -> None:
        """Write `matrix.json`, and `metrics.json` from it."""
        write_json(self.matrix_path, matrix.to_json())
        write_json(self.metrics_path, {name: metric.to_json() for name, metric in matrix.metrics().items()})

    def read_matrix(self) -> AccuracyMatrix:
        """The scores so far.

        Raises:
            RunError: there are none yet, or the file is damaged.
        """
        if not self.matrix_path.is_file():
            raise RunError(f"{self.path} has no matrix.json yet: nothing was evaluated so far")
        data = read_object(self.matrix_path)
        try:
            return AccuracyMatrix.from_json(data)
        except ValueError as error:
            raise RunError(f"{self.matrix_path}: {error}") from error

    def stage_folder(self, index: int, name: str) -> Path:
        """Where stage ``index`` keeps its files: 0 for `ZERO_SHOT`, then the trainings from 1."""
        return self.path / "tasks" / f"{index:02d}-{name}"

    def start_stage(self, index: int, name: str) -> Path:
        """An empty folder for a stage; what an interrupted attempt left there is removed.

        Raises:
            RunError: the stage is finished already.
        """
        folder = self.stage_folder(index, name)
        if (folder / DONE_FILE).exists():
            raise RunError(f"{folder} is finished already")
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def finish_stage(self, index: int, name: str, payload: Mapping[str, Any]) -> None:
        """Mark a stage as finished: its files are brought to disk first; `done.json` with their manifest comes last."""
        folder = self.stage_folder(index, name)
        for file in folder.rglob("*"):
            sync(file)
        Done(dict(payload), seal_files(folder)).write(folder)

    def drop_model(self, index: int, name: str) -> None:
        """Remove the model of a finished stage and the strategies' state that belongs to it.

        Its `done.json` says so first, so that they are never taken for lost.
        """
        folder = self.stage_folder(index, name)
        done = Done.read(folder)
        if done.files is not None:
            dropped = (*MODEL_PARTS, *STATE_FILES)
            kept = {file: seal for file, seal in done.files.items() if file.split("/")[0] not in dropped}
            replace(done, files=kept, model_kept=False).write(folder)
        for part in MODEL_PARTS:
            shutil.rmtree(folder / part, ignore_errors=True)
        for file in STATE_FILES:
            (folder / file).unlink(missing_ok=True)

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
        done = [
            Stage(index, name, folder, Done.read(folder).payload)
            for index, name, folder in self.stage_folders()
            if (folder / DONE_FILE).is_file()
        ]
        for before, stage in zip([None, *done], done, strict=False):
            expected = before.index + 1 if before else min(stage.index, 1)
            if stage.index < expected:
                raise RunError(f"{self.path}: the folders of two stages have number {stage.index}")
            if stage.index > expected:
                raise RunError(f"{self.path}: {stage.folder.name} is finished, but task {expected} is not")
        return done

    def discard_unfinished(self, but: Path | None = None) -> list[Path]:
        """Remove the stage folders without `done.json`, but for one, and return them. For `--resume`.

        Raises:
            RunError: the finished stages have a gap; nothing is removed then.
        """
        finished = {stage.folder for stage in self.stages()}
        removed = [folder for _, _, folder in self.stage_folders() if folder not in finished | {but}]
        for folder in removed:
            shutil.rmtree(folder)
        return removed

    def check_links(self) -> None:
        """Refuse symbolic links where a run is written, for they would lead the writing out of its folder.

        Raises:
            RunError: there is one.
        """
        stages = [folder for _, _, folder in self.stage_folders()]
        for path in (self.log.path, self.path / LOCK_FILE, self.path / "tasks", *stages):
            if path.is_symlink():
                raise RunError(
                    f"{path} is a symbolic link, and clkit writes nothing outside of a run folder: "
                    f"put what it leads to in its place ({path.readlink()})"
                )

    def check_before_resuming(self, folders: Sequence[Path]) -> None:
        """Refuse to go on from what is not as the run left it.

        Args:
            folders: of the finished stages whose files are about to be loaded, the last one for its model.

        Raises:
            RunError: the recipe or a file of these stages is missing or was changed, or the model was not kept.
        """
        if self.recipe_is_original() is False:
            raise RunError(
                f"{self.recipe_path} was changed after the run began, so it does not say what was trained: put the old "
                "one back, or train anew with --overwrite"
            )
        for folder in folders:
            done = Done.read(folder)
            if not done.model_kept and folder == folders[-1]:
                raise RunError(
                    f"{folder}: the model of this stage was not kept (saving.models: last), so nothing can go on from "
                    "it; train anew with --overwrite"
                )
            damaged = [found for found in done.check(folder) if found.state in ("missing", "changed")]
            if damaged:
                more = f" (and {len(damaged) - 1} more: `clkit doctor {self.path}`)" if len(damaged) > 1 else ""
                raise RunError(
                    f"{folder / damaged[0].path} is {damaged[0].state} ({damaged[0].note}){more}, and --resume would "
                    f"go on from it: put it back, or remove {folder} and the stages after it to train them anew"
                )

    def recipe_is_original(self) -> bool | None:
        """Whether `recipe.yaml` is as the run began with it; None where an older clkit did not record that.

        Raises:
            RunError: `recipe.yaml` or `env.json` cannot be read.
        """
        recorded = self.environment().get("recipe_sha256")
        return None if recorded is None else recorded == text_sha256(self.recipe_yaml())

    def stage_folders(self) -> list[tuple[int, str, Path]]:
        """Number, name and folder of every stage that was begun, in order."""
        found = []
        for folder in (self.path / "tasks").glob("*-*"):
            parts = re.fullmatch(r"(\d{2,})-(.+)", folder.name)
            if parts and folder.is_dir():
                found.append((int(parts[1]), parts[2], folder))
        return sorted(found)


def parse_recipe(text: str, where: str) -> Any:
    """The plain data of a recipe's YAML, unvalidated.

    Args:
        where: how the text is called in the error.

    Raises:
        RunError: it is no YAML.
    """
    import yaml

    # libyaml is seven times as fast, and ends the process where a text is nested beyond the stack.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if len(text) < 16_000 else yaml.SafeLoader
    try:
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise RunError(f"{where} is no YAML: {' '.join(str(error).split())}") from error

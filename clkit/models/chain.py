"""What `model.name` is where it names a run, a stage or an adapter: a model, and adapters merged into it in order."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from clkit.errors import ModelError, RunError, first_line
from clkit.models.folders import TOKENIZER_FILES
from clkit.models.sections import ModelSection
from clkit.run.doctor import refuse_damage
from clkit.run.folder import RunFolder, Stage
from clkit.run.layout import TASKS, is_run
from clkit.run.seal import MODEL_PARTS
from clkit.section import hub_or_folder

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Chain:
    """A model, the folders of the adapters that are merged into it, in order, and where of a run that is."""

    section: ModelSection
    adapters: tuple[Path, ...] = ()
    run: RunFolder | None = None
    stage: Stage | None = None

    @property
    def remark(self) -> str | None:
        """What whoever begins with a run's model should know."""
        if self.run is None or self.stage is None:
            return None
        merged = f", {len(self.adapters)} adapter(s) merged" if self.adapters else ""
        return (
            f"model.name: {self.run.path} after {self.stage.name}{merged}; strategies begin without what they kept "
            "there: to keep it, add the tasks to the end of its recipe and train that with --resume"
        )

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where the tokenizer was saved beside the last adapter; None where it is the model's own."""
        last = self.adapters[-1:]
        return next((one for one in last if any((one / name).is_file() for name in TOKENIZER_FILES)), None)

    def refuse_damage(self) -> None:
        """Make sure that what is read of a run is as it was written.

        Raises:
            RunError: it is not.
        """
        for part in (*self.adapters, Path(self.section.name)):
            if part.name in MODEL_PARTS and part.is_absolute() and is_run(run := part.parents[2]):
                refuse_damage(RunFolder(run), [part.parent], MODEL_PARTS)


def chain_of(section: ModelSection) -> Chain:
    """The chain that a recipe's model is; of a model itself, that alone.

    Raises:
        ModelError: it names a run, stage or adapter of which no model can be made; the message does not say which.
    """
    folder = Path(section.name)
    if not folder.is_absolute():
        return Chain(section)
    own = folder.parent if folder.name in MODEL_PARTS else folder
    run = folder if is_run(folder) else own.parent.parent if own.parent.name == TASKS else None
    if run is not None and is_run(run):
        try:
            return _of_run(section, RunFolder.open(run), None if folder == run else own)
        except RunError as error:
            raise ModelError(f"model.name: {error}") from error
    if (folder / ADAPTER_CONFIG).is_file() and not _holds_weights(folder):
        return _onto(_base_of_adapter(folder), section, (folder,))
    return Chain(section)


def _of_run(section: ModelSection, run: RunFolder, folder: Path | None) -> Chain:
    """The model after the stage in that folder, or after the last."""
    finished = [stage for stage in run.stages() if stage.index > 0]
    stage = next((one for one in reversed(finished) if folder in (None, one.folder)), None)
    if stage is None:
        what = "has no finished task" if folder is None else f"has no finished task in {folder}"
        raise ModelError(f"model.name: the run {run.path} {what}; name the model that it began with")
    if not stage.model_kept:
        raise ModelError(
            f"model.name: {stage.folder}: the model of this stage was not kept (saving.models: last); name a later one"
        )
    recipe = run.recipe()
    method = recipe["tuning"]["method"]
    if method == "full":
        return Chain(section.model_copy(update={"name": str(stage.folder / "model"), "revision": None}), (), run, stage)
    alone = method == "lora" or recipe.get("protocol") != "sequential"
    stages = [stage] if alone else finished[: finished.index(stage) + 1]
    base = ModelSection.model_validate(recipe["model"])
    return _onto(base, section, tuple(one.folder / "adapter" for one in stages), run, stage)


def _base_of_adapter(folder: Path) -> ModelSection:
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
        name = hub_or_folder(config["base_model_name_or_path"])
        return ModelSection(name=name, revision=None if Path(str(name)).is_absolute() else config.get("revision"))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(
            f"model.name: the adapter in {folder} does not say which model it is for "
            f"(base_model_name_or_path in {ADAPTER_CONFIG}: {first_line(error)}); correct it"
        ) from error


def _onto(
    base: ModelSection,
    section: ModelSection,
    adapters: tuple[Path, ...],
    run: RunFolder | None = None,
    stage: Stage | None = None,
) -> Chain:
    """The adapters on a model, which may be a chain itself.

    Whose code is run and how the weights are held, only the recipe at hand decides.
    """
    for folder in adapters:
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise ModelError(f"model.name: the adapter in {folder} has no {ADAPTER_WEIGHTS}; no pickle is read")
    own = ("trust_remote_code", "dtype", "quantization", "attention")
    base = base.model_copy(update={key: getattr(section, key) for key in own})
    below = chain_of(base)
    return Chain(below.section, (*below.adapters, *adapters), run or below.run, stage or below.stage)


def _holds_weights(folder: Path) -> bool:
    return any(file.name != ADAPTER_WEIGHTS for file in folder.glob("*.safetensors")) or any(folder.glob("*.gguf"))

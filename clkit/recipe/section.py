"""What every part of a recipe shares: unknown keys are refused, types are strict, paths know where they were written."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``", did you mean 'x'?"`` where a known word is close to ``word``, otherwise the empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else ""


class Section(BaseModel):
    """A part of a recipe. Values are strict (no ``"3"`` for 3, no ``true`` for 1.0) and cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        known = list(cls.model_fields)
        unknown = [str(key) for key in value if key not in known]
        if unknown:
            raise PydanticCustomError(
                "unknown_key",
                "unknown key '{key}'{hint} (known keys: {known})",
                {"key": unknown[0], "hint": did_you_mean(unknown[0], known), "known": ", ".join(known)},
            )
        return value


class WrittenIn(str):
    """A string of a recipe that remembers the folder that relative paths in it start from."""

    base: Path

    def __new__(cls, value: str, base: Path) -> WrittenIn:
        self = super().__new__(cls, value)
        self.base = base
        return self


def absolute(value: Any) -> Any:
    """A path made absolute: from the recipe file's folder, or from the current folder where no file is known."""
    if not isinstance(value, str):
        return value
    base = getattr(value, "base", Path.cwd())
    return str((base / Path(value).expanduser()).resolve())


def model_name(value: Any) -> Any:
    """A model name, made absolute where it is written as a path or names an existing folder; hub names stay."""
    if not isinstance(value, str) or value.startswith("embedded:"):
        return value
    written_as_path = value.startswith((".", "/", "~"))
    if written_as_path or (getattr(value, "base", Path.cwd()) / value).is_dir():
        return absolute(value)
    return value


DataPath = Annotated[str, BeforeValidator(absolute)]
ModelName = Annotated[str, BeforeValidator(model_name)]

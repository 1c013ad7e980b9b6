"""What every part of a recipe shares: unknown keys are refused, types are strict, paths know their base."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from clkit.wording import did_you_mean

#: Marks a key that does not decide a run's result, alone or with all keys below it: ``Annotated[int, NOT_THE_RESULT]``.
#: Such a key may differ on `--resume`, and its description says so. Whether a result stays the same to the last bit is
#: what counts: `evaluation.batch_size`, say, decides how sentences are padded, which can turn a close answer.
NOT_THE_RESULT = "not the result"


class Section(BaseModel):
    """A part of a recipe. Values are strict (no ``"3"`` for 3, no ``true`` for 1.0) and cannot be changed later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def decides_result(cls, key: str) -> bool:
        """Whether the key, with dots where it lies below others, may change a run's result (`NOT_THE_RESULT`)."""
        first, _, below = key.partition(".")
        field = cls.model_fields.get(first)
        if field is None:
            return True
        if NOT_THE_RESULT in field.metadata:
            return False
        section = field.annotation
        if below and isinstance(section, type) and issubclass(section, Section):
            return section.decides_result(below)
        return True

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Name each unknown key with what was probably meant, and still report what is wrong with the known ones."""
        if not isinstance(value, Mapping):
            return handler(value)
        known = list(cls.model_fields)
        unknown = [key for key in value if key not in known]
        if not unknown:
            return handler(value)
        problems = [InitErrorDetails(type=_unknown_key(str(key), known), loc=(key,), input=value) for key in unknown]
        try:
            handler({key: value[key] for key in value if key in known})
        except ValidationError as error:
            problems += [_again(details) for details in error.errors(include_url=False)]
        raise ValidationError.from_exception_data(cls.__name__, problems)


def _unknown_key(key: str, known: list[str]) -> PydanticCustomError:
    return PydanticCustomError(
        "unknown_key",
        "unknown key '{key}'{hint} (known keys: {known})",
        {"key": key, "hint": did_you_mean(key, known), "known": ", ".join(known)},
    )


def _again(details: ErrorDetails) -> InitErrorDetails:
    """An error as it was reported once, to be reported again; its type and context stay."""
    context = {**details.get("ctx", {}), "message": details["msg"]}
    kind = PydanticCustomError(details["type"], "{message}", context)  # type: ignore[arg-type]
    return InitErrorDetails(type=kind, loc=details["loc"], input=details["input"])


class WrittenIn(str):
    """A string of a recipe that remembers the folder that relative paths in it start from."""

    base: Path

    def __new__(cls, value: str, base: Path) -> WrittenIn:
        self = super().__new__(cls, value)
        self.base = base
        return self


def absolute(value: Any) -> Any:
    """A path made absolute: from the recipe file's folder, or from the current folder where no file is known.

    A link to a folder becomes the folder, a link to a file keeps its name.

    Raises:
        ValueError: it is empty, too long, or otherwise no path.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise ValueError("is empty; give a name or a path")
    try:
        named = getattr(value, "base", Path.cwd()) / Path(value).expanduser()
        path = named.resolve()
        if path.is_file():  # the system says only now that a name is too long
            path = named.parent.resolve() / named.name  # a link's own name says what is in the file
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        shown = value if len(value) <= 60 else f"{value[:60]}..."
        raise ValueError(f"{shown!r} cannot be a path ({str(reason).rstrip('.')})") from None
    return str(path)


#: As `huggingface_hub.utils.validate_repo_id` has it.
_HUB_NAME = re.compile(r"(?=.{1,96}$)(?!.*(--|\.\.|\.git$))(\b[\w\-.]+\b/)?\b[\w\-.]+\b")


def hub_or_folder(value: Any) -> Any:
    """A name on the hub, made absolute where it is written as a path or names what is there.

    Raises:
        ValueError: it is written as a path, and is none, or is no name that the hub can have.
    """
    if not isinstance(value, str) or value.startswith(("embedded:", "package:")):
        return value
    path = absolute(value)
    named = _HUB_NAME.fullmatch(value)
    if value.startswith((".", "/", "~")) or Path(path).exists() or ("/" in value and not named):
        return path
    if not named:
        raise ValueError(f"'{value}' is not there, and no name that the hub can have (`name` or `owner/name`)")
    return value


_SPECIAL = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


def special(path: Path) -> str | None:
    """What stands at a path where it is no ordinary file: reading one of these may never end.

    Raises:
        OSError: nothing is there.
    """
    mode = path.stat().st_mode
    return None if stat.S_ISREG(mode) else _SPECIAL.get(stat.S_IFMT(mode), "a device")


DataPath = Annotated[str, BeforeValidator(absolute)]
HubOrFolder = Annotated[str, BeforeValidator(hub_or_folder)]

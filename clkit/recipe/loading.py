"""From a file or a shipped name, with `extends` and `key=value` overrides, to a validated recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from clkit.errors import RecipeError, UsageError
from clkit.recipe.overrides import overridden
from clkit.recipe.problems import problem_lines
from clkit.recipe.schema import linked_schema
from clkit.recipe.shipped import recipe_path, recipes_folder
from clkit.recipe.written import Written, extended, parse
from clkit.section import Section, special

#: Bytes of a recipe file.
LARGEST = 1_000_000

Model = TypeVar("Model", bound=Section)


def load(model: type[Model], source: str | Path, overrides: Sequence[str] = ()) -> Model:
    """Load a recipe by path or shipped name, apply ``key=value`` overrides, and validate.

    Args:
        model: what a recipe must be.

    Raises:
        UsageError: there is no such recipe.
        RecipeError: with one line per problem: file, line, key path, and what is allowed.
    """
    path = recipe_path(source)
    try:
        written = overridden(read_recipe(path), overrides)
        return model.model_validate(written.plain())
    except RecursionError:
        raise RecipeError(f"{_as_typed(path)}: nested too deeply; a recipe has a few levels") from None
    except ValidationError as error:
        raise RecipeError(*problem_lines(error, written, linked_schema(model))) from None


def read_recipe(path: Path, children: tuple[Path, ...] = ()) -> Written:
    """A recipe file with everything that it extends, not yet validated.

    Args:
        children: the files that led here by `extends`.

    Raises:
        RecipeError: a file cannot be read, is no mapping, or extends itself.
    """
    written = read_file(path)
    if "extends" not in written.value:
        return written
    parent = written.value.pop("extends")
    if not isinstance(parent.value, str):
        raise RecipeError(f"{parent.place}: extends: give a shipped name, or a path from this file's folder")
    try:
        parent_path = recipe_path(parent.value, path.parent)
    except UsageError as error:
        raise RecipeError(f"{parent.place}: extends: {error}") from None
    chain = (*children, path.resolve())
    if parent_path.resolve() in chain:
        names = " -> ".join(file.name for file in (*chain, parent_path))
        raise RecipeError(f"{parent.place}: extends: a recipe cannot extend itself ({names})")
    return extended(read_recipe(parent_path, chain), written)


def read_file(path: Path) -> Written:
    """One recipe file as it is written, without what it extends.

    Raises:
        RecipeError: the file cannot be read, or is no YAML mapping.
    """
    shown = _as_typed(path)
    folder = path.parent.resolve()
    here = folder == recipes_folder().resolve()  # nobody keeps data beside a shipped recipe
    written = parse(read_text(path), Path.cwd() if here else folder, shown)
    if written is None:
        raise RecipeError(f"{shown}: the file is empty; `clkit cp quickstart FILE` makes one to start from")
    if not isinstance(written.value, dict):
        raise RecipeError(f"{written.place}: a recipe is a mapping of keys to values, such as `name: my_recipe`")
    return Written(written.value, shown)


def read_text(path: Path) -> str:
    """The text of a recipe file.

    Raises:
        RecipeError: it cannot be read, or is not UTF-8.
    """
    try:
        content = _bytes(path)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{_as_typed(path)}:{line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    except OSError as error:
        raise RecipeError(f"{_as_typed(path)}: cannot be read: {error.strerror}") from None


def _bytes(path: Path) -> bytes:
    kind = special(path)
    handed_over = kind == "a named pipe" and path.parent in (Path("/dev"), Path("/dev/fd"))  # /dev/stdin, <(make-it)
    if kind is not None and not handed_over:
        raise RecipeError(f"{_as_typed(path)}: is not a file with text but {kind}")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise RecipeError(f"{_as_typed(path)}: holds more than {LARGEST:,} bytes; a recipe has a few thousand")
    return content


def _as_typed(path: Path) -> str:
    """The path as a person would write it: from the current folder where the file lies below it."""
    absolute, here = path.resolve(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)

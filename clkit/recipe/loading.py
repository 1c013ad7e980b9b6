"""From a file or a shipped name, with `extends` and `key=value` overrides, to a validated recipe."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from clkit.errors import RecipeError, UsageError
from clkit.recipe.problems import problem_lines
from clkit.recipe.schema import linked_schema
from clkit.recipe.shipped import recipe_path, recipes_folder, suites_folder
from clkit.recipe.written import COMMAND_LINE, Written, extended, merged, parse
from clkit.section import Section, special
from clkit.wording import did_you_mean

#: Bytes of a recipe file.
LARGEST = 1_000_000

Model = TypeVar("Model", bound=Section)


def load(model: type[Model], source: str | Path, overrides: Sequence[str] = ()) -> Model:
    """`Recipe.load`, for whatever a recipe must be."""
    path = recipe_path(source)
    try:
        written = read_recipe(path)
        if is_suite(written):
            raise UsageError(f"'{source}' is no recipe but a suite, a list of runs: `clkit sweep {source}`")
        return validated(model, overridden(written, overrides))
    except RecursionError:
        raise RecipeError(f"{_as_typed(path)}: nested too deeply; a recipe has a few levels") from None


def validated(model: type[Model], written: Written) -> Model:
    """What is written, as what it must be.

    Raises:
        RecipeError: with one line per problem.
    """
    try:
        return model.model_validate(written.plain())
    except ValidationError as error:
        raise RecipeError(*problem_lines(error, written, linked_schema(model))) from None


def is_suite(written: Written) -> bool:
    """Whether a file lists runs of a recipe for `clkit sweep`, and is no recipe itself."""
    return "methods" in written.value


def files_read(source: str | Path) -> list[Path]:
    """The file of a recipe that loads, and those that it extends."""
    files = [recipe_path(source)]
    while (parent := read_file(files[-1]).value.get("extends")) is not None:
        files.append(recipe_path(parent.value, files[-1].parent))
    return files


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
    here = folder in (recipes_folder().resolve(), suites_folder().resolve())  # nobody keeps data beside what is shipped
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


Target = TypeVar("Target", str, Path)

#: Sections of a recipe that decide what a model is tested on, and how.
TESTED = ("tasks", "benchmark", "prompt", "data", "evaluation", "objective")
NAMED_LISTS = {"strategies": "strategy", "tasks": "task"}


def overridden(recipe: Written, overrides: Sequence[str]) -> Written:
    """The recipe with ``key=value`` overrides applied (`changed`).

    Raises:
        RecipeError: an override is malformed or names a strategy or task that the recipe does not have.
    """
    problems: list[str] = []
    changes: list[tuple[str, Written]] = []
    for override in overrides:
        try:
            changes.append(_split(override))
        except RecipeError as error:
            problems += error.problems
    return changed(recipe, changes, problems)


def changed(recipe: Written, changes: Iterable[tuple[str, Written]], problems: Sequence[str] = ()) -> Written:
    """The recipe with other values at these keys, dots between them; of two for one key the later one holds.

    Single entries of a list are changed after everything else, so that ``strategies=[{name: migu}]`` and
    ``strategies.migu.threshold=0.5`` can stand in any order.

    Args:
        problems: what is known to be wrong already.

    Raises:
        RecipeError: there are problems, or a key names a strategy or task that the recipe does not have.
    """
    problems = [*problems]
    child = Written({}, recipe.place)
    entries: list[tuple[str, str, Written]] = []
    for key, value in changes:
        first, _, rest = key.partition(".")
        if first in NAMED_LISTS and rest:
            entries.append((first, rest, value))
        else:
            child = merged(child, _nested(key.split("."), value))
    recipe = extended(recipe, child)
    for first, rest, value in entries:
        try:
            recipe = _with_entry(recipe, first, rest, value)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(*problems)
    return recipe


def without_target(target: Target | None, overrides: Sequence[str]) -> tuple[Target | None, list[str]]:
    """Where a command's first word, which names a run or a recipe, may be left out: it may be an override itself."""
    key, equals, _ = str(target or "").partition("=")
    if equals and "/" not in key and not Path(str(target)).exists():
        return None, [str(target), *overrides]
    return target, list(overrides)


def keep_model(overrides: Sequence[str], known: Collection[str]) -> None:
    """Refuse overrides of what made the model of a run: of a model that is trained, they would change nothing.

    Args:
        known: all sections of a recipe; others are left to be told where they are read.

    Raises:
        UsageError: there is one.
    """
    for override in overrides:
        section = override.partition("=")[0].partition(".")[0]
        if section in known and section not in TESTED:
            tested = ", ".join(TESTED)
            raise UsageError(f"{section}: the model is the run's, as it was trained; what can be changed: {tested}")


def _split(override: str) -> tuple[str, Written]:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(
            f"{COMMAND_LINE}: '{override}' is no override; write key=value without spaces, as in training.epochs=2"
        )
    try:
        value = parse(text, Path.cwd(), COMMAND_LINE, lines=False)
    except RecipeError as error:
        reason = error.problems[0].removeprefix(f"{COMMAND_LINE}: ")
        raise RecipeError(f"{COMMAND_LINE}: {key}: {reason}") from None
    if value is None:
        raise RecipeError(f"{COMMAND_LINE}: {key}: no value after '='; write {key}=null to unset it")
    return key, value


def _nested(keys: Sequence[str], value: Written) -> Written:
    for key in reversed(keys):
        value = Written({key: value}, value.place)
    return value


def _with_entry(recipe: Written, key: str, rest: str, value: Written) -> Written:
    """The recipe with a part of the list under ``key`` replaced; ``rest`` begins with the entry's name."""
    items = recipe.value[key].value if key in recipe.value else []
    entries = [entry for entry in items if entry.name is not None] if isinstance(items, list) else []
    # A name may hold dots, so it is looked for at the start of what follows, the longest first.
    for entry in sorted(entries, key=lambda entry: len(str(entry.name)), reverse=True):
        if rest == entry.name or rest.startswith(f"{entry.name}."):
            below = rest.removeprefix(str(entry.name)).removeprefix(".")
            changed = merged(entry, _nested(below.split("."), value)) if below else value
            replaced = Written([changed if item is entry else item for item in items], recipe.value[key].place)
            return Written({**recipe.value, key: replaced}, recipe.place)
    kind, name = NAMED_LISTS[key], rest.partition(".")[0]
    names = [str(entry.name) for entry in entries]
    has = f"it has: {', '.join(names)}" if names else f"it has no {key}"
    raise RecipeError(
        f"{value.place}: {key}.{rest}: the recipe has no {kind} named '{name}'{did_you_mean(name, names)} ({has})"
    )

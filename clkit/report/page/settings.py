"""What a recipe says that is not its default anyway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel

from clkit.errors import ClkitError
from clkit.recipe.recipe import Recipe
from clkit.report.tables import MISSING
from clkit.run.folder import RunFolder


class Setting(NamedTuple):
    """A key of a recipe with what it says, and what it would say unasked; `MISSING` where it has to be given."""

    key: str
    value: Any
    default: Any


def own_settings(run: RunFolder) -> tuple[list[Setting], str]:
    """The settings of a run's recipe that differ from their defaults; or none and the reason why that is unknown."""
    try:
        recipe = Recipe.load(run.recipe_path)
    except ClkitError as error:  # a plug-in that is not installed here, say: the recipe itself can still be read
        return [], str(error)
    return list(_differing("", recipe)), ""


def _differing(prefix: str, section: BaseModel) -> Iterator[Setting]:
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), f"{prefix}{name}"
        default = MISSING if field.is_required() else field.get_default(call_default_factory=True)
        if value != default:
            yield from _below(key, value, default)


def _below(key: str, value: Any, default: Any) -> Iterator[Setting]:
    """The setting, or where it is a section, or a list of them by their names, those in it."""
    parts = {item.name: item for item in value if hasattr(item, "name")} if isinstance(value, list) else {}
    if isinstance(value, BaseModel):
        yield from _differing(f"{key}.", value)
    elif parts and len(parts) == len(value):
        for name, item in parts.items():
            inner = [one for one in _differing(f"{key}.{name}.", item) if one.key != f"{key}.{name}.name"]
            yield from inner or [Setting(f"{key}.{name}", "with its defaults", MISSING)]
    else:
        yield Setting(key, _plain(value), _plain(default))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value

"""The text of a recipe as it lies in a run folder."""

from __future__ import annotations

from typing import Any

from clkit.errors import RunError


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

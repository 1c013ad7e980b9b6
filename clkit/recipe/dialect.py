"""The YAML that recipes are written in: the core schema of YAML 1.2, without duplicate keys.

PyYAML follows YAML 1.1, which reads `1e-4` as text and the labels `yes` and `no` as true and false.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_CORE_SCHEMA = [
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
]


class RecipeLoader(yaml.SafeLoader):
    """Reads YAML 1.2 scalars and refuses a key that stands twice in a mapping."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own type)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping.

        Raises:
            yaml.composer.ComposerError: a key stands twice.
        """
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(None, None, f"the key '{key.value}' stands twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node


class RecipeDumper(yaml.SafeDumper):
    """Writes YAML that `RecipeLoader` reads back as the same values."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own type)

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent the entries of a list below its key, as people write them."""
        super().increase_indent(flow, False)


def _integer(loader: RecipeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _text(dumper: RecipeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes these line breaks into single quotes, where they are read back as spaces; double quotes escape them.
    # Plain `<<` would be a merge key.
    style = '"' if text == "<<" or any(mark in text for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


for _tag, _pattern, _first in _CORE_SCHEMA:
    for _dialect in (RecipeLoader, RecipeDumper):
        _dialect.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
RecipeLoader.add_constructor("tag:yaml.org,2002:int", _integer)
RecipeDumper.add_representer(str, _text)

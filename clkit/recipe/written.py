"""What is written in a recipe, and where: a tree of values that remembers the file and line of each.

It is the core schema of YAML 1.2, without duplicate keys. PyYAML follows YAML 1.1, which reads `1e-4` as text and the
labels `yes` and `no` as true and false.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from clkit.errors import RecipeError
from clkit.section import Section, WrittenIn

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
# Text of a file is `WrittenIn` it, which only a section turns into plain text; a suite's changes are of none.
RecipeDumper.add_representer(str, _text)
RecipeDumper.add_multi_representer(str, _text)


COMMAND_LINE = "command line"
MOST_VALUES = 100_000


@dataclass(frozen=True)
class Written:
    """A value and the place where its key (or its list entry) was written.

    Attributes:
        value: a scalar, a list of `Written`, or a dict from keys to `Written`.
        place: `FILE:LINE`, `FILE` where no line says more, or `command line`.
    """

    value: Any
    place: str

    def plain(self) -> Any:
        """The value as plain lists, dicts and scalars."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value

    def step(self, key: str | int) -> Written | None:
        """The entry of that key, index or `name`, or None."""
        if isinstance(self.value, dict):
            return self.value.get(key)
        if isinstance(self.value, list):
            if isinstance(key, int):
                return self.value[key] if key < len(self.value) else None
            return next((entry for entry in self.value if entry.name == key), None)
        return None

    @property
    def name(self) -> str | None:
        """The entry's own `name`, where it is a mapping that has one."""
        named = self.value.get("name") if isinstance(self.value, dict) else None
        return str(named.value) if named is not None and isinstance(named.value, str) else None

    def nearest(self, path: Sequence[str | int]) -> Written:
        """The entry at the end of the path, or the last one on the way to it that was written."""
        here = self
        for key in path:
            entry = here.step(key)
            if entry is None:
                break
            here = entry
        return here


def merged(parent: Written, child: Written) -> Written:
    """Mappings merge, key by key; of anything else the child's is taken."""
    if not (isinstance(parent.value, dict) and isinstance(child.value, dict)):
        return child
    value = dict(parent.value)
    for key, entry in child.value.items():
        value[key] = merged(value[key], entry) if key in value else entry
    return Written(value, child.place)


def extended(parent: Written, child: Written) -> Written:
    """A whole recipe, merged with one that extends or overrides it.

    Two things do not merge: a recipe has either a benchmark or tasks, so the child's choice removes the parent's; and
    another tuning method has other keys, so it replaces the parent's tuning.
    """
    value = dict(parent.value)
    for chosen, other in (("tasks", "benchmark"), ("benchmark", "tasks")):
        if _given(child, chosen) and not _given(child, other):
            value.pop(other, None)
    method = child.nearest(["tuning", "method"]).value
    if isinstance(method, str) and method != parent.nearest(["tuning", "method"]).value:
        value.pop("tuning", None)
    return merged(Written(value, parent.place), Written(child.value, parent.place))


def _given(recipe: Written, key: str) -> bool:
    return key in recipe.value and recipe.value[key].value is not None


def parse(text: str, base: Path, place: str, *, lines: bool = True) -> Written | None:
    """Read YAML; None where there is no value at all.

    Args:
        base: the folder that relative paths in the text start from.
        place: what to call the text: the file, or `command line`.
        lines: whether places carry line numbers.

    Raises:
        RecipeError: this is no YAML, or not of the kind that recipes are written in.
    """
    try:
        loader = RecipeLoader(text)
        node = loader.get_single_node()
        return None if node is None else _Reader(loader, base, place, lines).read(node)
    except RecursionError:
        raise RecipeError(f"{place}: nested too deeply; a recipe has a few levels") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{place}:{mark.line + 1}" if lines and mark else place
        raise RecipeError(f"{where}: not valid YAML: {_reason(error)}") from None
    except yaml.reader.ReaderError as error:
        where = f"{place}:{text.count(chr(10), 0, error.position) + 1}" if lines else place
        raise RecipeError(f"{where}: not valid YAML: the character {error.character:#x} must be escaped") from None


_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

# What PyYAML says of the mistakes that people make most, and what they have to do.
_ADVICE = {
    "mapping values are not allowed here": "put text that holds a colon in quotes",
    "found character '\\t'": "indent with spaces, not with tabs",
    "undefined alias": "put text that begins with * in quotes",
    "found character": "put text that begins with it in quotes",
}


def _reason(error: yaml.MarkedYAMLError) -> str:
    reason = str(error.problem or error.context)
    if reason.startswith("but ") and error.context:
        reason = f"{error.context}, {reason}"
    begin, end = error.context_mark, error.problem_mark
    if begin and end and begin.line < end.line:
        reason += f" (in what begins on line {begin.line + 1})"
    advice = next((advice for said, advice in _ADVICE.items() if said in reason), None)
    return f"{reason}; {advice}" if advice else reason


@dataclass(frozen=True)
class _Reader:
    loader: RecipeLoader
    base: Path
    file: str
    lines: bool
    count: Iterator[int] = field(default_factory=count)

    def read(self, node: yaml.Node, key: yaml.Node | None = None, inside: tuple[yaml.Node, ...] = ()) -> Written:
        place = self.place(key or node)
        if next(self.count) > MOST_VALUES:  # a few aliases of aliases stand for billions of values
            raise RecipeError(f"{place}: more than {MOST_VALUES:,} values; a recipe has a few hundred at most")
        if node in inside:
            raise RecipeError(f"{place}: not valid YAML: an alias stands for something that it is a part of")
        inside = (*inside, node)
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
            raise self.unread_tag(node)
        if isinstance(node, yaml.MappingNode):
            return Written({self.key(name): self.read(entry, name, inside) for name, entry in node.value}, place)
        if isinstance(node, yaml.SequenceNode):
            return Written([self.read(entry, None, inside) for entry in node.value], place)
        value = self.scalar(node)
        return Written(WrittenIn(value, self.base) if isinstance(value, str) else value, place)

    def key(self, node: yaml.Node) -> str | int:
        value = self.scalar(node) if isinstance(node, yaml.ScalarNode) else node
        quoted = isinstance(node, yaml.ScalarNode) and node.style is not None
        if value == "<<" and not quoted:
            raise RecipeError(f"{self.place(node)}: merge keys (<<) are not read; write the keys out, or use `extends`")
        if isinstance(value, str) or type(value) is int:
            return value
        written = node.value if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        raise RecipeError(f"{self.place(node)}: the key {written} is not text; put it in quotes")

    def scalar(self, node: yaml.Node) -> str | int | float | bool | None:
        try:
            value = self.loader.construct_object(node)
        except (ValueError, LookupError, AttributeError):  # a scalar that its own tag does not fit, such as `!!int abc`
            text = node.value if len(node.value) <= 40 else f"{node.value[:40]}..."
            reason = f"{text!r} is no {node.tag.rpartition(':')[2]}"
            raise RecipeError(f"{self.place(node)}: not valid YAML: {reason}") from None
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise RecipeError(f"{self.place(node)}: half of a surrogate pair; write the whole character") from None
        if value is None or isinstance(value, str | int | float | bool):
            return value
        raise self.unread_tag(node)

    def unread_tag(self, node: yaml.Node) -> RecipeError:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        return RecipeError(f"{self.place(node)}: the tag {tag} is not read; remove it")

    def place(self, node: yaml.Node) -> str:
        return f"{self.file}:{node.start_mark.line + 1}" if self.lines else self.file


def recipe_yaml(recipe: Section) -> str:
    """The resolved recipe with every key, in the order of the schema, as YAML that loads back equal."""
    return yaml.dump(recipe.model_dump(), Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=120)

"""The law of the house: no files import each other in a circle, and nothing imports from a room above its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import clkit

PACKAGE = Path(clkit.__file__).parent

#: From the ground up. A file may import from its own room and from those before it.
ROOMS = (
    *("redaction", "lazy", "errors", "section", "draws", "processes", "results", "events", "run", "tasks", "models"),
    *("strategies", "testing", "general", "training", "recipe", "engine", "report", "cli"),
)
#: The doors: what the outside world comes in by.
DOORS = {"clkit", "clkit.__main__"}


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(file: Path, known: set[str]) -> Iterator[str]:
    """The known modules that a file imports, anywhere in it: for type checkers and inside functions too."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            below = {f"{node.module}.{name.name}" for name in node.names} & known
            yield from below or {node.module}


def imports(package: Path) -> dict[str, set[str]]:
    """What each module of a package imports of the package itself."""
    files = modules(package)
    return {name: set(imported(file, set(files))) - {name} for name, file in files.items()}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def climbing(graph: dict[str, set[str]]) -> list[str]:
    """Imports from a room above the importing file's own."""
    rank = {room: index for index, room in enumerate(ROOMS)}
    rooms = {name: name.split(".")[1] for name in graph if name not in DOORS}
    return sorted(
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if name in rooms and other in rooms and rank[rooms[other]] > rank[rooms[name]]
    )


def test_no_circles() -> None:
    assert circle({name: others - DOORS for name, others in imports(PACKAGE).items()}) == []


def test_nothing_imports_upwards() -> None:
    assert climbing(imports(PACKAGE)) == []


def test_the_rooms_are_these() -> None:
    assert {name.split(".")[1] for name in imports(PACKAGE) if name not in DOORS} == set(ROOMS)


def test_a_circle_and_a_climbing_import_are_found(tmp_path: Path) -> None:
    package = tmp_path / "clkit"
    for name, text in {
        "__init__": "",
        "tasks/__init__": "",
        "tasks/one": "from clkit.tasks import two",
        "tasks/two": "def late():\n    from clkit.tasks.one import x",
        "errors": "import typing\nif typing.TYPE_CHECKING:\n    from clkit.tasks.one import x",
    }.items():
        file = package / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    graph = imports(package)
    assert set(circle(graph)) == {"clkit.tasks.one", "clkit.tasks.two"}
    assert climbing(graph) == ["clkit.errors imports clkit.tasks.one"]

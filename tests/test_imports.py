"""The law of the house: no circles of imports, none from a room above, no file over 350 lines, no function over 60."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import clkit

PACKAGE = Path(clkit.__file__).parent

#: From the ground up. A file may import from its own room and from those before it.
ROOMS = (
    *("redaction", "lazy", "errors", "wording", "section", "draws", "processes", "results", "events", "run", "tasks"),
    *("models", "strategies", "testing", "general", "training", "recipe", "suites", "engine", "report", "cli"),
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


def too_long(package: Path, lines_of_file: int = 350, lines_of_function: int = 60) -> list[str]:
    """Files and functions with more lines than these, decorators left out."""
    found = []
    for file in sorted(package.rglob("*.py")):
        text, name = file.read_text("utf-8"), file.relative_to(package).as_posix()
        sizes = [(name, len(text.splitlines()), lines_of_file)]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                sizes.append((f"{name}: {node.name}", lines, lines_of_function))
        found += [f"{what}: {lines} lines" for what, lines, most in sizes if lines > most]
    return found


def test_files_and_functions_are_short() -> None:
    assert too_long(PACKAGE) == []
    assert too_long(PACKAGE / "strategies" / "builtin", lines_of_file=200) == []


def test_what_is_too_long_is_found(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("class A:\n    def f(self):\n" + "        x = 1\n" * 3)
    assert too_long(tmp_path, 5, 4) == []
    assert too_long(tmp_path, 4, 3) == ["one.py: 5 lines", "one.py: f: 4 lines"]


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

"""What is shipped: the wheel carries the recipes, the embedded model and nothing that a user does not need."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import clkit

ROOT = Path(__file__).parents[1]


def test_the_wheel_has_recipes_model_and_types(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        size = sum(info.file_size for info in archive.infolist())
    recipes = {f"clkit/_recipes/{path.name}" for path in (ROOT / "recipes").iterdir()}
    models = {str(path.relative_to(ROOT)) for path in (ROOT / "clkit/models/embedded").glob("tiny-*/*")}
    assert len(models) >= 3 * 4
    data = {"clkit/models/embedded/held_out.txt", "clkit/tasks/benchmarks.yaml", "clkit/tasks/sample.yaml"}
    assert recipes | models | data | {"clkit/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    assert size < 8_000_000


def test_the_public_api_is_lazy_and_complete() -> None:
    for name in clkit.__all__:
        assert getattr(clkit, name).__name__ == name
    code = (
        "import sys, clkit; print(sorted({'torch', 'pydantic'} & set(sys.modules))); "
        "clkit.Recipe; print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]  # the second line is the control

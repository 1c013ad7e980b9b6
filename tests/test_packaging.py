"""What is shipped: wheel and sdist carry recipes, data and embedded models, nothing that a user does not need, and the
wheel works once it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import clkit

ROOT = Path(__file__).parents[1]
GENERATED = {".pyc"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with wheel and sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return folder


def package_files() -> set[str]:
    files = (path for path in (ROOT / "clkit").rglob("*") if path.is_file() and path.suffix not in GENERATED)
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_the_wheel_has_the_whole_package_and_the_recipes(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        size = sum(info.file_size for info in archive.infolist())
    shipped = ROOT / "recipes"
    recipes = {f"clkit/_recipes/{path.relative_to(shipped).as_posix()}" for path in shipped.rglob("*.*")}
    assert recipes | package_files() <= names
    weights = {name for name in names if name.endswith("model.safetensors")}
    assert len(weights) >= 3
    assert {"clkit/py.typed", "clkit/tasks/prose.txt"} <= names
    assert not [name for name in names if not name.startswith(("clkit/", "clkit-"))]
    assert size < 8_000_000


def test_the_dockerfile_copies_what_the_wheel_is_made_of(built: Path, tmp_path: Path) -> None:
    """And installs it as the README does, with the versions that clkit is tested with."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    for copied in re.findall(r"^COPY (.+) (\S+)$", text, re.MULTILINE):
        *sources, into = (*copied[0].split(), tmp_path / copied[1])
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                into.mkdir(exist_ok=True)
                shutil.copy(ROOT / source, into)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    (ours,), (theirs,) = built.glob("*.whl"), (tmp_path / "dist").glob("*.whl")
    assert ours.name == theirs.name
    with zipfile.ZipFile(ours) as one, zipfile.ZipFile(theirs) as other:
        assert {(file.filename, file.CRC) for file in one.infolist()} == {
            (file.filename, file.CRC) for file in other.infolist()
        }
    (install,) = re.findall(r"^RUN pip install --no-cache-dir (.+)$", text, re.MULTILINE)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert install == "-c .ci/constraints.txt ."
    assert "pip install -c .ci/constraints.txt" in readme
    assert "`pip install .`" in readme


def test_the_sdist_has_what_builds_and_tests_it(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files() <= names
    beside = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "docs/guide.md"}
    assert beside | {"recipes/quickstart.yaml", "tests/test_packaging.py", "benchmarks/README.md"} <= names


def test_the_wheel_works_once_it_is_installed(built: Path, tmp_path: Path) -> None:
    """In an environment of its own, which sees this one's other packages but not this checkout."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=sys.platform != "win32")
    programs = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    python = str(programs / "python")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip())
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    others = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"  # which stand behind its own
    (packages / "others.pth").write_text(others, "utf-8")

    def clkit_says(*arguments: str) -> str:
        command = [str(programs / "clkit"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True).stdout

    assert clkit_says("--version") == f"clkit {clkit.__version__}\n"
    assert "quickstart" in clkit_says("ls", "recipes")
    home = [python, "-c", "import clkit; print(clkit.__file__)"]
    found = subprocess.run(home, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(packages)


def test_the_version_has_a_dated_entry_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"\n## [{clkit.__version__}] - 20" in changelog
    assert changelog.index("## [Unreleased]") < changelog.index(f"## [{clkit.__version__}]")


def test_the_public_api_is_lazy_and_complete() -> None:
    for name in clkit.__all__:
        assert getattr(clkit, name).__name__ == name
    code = (
        "import sys, clkit; print(sorted({'torch', 'pydantic'} & set(sys.modules))); "
        "clkit.Recipe; print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]  # the second line is the control

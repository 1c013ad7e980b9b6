"""The folder that a model is exported to: written beside its place and renamed when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clkit.errors import RunError, UsageError
from clkit.run.atomic import sync
from clkit.run.layout import is_run, unwritable
from clkit.run.seal import Done, seal_files

#: Says what was exported, and seals the other files: only what it names is ever replaced.
EXPORT_FILE = "clkit_export.json"


def check_export(folder: Path, *, replace: bool, reads: Iterable[Path] = ()) -> None:
    """Refuse to export to a folder where that would harm something. It changes nothing.

    Args:
        replace: whether an earlier export may be replaced.
        reads: files and folders that the exported run needs.

    Raises:
        UsageError: the folder lies in a run, is needed, or is not empty and no earlier export that may be replaced.
    """
    target = folder.resolve()
    run = next((one for one in (target, *target.parents) if is_run(one)), None)
    if run is not None:
        raise UsageError(f"'{folder}' lies in the run {run}, whose files are sealed; name a folder elsewhere")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder '{folder.parent}'; make it first")
    if fault := unwritable(target.parent):
        raise UsageError(f"{fault}; name a folder elsewhere")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir():
        raise UsageError(f"'{folder}' is a file; name a folder")
    if not replace:
        raise UsageError(f"'{folder}' is not empty; name a new folder, or replace an earlier export with --force")
    needed = next((read for read in reads if read.resolve().is_relative_to(target)), None)
    if needed is not None:
        raise UsageError(f"--force would remove {needed}, which the run needs; name another folder")
    if strange := _not_as_exported(target):
        raise UsageError(f"'{folder}' {strange}, so --force leaves it alone; name another folder")


def _not_as_exported(folder: Path) -> str | None:
    try:
        done = Done.read(folder, EXPORT_FILE)
        found = [(one.path, one.state) for one in done.check(folder) if one.path != EXPORT_FILE]
    except RunError:
        return f"was not written by clkit export (no {EXPORT_FILE})"
    named = {"unknown": "holds {}, which clkit did not write", "changed": "holds {}, which was changed since"}
    return next((named[state].format(path) for path, state in found if state in named), None)


@contextmanager
def exported(folder: Path, payload: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to write into; it takes the place of ``folder`` when all is written, and is removed if not all is.

    Args:
        payload: what is to be said of the export in `EXPORT_FILE`.
    """
    target = folder.resolve()
    made, old = (target.with_name(f".{target.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        made.mkdir()
        yield made
        Done(dict(payload), seal_files(made)).write(made, EXPORT_FILE)
        for file in made.rglob("*"):
            if (
                file.is_file()
            ):  # safetensors gives its files to their owner alone, and a model is often served by another
                file.chmod(made.stat().st_mode & 0o666)
            sync(file)
        if target.exists():
            target.rename(old)
        made.rename(target)
        sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(made, ignore_errors=True)

"""Reads the corpus of bad inputs, lays out the files of a case, and runs its command in this process.

A case is written so::

    - case: what is wrong, in words
      recipe: the text of my.yaml
      files:                    # laid out in this order; a parent folder is made where it lacks
        data.csv: its text
        data.txt: {text: its text, encoding: latin-1}
        data.bin: {bytes: ff fe}
        deep.json: {repeat: "[", times: 9}
        folder: {folder: true}
        model: {copy: model}    # a folder of `test_bad_inputs.sources`, or one in it: `run/tasks/01-first`
        model/config.json: {json: {d_model: 7}}   # changes keys of a JSON file
        model/model.safetensors: {keep: 100}      # cuts a file off after 100 bytes
        model/model.safetensors: {tensors: {shared.weight: .nan}}   # fills a tensor, or removes it where null
        model/tokenizer.json: null                # removes it
      command: validate my.yaml
      exit: 2                   # the default
      stdout: ""                # the default
      stderr: "error: ..."      # {here} stands for the case's folder, {model} for the tiny T5's
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from clkit.cli import app
from tests.cli.verbs import COMMAND


@dataclass(frozen=True)
class Case:
    """One bad input, and every word that clkit has to say to it."""

    case: str
    command: str
    recipe: str | None = None
    files: Mapping[str, Any] = field(default_factory=dict)
    exit: int = 2
    stdout: str = ""
    stderr: str = ""


def read_cases() -> list[Case]:
    """All cases, from the YAML files beside this one."""
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    return [Case(**entry) for file in files for entry in yaml.safe_load(file.read_text("utf-8"))]


def lay_out(case: Case, folder: Path, sources: Mapping[str, Path]) -> None:
    """Write the files of a case into an empty folder.

    Args:
        sources: the folders that `copy` names.
    """
    recipe = {} if case.recipe is None else {"my.yaml": case.recipe}
    for name, content in {**recipe, **case.files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case None:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            case str():
                path.write_bytes(content.replace("{model}", str(sources["model"])).encode())
            case {"text": text, "encoding": encoding}:
                path.write_bytes(text.encode(encoding))
            case {"bytes": digits}:
                path.write_bytes(bytes.fromhex(digits))
            case {"repeat": text, "times": times}:
                path.write_text(text * times, "utf-8")
            case {"folder": True}:
                path.mkdir()
            case {"copy": source}:
                name, _, below = source.partition("/")
                copied = sources[name] / below
                (shutil.copytree if copied.is_dir() else shutil.copy)(copied, path)
            case {"keep": length}:
                path.write_bytes(path.read_bytes()[:length])
            case {"tensors": changes}:
                tensors = load_file(path)
                for name, value in changes.items():
                    if value is None:
                        del tensors[name]
                    else:
                        tensors[name].fill(value)
                save_file(tensors, path, {"format": "pt"})
            case {"json": changes}:
                path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
            case _:
                raise ValueError(f"{case.case}: cannot lay out {name}: {content}")


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Run `clkit` as the shell would; its exit code."""
    monkeypatch.setattr(sys, "argv", ["clkit", *arguments])
    monkeypatch.setattr(app, "app", COMMAND)
    with pytest.raises(SystemExit) as ended:
        app.main()
    return ended.value.code


def arguments_of(case: Case, model: Path) -> list[str]:
    """The command as the shell splits it."""
    return shlex.split(case.command.replace("{model}", str(model)))

"""`clkit schema`: the JSON Schema for editors, or the reference of all keys."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from clkit.cli.schema import schema
from clkit.recipe.reference import field_reference, recipe_schema
from tests.cli.verbs import call


def test_json_schema() -> None:
    assert json.loads(call(schema).stdout) == recipe_schema()


def test_markdown() -> None:
    assert call(schema, "--markdown").stdout == field_reference()


@pytest.mark.parametrize("verb", ["ls", "cp", "show", "validate", "schema"])
def test_importing_a_verb_imports_nothing_heavy(verb: str) -> None:
    probe = "import sys; {0}; print(sorted({{'torch', 'pydantic', 'yaml', 'rich'}} & sys.modules.keys()))"
    light, control = (
        subprocess.run([sys.executable, "-c", probe.format(line)], capture_output=True, text=True, check=True).stdout
        for line in (f"import clkit.cli.{verb}", "import yaml, pydantic")
    )
    assert light == "[]\n"
    assert control == "['pydantic', 'yaml']\n"  # the probe can fail

"""Whatever is in a recipe, an override, a data file or a run folder: an error is one line, and never a traceback.

CI runs the same few examples each time. `CLKIT_FUZZING=2000 python -m pytest tests/test_fuzzing.py` looks for new ones.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clkit.cli import app
from clkit.engine.sequence import train
from clkit.recipe.shipped import shipped_recipes
from clkit.recipe.written import RecipeDumper
from tests.cli.verbs import COMMAND
from tests.toy import toy_recipe

ASKED = os.environ.get("CLKIT_FUZZING")


def fuzzing(examples: int) -> settings:
    """So many examples in CI; as many as `CLKIT_FUZZING` says, and new ones, where it is set."""
    return settings(
        max_examples=int(ASKED or examples),
        derandomize=ASKED is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def clkit(*arguments: str) -> int:
    """Call the command in this process and check how it ends; its exit code."""
    out, err = StringIO(), StringIO()
    with (
        mock.patch.object(sys, "argv", ["clkit", *arguments]),
        mock.patch.object(app, "app", COMMAND),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        app.main()
    code, said = ended.value.code, err.getvalue()
    errors = [line for line in said.splitlines() if not line.startswith("warning: ")]
    if "--resume" in arguments:  # progress comes before it
        errors = errors[-1:]
    assert code in (0, 1, 2), said
    assert "please report it" not in said, said
    if code == 0:
        assert not any(line.startswith("error: ") for line in errors), said
    elif arguments[0] in ("validate", "doctor") and not errors:  # what they found is their result
        assert out.getvalue().strip()
    else:
        assert len(errors) == 1, said
        assert errors[0].startswith("error: "), said
        assert len(errors[0]) < 1500, said
    return int(code)


@contextmanager
def empty_folder() -> Iterator[Path]:
    """A new folder, which is the current one for a while."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        yield Path(folder)


# Values that a key does not expect.
ODD: list[Any] = [
    *(None, True, False, 0, -1, 3, 0.5, 1e308, 2**63, 10**30, float("nan"), float("inf")),
    *("", " ", "x", "x" * 300, "null", "1e-4", "..", "~", "~root2", "a\0b", "a\nb", "ü\u2028", "embedded:tiny-t5"),
    *("migu", "lora", "x:y", "json:loads", "{text}", "{", "*", "[", "encoder.*"),
    *([], {}, [[]], [None], {"": ""}, {"name": "migu"}, [{"name": "migu"}], {1: 2}, [1, "a"], {"a": {"b": {}}}),
]
TEXT = st.text(max_size=12) | st.sampled_from(
    [": ", "- ", "\t", "{", "}", "[", "]", "*a", "&a", "!!int ", "<<: ", "%", "|"]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every entry below a value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, entry in entries for found in [(*path, key), *places(entry, (*path, key))]]


def mutated(draw: st.DrawFn, recipe: dict[str, Any]) -> None:
    """Delete, replace, rename or repeat an entry of a recipe, in place."""
    *above, key = draw(st.sampled_from(places(recipe) or [("name",)]))
    parent = recipe
    for step in above:
        parent = parent[step]
    match draw(st.sampled_from(["delete", "replace", "rename", "repeat"])):
        case "delete" if isinstance(parent, dict):
            parent.pop(key, None)
        case "rename" if isinstance(parent, dict):
            parent[draw(TEXT)] = parent.pop(key, None)
        case "repeat" if isinstance(parent, list):
            parent.append(deepcopy(parent[key]))
        case _:
            parent[key] = deepcopy(draw(st.sampled_from(ODD)))


def spoilt_text(draw: st.DrawFn, text: str) -> str:
    """The text with something inserted, cut out, or said twice."""
    start, length = draw(st.integers(0, len(text))), draw(st.integers(0, 20))
    match draw(st.sampled_from(["insert", "cut", "repeat"])):
        case "insert":
            return text[:start] + draw(TEXT) + text[start:]
        case "cut":
            return text[:start] + text[start + length :]
        case _:
            return text[:start] + text[start : start + length] * 2 + text[start + length :]


def spoilt_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes with some cut off, flipped or inserted; or others altogether."""
    start = draw(st.integers(0, len(content)))
    match draw(st.sampled_from(["keep", "flip", "insert", "replace"])):
        case "keep":
            return content[:start]
        case "flip" if start < len(content):
            return content[:start] + bytes([content[start] ^ draw(st.integers(1, 255))]) + content[start + 1 :]
        case "insert":
            return content[:start] + draw(st.binary(max_size=8)) + content[start:]
        case _:
            return draw(st.binary(max_size=60))


RECIPES = {name: yaml.safe_load(path.read_text("utf-8")) for name, path in shipped_recipes().items()}


@st.composite
def recipe_texts(draw: st.DrawFn, names: tuple[str, ...] = tuple(RECIPES)) -> str:
    """A shipped recipe with up to three changes to its values, and up to two to its text."""
    recipe = json.loads(json.dumps(RECIPES[draw(st.sampled_from(names))]))
    recipe.pop("extends", None)
    for _ in range(draw(st.integers(0, 3))):
        mutated(draw, recipe)
    text: str = yaml.dump(recipe, Dumper=RecipeDumper, allow_unicode=True, sort_keys=False)
    for _ in range(draw(st.integers(0, 2))):
        text = spoilt_text(draw, text)
    return text


@st.composite
def overrides(draw: st.DrawFn) -> str:
    """`key=value`, more or less."""
    keys = ["seed", "strategies", "strategies.migu.threshold", "tasks", "tasks.topics.labels", "benchmark", "tuning"]
    keys += ["training.epochs", "training.per_task.topics.epochs", "model.name", "data.train_per_task", "extends"]
    key = draw(st.sampled_from(keys) | TEXT)
    odd = draw(st.sampled_from(ODD))
    value = draw(TEXT) if draw(st.booleans()) else yaml.safe_dump(odd, default_flow_style=True).partition("\n...")[0]
    return spoilt_text(draw, f"{key}={value}") if draw(st.booleans()) else f"{key}={value}"


@given(recipe_texts())
@fuzzing(70)
def test_recipes(text: str) -> None:
    with empty_folder():
        Path("my.yaml").write_text(text, "utf-8", "surrogatepass")
        valid = clkit("validate", "my.yaml") == 0
        assert clkit("show", "my.yaml", "--resolved") == 0 or not valid
        clkit("show", "my.yaml", "--json")


@given(recipe_texts(("quickstart",)))
@fuzzing(25)
def test_recipes_with_everything_loaded(text: str) -> None:
    with empty_folder():
        Path("my.yaml").write_text(text, "utf-8", "surrogatepass")
        clkit("train", "my.yaml", "data.train_per_task=8", "data.test_per_task=4", "--dry-run")


@given(st.lists(overrides(), min_size=1, max_size=3))
@fuzzing(60)
def test_overrides(given_overrides: list[str]) -> None:
    with empty_folder():
        clkit("validate", "quickstart", "--", *given_overrides)
        clkit("show", "quickstart", "--resolved", "--", *given_overrides)


@given(st.data(), st.sampled_from(["csv", "jsonl", "json"]))
@fuzzing(50)
def test_data_files(flat_t5: Path, data: st.DataObject, kind: str) -> None:
    rows = [{"text": f'w{index} ü, "w9"', "label": f"w{index % 2}", "sentence": "w3"} for index in range(4)]
    good = {
        "csv": "text,label\n" + "".join(f'"w{index} ""ü"", w9",w{index % 2}\n' for index in range(4)),
        "jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        "json": json.dumps(rows),
    }[kind].encode()
    draw = data.draw
    source: dict[str, Any] = {"kind": "files", "train": f"train.{kind}", "test": f"good.{kind}"}
    if kind == "json":
        source = {"kind": "folder", "folder": "."}
    source["on_bad_record"] = draw(st.sampled_from(["error", "drop"]))
    source["missing"] = draw(st.sampled_from([[], ["w0"], ["w0", "w1"], [""], ["-1", "\u2028"]]))
    task = {"name": "a", "source": source, "answers": draw(st.sampled_from(["labels", "free"]))}
    recipe = {"name": "x", "model": {"name": str(flat_t5)}, "tasks": [task]}
    with empty_folder():
        Path("my.yaml").write_text(json.dumps(recipe), "utf-8")
        for name in (f"good.{kind}", "test.json"):
            Path(name).write_bytes(good)
        Path("labels.json").write_text('["w0", "w1"]', "utf-8")
        content = good
        for _ in range(draw(st.integers(1, 3))):
            content = spoilt_bytes(draw, content)
        Path(f"train.{kind}").write_bytes(content)
        valid = clkit("validate", "my.yaml") == 0
        assert clkit("train", "my.yaml", "--dry-run") != 0 or valid  # which finds no more than that


TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>\n{% endfor %}"


@given(data=st.data())
@fuzzing(12)
def test_chat_templates(flat_llama: Path, data: st.DataObject) -> None:
    text = TEMPLATE
    for _ in range(data.draw(st.integers(0, 3))):
        text = spoilt_text(data.draw, text)
    with empty_folder():
        shutil.copytree(flat_llama, "model")
        Path("model/chat_template.jinja").write_text(text, "utf-8", "surrogatepass")
        changes = ["model.name=./model", "prompt.chat_template=true", "data.train_per_task=4", "data.test_per_task=2"]
        clkit("train", "quickstart", *changes, "--dry-run")


@pytest.fixture(scope="module", params=["full", "lora"])
def finished(request: pytest.FixtureRequest, flat_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run."""
    folder = tmp_path_factory.mktemp("run")
    tuning = {"method": "full"} if request.param == "full" else {"method": "lora", "rank": 2}
    changes = {"training": {"epochs": 0.4}, "data": {"test_per_task": 4}, "strategies": [{"name": "migu"}]}
    return train(toy_recipe(folder, flat_t5, tuning=tuning, **changes), folder / "run").path


@contextmanager
def damaged(run: Path, draw: st.DrawFn) -> Iterator[None]:
    """A copy of the run at `run`, one or two of its files removed or damaged."""
    with empty_folder() as here:
        shutil.copytree(run, "run")
        names = sorted(path.relative_to(here) for path in here.rglob("*") if path.is_file())
        for file in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
            if draw(st.booleans()):
                file.write_bytes(spoilt_bytes(draw, file.read_bytes()))
            else:
                file.unlink()
        yield


@given(data=st.data())
@fuzzing(15)
def test_run_folders(finished: Path, data: st.DataObject) -> None:
    with damaged(finished, data.draw):
        clkit("matrix", "run")
        clkit("matrix", "run", "--json")
        clkit("doctor", "run")
        stage = data.draw(st.sampled_from(["zero-shot", "1", "2"]))
        clkit("eval", "run", "--stage", stage, "data.test_per_task=2")


@given(data=st.data())
@fuzzing(6)
def test_resuming(finished: Path, data: st.DataObject) -> None:
    recipe = finished / "recipe.yaml"
    with damaged(finished, data.draw):
        clkit("train", str(recipe), "--run", "run", "--resume")

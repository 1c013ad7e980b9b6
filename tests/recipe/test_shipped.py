"""Every shipped recipe loads, says what it is, fits the schema, and is the paper's."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from clkit.recipe.dialect import RecipeLoader
from clkit.recipe.loading import load_recipe
from clkit.recipe.reference import generated_files
from clkit.recipe.saving import recipe_yaml
from clkit.recipe.schema import recipe_schema
from clkit.recipe.shipped import description, shipped_recipe, shipped_recipes

SHIPPED = shipped_recipes()
every_recipe = pytest.mark.parametrize("name", SHIPPED)


def test_the_shipped_recipes_are_found() -> None:
    assert list(SHIPPED) == ["quickstart", *(f"t5_order{order}" for order in range(1, 7))]
    assert shipped_recipe("quickstart.yaml") == shipped_recipe("quickstart") == SHIPPED["quickstart"]
    assert shipped_recipe("quickstar") is None


@every_recipe
def test_it_loads_under_its_own_name_and_opens_with_its_launch_line(name: str) -> None:
    text = SHIPPED[name].read_text()
    assert load_recipe(name).name == name
    assert text.startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert f"\n#   clkit train {name}\n" in text
    assert description(SHIPPED[name])[-1] == "."


@every_recipe
def test_every_launch_line_of_its_header_loads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    launches = re.findall(r"^#   clkit train (\S+)(.*)$", SHIPPED[name].read_text(), re.MULTILINE)
    assert len(launches) > 1
    for recipe, rest in launches:
        load_recipe(recipe, [word for word in rest.split() if re.match(r"[a-z_.]+=", word)])


@every_recipe
def test_it_fits_the_schema(name: str) -> None:
    written = yaml.load(SHIPPED[name].read_text(), RecipeLoader)
    jsonschema.validate(written, recipe_schema(), jsonschema.Draft202012Validator)


@every_recipe
def test_written_out_in_full_it_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "full.yaml").write_text(recipe_yaml(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "full.yaml") == recipe


@pytest.mark.parametrize("order", range(1, 7))
def test_the_orders_share_the_papers_settings(order: int) -> None:
    recipe = load_recipe(f"t5_order{order}")
    assert recipe.benchmark is not None
    assert (recipe.benchmark.order, recipe.model.name) == (order, "google-t5/t5-large")
    assert recipe.prompt.task_name
    assert recipe.data.train_per_label == 1000
    training = recipe.training
    assert (training.batch_size, training.learning_rate, training.epochs, training.weight_decay) == (64, 1e-4, 1, 0)
    assert {name: task.epochs for name, task in training.per_task.items()} == {5: {"WiC": 2}, 6: {"MNLI": 2}}.get(
        order, {}
    )
    assert recipe.strategies[0].model_dump() == {
        "name": "migu",
        "threshold": 0.7,
        "mask": "gradient",
        "layers": ["attention", "feed_forward"],
        "count_padding": True,
        "first_task": "unmasked",
        "source": "magnitude",
    }


@pytest.mark.parametrize("path", generated_files(), ids=lambda path: path.name)
def test_generated_files_are_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == generated_files()[path], "run: python -m clkit.recipe.reference"

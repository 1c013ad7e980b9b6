"""What differs from its defaults, by dotted keys."""

from __future__ import annotations

from pathlib import Path

from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.report.page.settings import own_settings
from clkit.run.folder import RunFolder


def test_what_is_changed_and_what_is_not(tmp_path: Path):
    given = ["strategies=[{name: migu, threshold: 0.5}, {name: replay}]", "training.per_task={topics: {epochs: 2}}"]
    recipe = Recipe.load("quickstart", [*given, "data.validation_share=0.1"])
    run = RunFolder.create(tmp_path / "run", recipe_yaml(recipe), {})
    settings, problem = own_settings(run)
    found = {one.key: (one.value, one.default) for one in settings}
    assert problem == ""
    assert found["strategies.migu.threshold"] == (0.5, 0.7)
    assert found["strategies.replay"] == ("with its defaults", "–")
    assert found["data.validation_share"] == (0.1, 0.0)
    assert found["model.name"] == ("embedded:tiny-t5", "–")
    assert found["training.per_task"][0] == {"topics": {"epochs": 2}}
    assert not [key for key in found if key.startswith(("evaluation", "strategies.migu.mask"))]


def test_a_recipe_that_does_not_load_is_no_obstacle(tmp_path: Path):
    settings, problem = own_settings(RunFolder.create(tmp_path / "run", "name: x\nwhat: 1\n", {}))
    assert settings == []
    assert "what" in problem

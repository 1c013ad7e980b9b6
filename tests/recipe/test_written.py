"""A recipe written out in full loads back equal, whatever its texts and numbers are."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml

# Texts that YAML would read as something else, beside whatever hypothesis finds.
texts = st.sampled_from(["yes", "1e-4", "010", "0x1F", "null", "~", "", "- a", "a: b", "12:30", "=", "<<"]) | st.text()
bare = texts.filter(lambda text: text == text.strip())
rates = st.floats(min_value=0, max_value=1000, exclude_min=True)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(bare, min_size=2, max_size=4, unique=True),
    instruction=st.none() | texts,
    rate=rates,
    names=st.none() | st.lists(texts) | st.dictionaries(st.integers() | texts, texts, max_size=3),
)
@example(labels=["a\x85b", "c\u2028d"], instruction="\ud7ff\x00\ttab\r\nend ", rate=1e-05, names={1: "a", "1": "b"})
@example(labels=["<<", "="], instruction="<<", rate=1000, names={"<<": "<<"})
def test_round_trip(labels: list[str], instruction: str | None, rate: float, names: Any) -> None:
    source = {"kind": "hub", "dataset": "someone/something", "text": "text", "label": "label", "label_names": names}
    recipe = Recipe.model_validate(
        {
            "name": "any",
            "model": {"name": "embedded:tiny-t5"},
            "tasks": [{"name": "t", "source": source, "labels": labels, "instruction": instruction}],
            "tuning": {"method": "lora"},
            "strategies": [{"name": "migu"}],
            "training": {"learning_rate": rate},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.yaml")
        path.write_bytes(recipe_yaml(recipe).encode("utf-8"))
        assert Recipe.load(path) == recipe


def test_keys_stand_in_the_order_of_the_schema() -> None:
    lines = recipe_yaml(Recipe.load("quickstart")).splitlines()
    assert [line.partition(":")[0] for line in lines if line[0] != " "] == list(Recipe.model_fields)

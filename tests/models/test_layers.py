"""Which linear layers `layers:` names, with and without adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from clkit.models.layers import linear_layers, row_sites, select_layers
from clkit.models.loading import load_model
from clkit.recipe.sections import FullTuning, LoraTuning, ModelSection

SELF, CROSS, FEED = 4, 4, 3


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        (["attention"], 2 * SELF + 2 * (SELF + CROSS)),
        (["feed_forward"], 4 * FEED),
        (["attention", "feed_forward"], 2 * (SELF + FEED) + 2 * (SELF + CROSS + FEED)),
        (["lm_head"], 1),
        (["q"], 2 + 4),
        (["wo", "wo"], 4),
        (["decoder.*"], 2 * (SELF + CROSS + FEED)),
        (["decoder.block.1.*.wi_0"], 1),
    ],
)
def test_roles_names_and_patterns(toy_t5: Path, layers: list[str], count: int) -> None:
    loaded = load_model(ModelSection(name=str(toy_t5)), FullTuning())
    assert len(select_layers(loaded.model, loaded.family, layers)) == count


def test_adapters_do_not_change_the_names(toy_t5: Path) -> None:
    plain = load_model(ModelSection(name=str(toy_t5)), FullTuning())
    tuned = load_model(ModelSection(name=str(toy_t5)), LoraTuning(method="lora"))
    assert list(linear_layers(plain.model)) == list(linear_layers(tuned.model))


def test_sites_are_the_trained_weights(toy_t5: Path) -> None:
    plain = load_model(ModelSection(name=str(toy_t5)), FullTuning())
    sites = row_sites(select_layers(plain.model, plain.family, ["attention"]))
    assert all(site.weight is site.module.weight for site in sites)
    tuned = load_model(ModelSection(name=str(toy_t5)), LoraTuning(method="lora", targets=["q"]))
    names = [site.name for site in row_sites(select_layers(tuned.model, tuned.family, ["attention"]))]
    assert len(names) == 2 * 6
    assert {name.split(".")[-2] for name in names} == {"q"}

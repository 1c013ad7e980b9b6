"""Toy models that are loaded once, since loading takes longer than most tests; each test gets a copy of its own."""

from __future__ import annotations

from copy import copy, deepcopy
from functools import cache
from pathlib import Path

import torch
from pydantic import TypeAdapter

from clkit.models.family import Family
from clkit.models.loading import load_model
from clkit.models.sections import FullTuning, ModelSection, Tuning


def load_toy(folder: Path, tuning: Tuning | None = None, seed: int = 3) -> Family:
    """The model of that folder, tuned as said; what is drawn at random, a fresh adapter, is drawn with the seed.

    The global random numbers go on from the seed too.
    """
    torch.manual_seed(seed)
    loaded = copy(_loaded(folder, (tuning or FullTuning()).model_dump_json(), seed))
    loaded.model = deepcopy(loaded.model)
    return loaded


@cache
def _loaded(folder: Path, tuning: str, seed: int) -> Family:
    section: Tuning = TypeAdapter(Tuning).validate_json(tuning)
    with torch.random.fork_rng():
        return load_model(ModelSection(name=str(folder)), section)

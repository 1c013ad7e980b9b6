"""Toy models that are loaded once, since loading takes longer than most tests; each test gets a copy of its own."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from pydantic import TypeAdapter

from clkit.models.loading import LoadedModel, load_model
from clkit.models.sections import FullTuning, ModelSection, Tuning


def load_toy(folder: Path, tuning: Tuning | None = None, seed: int = 3) -> LoadedModel:
    """The model of that folder, tuned as said; what is drawn at random, a fresh adapter, is drawn with the seed.

    The global random numbers go on from the seed too.
    """
    torch.manual_seed(seed)
    loaded = _loaded(folder, (tuning or FullTuning()).model_dump_json(), seed)
    return replace(loaded, model=deepcopy(loaded.model))


@cache
def _loaded(folder: Path, tuning: str, seed: int) -> LoadedModel:
    section: Tuning = TypeAdapter(Tuning).validate_json(tuning)
    with torch.random.fork_rng():
        return load_model(ModelSection(name=str(folder)), section)

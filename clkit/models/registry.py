"""Finds the family, and its class for an objective, that a model belongs to."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from clkit.errors import ModelError
from clkit.models import families
from clkit.models.family import Family
from clkit.models.objective import Objective


@cache
def known_families() -> dict[str, dict[str, type[Family]]]:
    """Each family's class per objective, by the family's name: what the files of `clkit/models/families/` hold."""
    found: dict[str, dict[str, type[Family]]] = {}
    for module in iter_modules(families.__path__):
        for one in vars(import_module(f"{families.__name__}.{module.name}")).values():
            if isinstance(one, type) and issubclass(one, Family) and "objective_kind" in vars(one):
                found.setdefault(one.name, {})[one.objective_kind] = one
    return found


def family_of(config: Any, objective: Objective) -> type[Family]:
    """The family that a model with this config belongs to, its class for an objective.

    Raises:
        ModelError: no family recognises the model, or its family does not support the objective or one of its settings.
    """
    known = known_families()
    for name, classes in known.items():
        if next(iter(classes.values())).recognises(config):
            if objective.kind not in classes:
                raise ModelError(
                    f"{name} models such as this '{config.model_type}' do not support objective.kind: "
                    f"{objective.kind}; use one of: {', '.join(classes)}"
                )
            for key, reason in classes[objective.kind].has_no.items():
                if getattr(objective, key) is not None:
                    raise ModelError(f"objective.{key}: {reason}; set it to null")
            return classes[objective.kind]
    raise ModelError(
        f"model type '{config.model_type}' is not supported (families: {', '.join(known)}); "
        "use a T5-like, Llama-like or RoBERTa-like model, for example embedded:tiny-t5"
    )

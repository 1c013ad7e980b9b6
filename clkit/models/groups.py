"""Groups of a model's parameters by what they do, and freezing of those that a recipe names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from clkit.errors import ModelError
from clkit.models.family import Family
from clkit.section import did_you_mean

OTHER = "other"


def parameter_groups(family: Family) -> dict[str, list[str]]:
    """Names of all parameters, each in exactly one group; empty groups are left out.

    Groups are the family's roles of linear layers (`attention`, `feed_forward`, `lm_head`, `head` of a classifier),
    `embeddings` (of words, with a head that is tied to them, and of positions), `position_bias` (T5's), `norms`, and
    `other`.
    """
    model = family.base
    kinds = {name: module for name, module in model.named_modules() if name}
    word_embeddings = model.get_input_embeddings().weight
    groups: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters():
        module = name.rpartition(".")[0].partition(".lora_")[0]  # an adapter's belongs to its layer's group
        tied = parameter is word_embeddings
        group = "embeddings" if tied else _group(module, kinds.get(module), family)
        groups.setdefault(group, []).append(name)
    return groups


def _group(name: str, module: nn.Module | None, family: Family) -> str:
    if isinstance(module, nn.Embedding):
        return "position_bias" if name.endswith("_bias") else "embeddings"
    if "norm" in type(module).__name__.lower():
        return "norms"
    return next((role for role, pattern in family.roles.items() if re.search(pattern, name)), OTHER)


def freeze(family: Family, entries: Sequence[str]) -> None:
    """Stop training the parameters that ``entries`` name: groups, or patterns over parameter names.

    Raises:
        ModelError: an entry fits no parameter, or nothing is left to train.
    """
    groups = parameter_groups(family)
    parameters = dict(family.model.named_parameters())
    for entry in entries:
        fitting = groups.get(entry) or [name for name in parameters if fnmatchcase(name, entry)]
        if not fitting:
            raise ModelError(
                f"tuning.freeze: '{entry}' fits no parameter of this model{did_you_mean(entry, groups)} "
                f"(groups: {', '.join(groups)}; or a pattern over names such as {next(iter(parameters))})"
            )
        for name in fitting:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ModelError("tuning.freeze: nothing is left to train; name fewer groups")

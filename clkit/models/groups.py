"""Groups of a model's parameters by what they do: freezing some, and how much of the trained ones layers take in.

Not every weight is that of a linear layer: the experts of a mixture are one tensor in three dimensions, convolutions
and state spaces have parameters of their own, and the blocks of a hybrid may have names that no role knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import nn

from clkit.errors import ModelError, StrategyError
from clkit.models.family import Family
from clkit.wording import did_you_mean

OTHER = "other"
BLOCKS = ("attention", "feed_forward")
#: What is smaller than this share of the largest matrix may be left out unasked, such as convolution kernels.
NEGLIGIBLE = 0.05
#: What chooses among experts is no part of them, in a tiny model too. Gates of other kinds have longer names.
ROUTER = r"(^|\.)(\w*router|(\w*expert_)?gate)(\.|$)"
#: Linear layers between embeddings and blocks of another width, which belong to no block.
PROJECTION = r"embedding|(^|\.)project_(in|out)$"


def parameter_groups(family: Family) -> dict[str, list[str]]:
    """Names of all parameters, each in exactly one group; empty groups are left out.

    Groups are the family's roles of linear layers (`attention`, `feed_forward`, `lm_head`, `head` of a classifier),
    `embeddings` (of words, with a head that is tied to them, of positions, and what projects them), `position_bias`
    (T5's), `norms`, and `other`.
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
    role = role_of(family, name)
    return "embeddings" if role == OTHER and re.search(PROJECTION, name) else role


def role_of(family: Family, layer: str) -> str:
    """The role of a linear layer by its name, `other` where it has none."""
    return next((role for role, pattern in family.roles.items() if re.search(pattern, layer)), OTHER)


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


@dataclass
class _Group:
    trained: int = 0
    covered: int = 0
    matrices: dict[str, int] = field(default_factory=dict)  # numbers in each, by name
    missed: list[str] = field(default_factory=list)  # those that are not covered


@dataclass(frozen=True)
class Coverage:
    """What is covered of the trained weights, by the groups of `tuning.freeze`; biases count with their layer."""

    groups: dict[str, _Group]

    @property
    def share(self) -> float:
        """The share of all trained numbers that is covered."""
        return sum(one.covered for one in self.groups.values()) / sum(one.trained for one in self.groups.values())

    def __str__(self) -> str:
        """``41% of the trained weights (attention 100%, feed_forward 26%, embeddings 0%)``, the largest group first."""
        order = sorted(self.groups, key=lambda name: -self.groups[name].trained)
        parts = (f"{name} {_percent(self.groups[name].covered / self.groups[name].trained)}" for name in order)
        return f"{_percent(self.share)} of the trained weights ({', '.join(parts)})"

    def left_out(self, entries: Sequence[str]) -> tuple[list[str], float]:
        """What the entries of `layers:` leave out of the roles that they name: matrices, and their share of the roles'.

        Whoever names attention and feed-forward means the blocks as a whole, and so what lies in them and has no role.
        """
        meant = [name for name in entries if name in BLOCKS]
        if set(meant) == set(BLOCKS):
            meant.append(OTHER)
        groups = [self.groups[name] for name in meant if name in self.groups]
        sizes = {name: size for group in groups for name, size in group.matrices.items()}
        enough = NEGLIGIBLE * max(sizes.values(), default=0)
        missed = {name: sizes[name] for group in groups for name in group.missed if sizes[name] > enough}
        return list(missed), sum(missed.values()) / max(sum(sizes.values()), 1)


def coverage(family: Family, weights: Iterable[torch.Tensor]) -> Coverage:
    """What these weights, each with the bias beside it, are of all that is trained."""
    parameters = dict(family.base.named_parameters())
    ids = {id(weight) for weight in weights}
    chosen = {name for name, parameter in parameters.items() if id(parameter) in ids}
    groups: dict[str, _Group] = {}
    for group, names in parameter_groups(family).items():
        for name in (name for name in names if parameters[name].requires_grad):
            size, own = parameters[name].numel(), groups.setdefault(group, _Group())
            own.trained += size
            module = name.rpartition(".")[0]
            counts = parameters[name].ndim > 1 and not re.search(ROUTER, module)
            if counts:
                own.matrices[name] = size
            if chosen & {name, f"{module}.weight", name.removesuffix("_bias")}:  # fused experts': down_proj_bias
                own.covered += size
            elif counts:
                own.missed.append(name)
    return Coverage(groups)


def refuse_partial(found: Coverage, entries: Sequence[str], key: str, consequence: str) -> None:
    """Refuse `layers:` that leave out a part of what they name.

    Args:
        key: of the strategy, which `layers` and `partial` follow.
        consequence: what would become of that part: "would be updated unmasked".

    Raises:
        StrategyError: names the part, its share, and the keys that take it in or accept it.
    """
    names, share = found.left_out(entries)
    if names:
        kinds = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))
        listed = ", ".join(kinds[:3]) + (", ..." if len(kinds) > 3 else "")
        raise StrategyError(
            f"{key}.layers: {', '.join(entries)} leave out {_percent(share)} of these parts of the model, which "
            f"{consequence} ({listed}); name those that are linear layers in `layers` too, or set {key}.partial=true"
        )


def _percent(share: float) -> str:
    """Rounded, but never to 0 or 100 % where it is not."""
    return f"{share:.0%}" if share in (0, 1) or 0.005 <= share < 0.995 else f"{share:.1%}"

"""General ability in the terminal and in JSON: what the model knew before, and how that changed over the stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from clkit.errors import RunError
from clkit.report.tables import SeedGroup, plain_table, show_number, wide_table
from clkit.results.kinds import Protocol
from clkit.results.scores import LARGEST_LOSS
from clkit.run.folder import RunFolder
from clkit.run.seal import Done

LOSS, PERPLEXITY, MEAN = "held_out_loss", "held_out_perplexity", "mean"
#: lm-eval's metrics that are fractions, which are shown in percent, and those of which less is better.
FRACTIONS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "acc_all", "exact_match", "em", "f1", "mc2"})
LOWER = frozenset({"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter"})
HEAD_WIDTH = 18  # a longer one is broken

Measures = Mapping[str, float | None]


class Measured(NamedTuple):
    """A stage's values by measure, fractions as fractions; None where one is not finite."""

    stage: str
    values: dict[str, float | None]


@dataclass(frozen=True)
class GeneralAbility:
    """What a run measured of general ability.

    Attributes:
        stages: in order, `zero-shot` first if it was measured.
        change: last stage minus zero-shot; None where one is missing, or where no stage builds on the one before.
        final: what runs are compared by: the headlines of the last stage whose kind is known (`kind_of`); empty where
            no stage builds on the one before, or there is one to come.
    """

    stages: list[Measured]
    change: dict[str, float | None] | None
    final: Mapping[str, float | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"stages": [measured._asdict() for measured in self.stages], "change": self.change}


def read_general(run: RunFolder, protocol: Protocol) -> GeneralAbility | None:
    """What the run's finished stages say; None where nothing was measured. A damaged `done.json` is left out."""
    stages: dict[int, Measured] = {}
    for index, name, folder in run.stage_folders():
        try:
            measured = Done.read(folder).payload.get("general")
        except RunError:
            continue
        if measured:
            stages[index] = Measured(name, _with_derived(measured))
    if not stages:
        return None
    change, final = None, {}
    last = max(stages)
    if protocol != "per_task":
        values = stages[last].values
        final = {key: values[key] for key in _shown(values) if key != PERPLEXITY and kind_of(key)}
        if 0 in stages and last > 0:
            before = stages[0].values
            change = {key: _difference(value, before.get(key)) for key, value in values.items()}
    return GeneralAbility(list(stages.values()), change, final)


def _with_derived(measured: Measures) -> dict[str, float | None]:
    """With the perplexity, the exponential of the loss; and of several tasks of lm-eval the mean of their headlines."""
    found: dict[str, float | None] = {}
    for key, value in measured.items():
        found[key] = value
        if key == LOSS:
            found[PERPLEXITY] = None if value is None else math.exp(min(value, LARGEST_LOSS))
    heads = _headlines(measured)
    if len(heads) > 1 and all(_is_fraction(key) for key in heads):
        found[MEAN] = _mean([measured[key] for key in heads])
    return found


def _headlines(measured: Measures) -> list[str]:
    """One metric per task of lm-eval: acc_norm where there is one, else acc, else the first."""
    metrics: dict[str, list[str]] = {}
    for key in measured:
        task, slash, metric = key.rpartition("/")
        if slash:
            metrics.setdefault(task, []).append(metric)
    return [
        f"{task}/{next((one for one in ('acc_norm', 'acc') if one in names), names[0])}"
        for task, names in metrics.items()
    ]


def _metric(key: str) -> str:
    """The metric's name without its task and filter."""
    return key.rpartition("/")[2].partition(",")[0]


def _is_fraction(key: str) -> bool:
    return key == MEAN or _metric(key) in FRACTIONS


def kind_of(key: str) -> str | None:
    """Which metric of a task's scores a measure is shown and compared as; None where nobody knows which way is up."""
    if _is_fraction(key):
        return "exact_match"
    if _metric(key).endswith("perplexity"):
        return "perplexity"
    return "loss" if key == LOSS or _metric(key) in LOWER else None


def _difference(last: float | None, first: float | None) -> float | None:
    return None if last is None or first is None else last - first


def _shown(measured: Measures) -> list[str]:
    heads = _headlines(measured)
    return [key for key in measured if key in heads or "/" not in key]


def _number(key: str, value: float | None, *, signed: bool = False) -> str:
    fraction = _is_fraction(key)
    decimals = 1 if fraction or key == PERPLEXITY else 3
    return show_number(value, fraction=fraction, decimals=decimals, signed=signed)


def _head(key: str) -> str:
    task, _, metric = key.rpartition("/")
    first, second = {LOSS: ("held-out", "loss"), PERPLEXITY: ("held-out", "perplexity"), MEAN: ("", "mean")}.get(
        key, (task, metric)
    )
    lower = key in (LOSS, PERPLEXITY) or _metric(key) in LOWER
    return f"{first}\n{second}{' ↓' if lower else ''}".replace(",", ",\n")


def general_text(measured: Measures) -> str:
    """The headlines of one measurement in a line."""
    complete = _with_derived(measured)
    names = {LOSS: "held-out loss", PERPLEXITY: "perplexity"}
    return "  ".join(f"{names.get(key, key)} {_number(key, complete[key])}" for key in _shown(complete))


def general_rows(general: GeneralAbility) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The heads of the measures that are shown, and a row per stage; with the change as the last one, where known."""
    keys = list(dict.fromkeys(key for measured in general.stages for key in _shown(measured.values)))
    rows = [
        (stage if stage == "zero-shot" else f"after {stage}", [_number(key, values.get(key)) for key in keys])
        for stage, values in general.stages
    ]
    if general.change is not None:
        rows.append(("change", [_number(key, general.change.get(key), signed=True) for key in keys]))
    return [_head(key) for key in keys], rows


def general_unit(general: GeneralAbility) -> str:
    """What the numbers are."""
    fractions = any(_is_fraction(key) for measured in general.stages for key in _shown(measured.values))
    return f"general ability, which no task taught{', accuracies in percent' if fractions else ''}; ↓ lower is better"


def general_table(general: GeneralAbility, width: int) -> Group:
    """A row per stage and a column per measure, in at most ``width`` characters; more go on in another table."""
    heads, rows = general_rows(general)
    tables = wide_table(
        heads,
        [(Text(label), [Text(cell) for cell in cells]) for label, cells in rows],
        width,
        head_width=HEAD_WIDTH,
        apart=int(general.change is not None),
    )
    return Group(Text(f"{general_unit(general)}\n", style="italic"), *tables)


def general_runs_table(runs: Mapping[str, GeneralAbility], groups: Sequence[SeedGroup]) -> Table:
    """What is left in several runs, a row each, and how far that is from before; below those of a group their mean."""
    keys = list(dict.fromkeys(key for one in runs.values() for key in one.final))
    table = plain_table()
    table.title = Text("general ability at the end, and its change; ↓ lower is better", style="italic")
    table.title_justify = "left"
    table.add_column("run", overflow="fold", min_width=18)
    for key in keys:
        table.add_column(Text(_head(key)), justify="right")
    group_of = {name: group for group in groups for name in group.runs}
    in_order = [group_of.get(name) or SeedGroup([name], {}) for name in runs]
    for group in {id(one): one for one in in_order}.values():
        if group.metrics:
            table.add_section()
        if group.label:
            table.add_row(Text(group.label, style="italic"))
        own = {name: runs[name] for name in group.runs if name in runs}
        for name, one in own.items():
            table.add_row(Text(name), *(_end(key, one.final.get(key), (one.change or {}).get(key)) for key in keys))
        if len(own) > 1:
            _add_means(table, keys, list(own.values()))
        if group.metrics:
            table.add_section()
    return table


def _add_means(table: Table, keys: Sequence[str], runs: Sequence[GeneralAbility]) -> None:
    """The means over seeds, and the standard deviations of what is left; neither where a run has no number."""
    finals = {key: [one.final.get(key) for one in runs] for key in keys}
    changes = {key: [(one.change or {}).get(key) for one in runs] for key in keys}
    table.add_row(
        Text(f"mean of {len(runs)} seeds"), *(_end(key, _mean(finals[key]), _mean(changes[key])) for key in keys)
    )
    spread = (
        None if None in finals[key] else stdev(value for value in finals[key] if value is not None) for key in keys
    )
    table.add_row(Text("± std"), *(_number(key, one) for key, one in zip(keys, spread, strict=True)))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _end(key: str, value: float | None, change: float | None) -> str:
    said = _number(key, value)
    return said if value is None or change is None else f"{said} ({_number(key, change, signed=True)})"

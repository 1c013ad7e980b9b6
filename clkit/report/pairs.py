"""Methods compared over the seeds and orders that their runs share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from clkit.errors import UsageError
from clkit.report.general_tables import kind_of
from clkit.results.kinds import UNBOUNDED
from clkit.results.matrix import AccuracyMatrix
from clkit.results.metrics import limits
from clkit.results.spread import FEWEST, Paired, holm, paired
from clkit.run.comparison import as_text, differing_keys, read_otherwise, telling_apart

#: What methods may differ in. In all else of a recipe they must agree, or their runs answer different questions.
METHOD = ("strategies", "tuning", "training", "general", "evaluation.batch_size", "evaluation.zero_shot")

#: Of a hub's model, which may move without its weights: it is told, and refuses no pair.
COMMIT = "model.commit"

#: What general ability is measured on; where methods differ in it, it is not compared.
MEASURED = ("general.texts", "general.lm_eval")


class Shared(NamedTuple):
    """What the two runs of a pair have in common."""

    seed: Any
    data_seed: Any
    order: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"seed": self.seed, "data_seed": self.data_seed, "tasks": list(self.order)}


class Compared(NamedTuple):
    """A run by its name, with its recipe as plain data, what is left of its general ability, and what it read."""

    name: str
    recipe: Mapping[str, Any]
    matrix: AccuracyMatrix
    general: Mapping[str, float | None] = MappingProxyType({})
    read: Mapping[str, Any] = MappingProxyType({})

    @property
    def shared(self) -> Shared:
        return Shared(self.recipe.get("seed"), _section(self.recipe, "data").get("seed"), tuple(self.matrix.tasks))


@dataclass(frozen=True)
class Method:
    """Runs whose recipes differ in their seeds, the order of the tasks and their names only.

    Attributes:
        recipe: what all of them say.
    """

    recipe: Mapping[str, Any]
    runs: Mapping[Shared, Compared]

    @property
    def names(self) -> list[str]:
        return [run.name for run in self.runs.values()]


class Comparison(NamedTuple):
    """One method against another: the pairs, the runs without a partner, and what came out by each metric.

    Attributes:
        alone: the runs of either side without a partner.
        general: by each measure of general ability, when all is learned; empty where it was measured on other texts.
    """

    method: str
    against: str
    differs_in: list[str]
    pairs: list[tuple[Compared, Compared]]
    alone: list[str]
    metrics: dict[str, Paired]
    general: dict[str, Paired]

    @property
    def scored_by(self) -> str:
        """What the tasks are scored by, in all runs."""
        return self.pairs[0][0].matrix.metric

    def numbers(self) -> Iterator[tuple[str, str, Paired]]:
        """Each metric and measure that there are numbers of, by its name, with the metric of what it is taken of."""
        of_tasks = ((name, self.scored_by, metric) for name, metric in self.metrics.items())
        of_texts = ((name, kind_of(name) or "", measure) for name, measure in self.general.items())
        return ((name, kind, one) for name, kind, one in (*of_tasks, *of_texts) if one.means)

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "against": self.against,
            "differs_in": self.differs_in,
            "pairs": [{"run": one.name, "against": two.name, **one.shared.to_json()} for one, two in self.pairs],
            "unpaired": self.alone,
            "metrics": {name: metric.to_json() for name, metric in self.metrics.items()},
            "general": {name: measure.to_json() for name, measure in self.general.items()},
        }


def methods(runs: Iterable[Compared]) -> list[Method]:
    """The runs by what they say of a method, in the order of the first run of each.

    Raises:
        UsageError: two runs of a method have the same seeds and order, and either could be the one of a pair.
    """
    groups: dict[str, dict[Shared, Compared]] = {}
    for run in runs:
        group = groups.setdefault(as_text(_method(run.recipe)), {})
        twin = group.setdefault(run.shared, run)
        if twin is not run:
            raise UsageError(
                f"{twin.name} and {run.name}: the same recipe, seed and order twice, of which one counts; name one"
            )
    return [Method(_method(next(iter(group.values())).recipe), group) for group in groups.values()]


def unfair(one: Method, other: Method) -> list[str]:
    """The keys in which two methods differ so that it is not the method alone that makes the difference."""
    keys = differing_keys(one.recipe, other.recipe)
    return [key for key in keys if not any(key == part or key.startswith(f"{part}.") for part in METHOD)]


def against_the_first(runs: Iterable[Compared]) -> tuple[list[Comparison], list[str]]:
    """The runs' methods against the first of them, each that has `FEWEST` pairs, and why of those some are not.

    Nothing is said of single runs, which nobody takes for a comparison.
    """
    try:
        found = methods(runs)
    except UsageError as error:
        return [], [f"no methods are compared: {error}"]
    if not found:
        return [], []
    fair, remarks, few = [], [], []
    first, names = found[0], method_names(found)
    for one, name in zip(found[1:], names[1:], strict=True):
        pairs = len(one.runs.keys() & first.runs.keys())
        if pairs < FEWEST:
            few += [f"{name} ({pairs})"] if min(len(one.runs), len(first.runs)) > 1 else []
            continue
        try:
            _refuse_unfair(one, first)
            fair.append(one)
        except UsageError as error:
            remarks.append(f"not compared: {error}")
    if few:
        remarks.append(f"not compared with {names[0]}, since a test takes {FEWEST} pairs of runs: {', '.join(few)}")
    return (compare(fair, first) if fair else []), remarks


def compare(ours: Sequence[Method], against: Method) -> list[Comparison]:
    """Each method against the same one, over the runs that have a partner there; p is corrected for their number.

    Raises:
        UsageError: a comparison is not fair, or there is no pair.
    """
    labels = method_names([*ours, against])
    found = [_compare(method, against, label, labels[-1]) for method, label in zip(ours, labels, strict=False)]
    metrics, general = _corrected([one.metrics for one in found]), _corrected([one.general for one in found])
    return [
        one._replace(metrics=own, general=measures) for one, own, measures in zip(found, metrics, general, strict=True)
    ]


def _corrected(found: Sequence[dict[str, Paired]]) -> list[dict[str, Paired]]:
    """Each with Holm's p, over all that are compared by the same metric."""
    names = dict.fromkeys(name for one in found for name in one)
    holms = {name: holm([one[name].p if name in one else None for one in found]) for name in names}
    return [
        {name: replace(metric, holm=holms[name][place]) for name, metric in one.items()}
        for place, one in enumerate(found)
    ]


def _compare(method: Method, against: Method, label: str, other_label: str) -> Comparison:
    _refuse_unfair(method, against)
    pairs = _pairs(method, against)
    differ = differing_keys(against.recipe, method.recipe)
    differ += [COMMIT] if any(COMMIT in _read_otherwise(*pair) for pair in pairs) else []
    alone = [run.name for one, other in ((method, against), (against, method)) for run in _without_partner(one, other)]
    other_texts = any(key.startswith(MEASURED) for key in differ)
    return Comparison(label, other_label, differ, pairs, alone, _metrics(pairs), {} if other_texts else _general(pairs))


def _pairs(method: Method, against: Method) -> list[tuple[Compared, Compared]]:
    return [(run, against.runs[shared]) for shared, run in method.runs.items() if shared in against.runs]


def _read_otherwise(one: Compared, two: Compared) -> list[str]:
    return read_otherwise(one.read, two.read, "train", "validation", "test")


def _without_partner(one: Method, other: Method) -> list[Compared]:
    return [run for shared, run in one.runs.items() if shared not in other.runs]


def _refuse_unfair(method: Method, against: Method) -> None:
    """Make sure that it is the method alone that makes a difference.

    Raises:
        UsageError: it is not, or there is no pair.
    """
    if wrong := unfair(method, against):
        raise UsageError(
            f"{method.names[0]} and {against.names[0]} differ in {', '.join(wrong)}: no fair pair; compare runs that "
            "differ in strategies, tuning and training only"
        )
    pairs = _pairs(method, against)
    if not pairs:
        raise UsageError(f"{_seeds(method)} and {_seeds(against)}: no pair has the same seed, data.seed and order")
    for one, two in pairs:
        if (one.matrix.counts, one.matrix.metric) != (two.matrix.counts, two.matrix.metric):
            raise UsageError(
                f"{one.name} and {two.name}: no fair pair, for they were tested on {_tested(one)} and {_tested(two)}"
            )
        if keys := [key for key in _read_otherwise(one, two) if key != COMMIT]:
            raise UsageError(
                f"{one.name} and {two.name}: no fair pair, for what they read was changed in between: "
                f"{', '.join(keys[:3])}{', ...' if keys[3:] else ''}; train one of them again, or leave it out"
            )
    if not differing_keys(against.recipe, method.recipe):
        raise UsageError(
            f"{pairs[0][0].name} and {pairs[0][1].name}: their recipes say the same, so nothing is compared"
        )


def _metrics(pairs: Sequence[tuple[Compared, Compared]]) -> dict[str, Paired]:
    """By each metric that any pair has; a comparison without one of the pairs would be over other seeds."""
    computed = [(one.matrix.metrics(), two.matrix.metrics()) for one, two in pairs]
    found = {}
    for name in computed[0][0]:
        low, high = limits(name, pairs[0][0].matrix.metric)
        found[name] = _over([(one[name].value, two[name].value) for one, two in computed], high - low)
    return {name: one for name, one in found.items() if one is not None}


def _general(pairs: Sequence[tuple[Compared, Compared]]) -> dict[str, Paired]:
    """The same by each measure of general ability."""
    found = {}
    for name in dict.fromkeys(name for pair in pairs for run in pair for name in run.general):
        farthest = math.inf if kind_of(name) in UNBOUNDED else 1.0
        found[name] = _over([(one.general.get(name), two.general.get(name)) for one, two in pairs], farthest)
    return {name: one for name, one in found.items() if one is not None}


def _over(values: Sequence[tuple[float | None, float | None]], farthest: float) -> Paired | None:
    """A comparison by these values of the pairs; None where no pair has any."""
    whole = [(first, second) for first, second in values if first is not None and second is not None]
    if len(whole) == len(values):
        return paired(whole, farthest)
    return Paired(len(whole), note=f"missing in {len(values) - len(whole)} of {len(values)} pairs") if whole else None


def _method(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without what the runs of a method may differ in."""
    said = {key: value for key, value in recipe.items() if key not in ("name", "seed", "saving")}
    for section, key in (("data", "seed"), ("benchmark", "order")):
        if isinstance(said.get(section), dict):
            said[section] = {name: value for name, value in said[section].items() if name != key}
    if isinstance(said.get("tasks"), list):
        said["tasks"] = sorted(said["tasks"], key=as_text)
    evaluation = _section(said, "evaluation")
    if evaluation.get("answer") == "both":  # the matrix holds what was generated
        said["evaluation"] = evaluation | {"answer": "generate"}
    return said


def _section(recipe: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = recipe.get(name)
    return section if isinstance(section, dict) else {}


def method_names(compared: Sequence[Method]) -> list[str]:
    """A name for each method: its recipes', its strategies', what it differs in, or else its first run's."""
    names = [*map(_recipe_name, compared)]
    named = [{"name": name} if all(names) else {} for name in names]
    said = telling_apart([{**name, **method.recipe} for name, method in zip(named, compared, strict=True)])
    for labels in (names, [*map(_strategies, compared)], said):
        if all(labels) and len(set(labels)) == len(labels):
            return labels
    return [_runs(method) for method in compared]


def _recipe_name(method: Method) -> str:
    names = {str(run.recipe.get("name")) for run in method.runs.values()}
    return names.pop() if len(names) == 1 else ""


def _strategies(method: Method) -> str:
    strategies = method.recipe.get("strategies") or []
    return " + ".join(str(_section({"one": strategy}, "one").get("name")) for strategy in strategies) or "plain"


def _runs(method: Method) -> str:
    first, *more = method.names
    return f"{first} and {len(more)} more" if more else first


def _seeds(method: Method) -> str:
    seeds = ", ".join(dict.fromkeys(str(shared.seed) for shared in method.runs))
    orders = dict.fromkeys(", ".join(shared.order) for shared in method.runs)
    return f"{_runs(method)} (seeds {seeds}; {'; '.join(orders)})"


def _tested(run: Compared) -> str:
    return f"{run.matrix.metric} of {', '.join(map(str, run.matrix.counts))} examples"

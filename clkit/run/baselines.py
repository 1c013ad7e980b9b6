"""Runs of the baselines that other runs are compared with: one model per task, and all tasks together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clkit.errors import UsageError
from clkit.results.kinds import Protocol, Row
from clkit.results.matrix import AccuracyMatrix
from clkit.run.comparison import compare_recipes, tested_otherwise
from clkit.run.folder import RunFolder

#: What a finished run of each protocol is, as an argument of `AccuracyMatrix.metrics`, and how it is called.
ROLES: dict[Protocol, tuple[str, str]] = {
    "per_task": ("reference", "R* (one model per task)"),
    "multi_task": ("upper_bound", "upper bound (multi-task)"),
}
#: Keys of a recipe that must agree for a comparison to be fair, each with all below it. A benchmark's order need not,
#: nor which further tasks there are: scores are taken by the task's name.
COMPARED = re.compile(
    r"(model|tuning|prompt|data|objective|benchmark\.(name|folder)|evaluation\.(split|answer|max_new_tokens)"
    r"|tasks\..+\.(source|labels|answers|options|instruction|group))(\.|$)|benchmark$"
)


@dataclass(frozen=True)
class Reference:
    """A finished run of a baseline, with its scores."""

    run: RunFolder
    matrix: AccuracyMatrix

    @property
    def name(self) -> str:
        return str(self.run.path)

    @property
    def role(self) -> str:
        """How it is called in tables."""
        return ROLES[self.matrix.protocol][1]

    def row(self, other: AccuracyMatrix, name: str) -> Row:
        """Its scores on the tasks of another run, in their order there, whatever the order here.

        Args:
            name: of the other run, for the error.

        Raises:
            UsageError: it lacks a task or has another metric, or, as an upper bound, learned further tasks.
        """
        if (self.matrix.metric, self.matrix.higher_is_better) != (other.metric, other.higher_is_better):
            raise UsageError(
                f"--reference {self.name}: its scores are {self.matrix.metric}, those of {name} {other.metric}"
            )
        scores = dict(zip(self.matrix.tasks, self.matrix.outcome, strict=True))
        missing = [task for task in other.tasks if task not in scores]
        if missing:
            raise UsageError(f"--reference {self.name}: has no score on {', '.join(missing)}, which {name} learned")
        more = [task for task in scores if task not in other.tasks]
        if more and self.matrix.protocol == "multi_task":
            raise UsageError(
                f"--reference {self.name}: is no upper bound for {name}, for it learned {', '.join(more)} besides"
            )
        return [scores[task] for task in other.tasks]

    def differences(self, other: RunFolder) -> list[str]:
        """The keys in which its recipe, or what it read, differs from another run's: a comparison may not be fair."""
        keys = compare_recipes(self.run.recipe_yaml(), other.recipe_yaml())
        return [key for key in keys if COMPARED.match(key)] or tested_otherwise(other, self.run)


def open_references(runs: Iterable[RunFolder], metric: str | None = None) -> list[Reference]:
    """The runs as references, one of each kind at most.

    Args:
        metric: what their tasks are scored by, if not by each run's own metric.

    Raises:
        UsageError: a run is no baseline that others are compared with, is unfinished, or is the second of its kind.
    """
    references: dict[Protocol, Reference] = {}
    for run in runs:
        matrix, damage, _ = run.scores(metric)
        found = Reference(run, matrix)
        if damage:
            raise UsageError(f"--reference {found.name}: {damage[0]}; a comparison needs a run that is whole")
        protocol = found.matrix.protocol
        if protocol not in ROLES:
            hint = "; FWT needs each run's own zero-shot row (evaluation.zero_shot)" if protocol == "zero_shot" else ""
            raise UsageError(
                f"--reference {found.name}: is a run with protocol: {protocol}; name one with protocol: per_task "
                f"(for intransigence) or multi_task (the upper bound){hint}"
            )
        if found.matrix.in_progress:
            raise UsageError(f"--reference {found.name}: {found.matrix.in_progress}; finish it with --resume")
        if protocol in references:
            raise UsageError(
                f"--reference {found.name}: is the second with protocol: {protocol}, after "
                f"{references[protocol].name}; name one"
            )
        references[protocol] = found
    return list(references.values())


def reference_rows(references: Iterable[Reference], matrix: AccuracyMatrix, name: str) -> Mapping[str, Row]:
    """The arguments of `matrix.metrics` that the references give.

    Raises:
        UsageError: a reference does not fit the matrix.
    """
    return {ROLES[one.matrix.protocol][0]: one.row(matrix, name) for one in references}

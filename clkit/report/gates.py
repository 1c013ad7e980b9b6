"""The rules of `clkit check`, as they are given on the command line, on runs as they lie on disk; a line for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from clkit.errors import UsageError
from clkit.report.general_tables import LOSS, read_general
from clkit.report.tables import show_number
from clkit.results.gate import Ruling, judge
from clkit.results.matrix import AccuracyMatrix
from clkit.run.comparison import differing_keys, read_otherwise, tested_otherwise, tested_split
from clkit.run.folder import RunFolder

GENERAL_RULE = "general_loss"


def rulings(
    runs: Sequence[RunFolder],
    *,
    max_forgetting: float | None = None,
    min_average: float | None = None,
    max_general_loss: float | None = None,
    against: RunFolder | None = None,
    strict: bool = False,
) -> list[Ruling]:
    """What comes of each rule that is given; percentages where the runs' scores are fractions.

    Raises:
        UsageError: no rule is given, or the runs are not repetitions of each other.
        RunError: a run cannot be read.
    """
    limits = {
        "--max-forgetting": max_forgetting,
        "--min-average": min_average,
        "--max-general-loss": max_general_loss,
    }
    for option, limit in limits.items():
        if limit is not None and not math.isfinite(limit):
            raise UsageError(f"{option}: needs a number, got {limit}")
    if against is None and all(limit is None for limit in limits.values()):
        raise UsageError(f"no rule is given: {', '.join(limits)} or --against RUN")
    for run in runs[1:]:
        different = [key for key in differing_keys(runs[0].recipe(), run.recipe()) if key != "seed"]
        if different:
            raise UsageError(f"{runs[0].path} and {run.path} differ in {', '.join(different)}, not in their seed only")
        if keys := read_otherwise(runs[0].read(), run.read(), tested_split(run)):
            raise UsageError(
                f"{runs[0].path} and {run.path} are no repetitions: what they read was changed in between "
                f"({', '.join(keys)}); leave one out"
            )
    matrices = [run.scores().matrix for run in runs]
    unit = 100 if matrices[0].is_fraction else 1
    found = []
    if max_forgetting is not None:
        found.append(judge("forgetting", "at most", max_forgetting / unit, matrices))
    if min_average is not None:
        if not matrices[0].higher_is_better:
            raise UsageError(f"--min-average: of {matrices[0].metric}, lower is better; use --max-forgetting")
        found.append(judge("average_accuracy", "at least", min_average / unit, matrices))
    if max_general_loss is not None:
        found += [_general(run, max_general_loss) for run in runs]
    if against is not None:
        found += _no_worse(runs[0], matrices, against)
    return [replace(ruling, noise=0.0) for ruling in found] if strict else found


def _no_worse(run: RunFolder, matrices: Sequence[AccuracyMatrix], against: RunFolder) -> list[Ruling]:
    before = against.scores().matrix
    if (before.tasks, before.metric) != (matrices[0].tasks, matrices[0].metric):
        raise UsageError(f"--against {against.path}: other tasks or another metric than {run.path}")
    if keys := tested_otherwise(run, against):
        raise UsageError(
            f"--against {against.path}: was tested on other data than {run.path} ({', '.join(keys)}); name a run that "
            "was tested on the same"
        )
    better = matrices[0].higher_is_better
    found = [
        judge("average_accuracy", "at least" if better else "at most", 0.0, matrices, before),
        judge("forgetting", "at most", 0.0, matrices, before),
    ]
    return [replace(ruling, rule=f"{ruling.rule} less that of {against.path}") for ruling in found]


def _general(run: RunFolder, limit: float) -> Ruling:
    """How far the held-out loss rose over a run; every text of it is measured, so nothing of it is drawn."""
    general = read_general(run, run.scores().matrix.protocol)
    change = (general.change or {}).get(LOSS) if general else None
    note = None if change is not None else f"{run.path} did not measure it before and after (general.held_out)"
    return Ruling(f"{GENERAL_RULE} of {run.path}", "at most", limit, change, note=note)


def shown(ruling: Ruling, *, fraction: bool) -> str:
    """A ruling in a line."""
    fraction = fraction and not ruling.rule.startswith(GENERAL_RULE)

    def number(value: float) -> str:
        return show_number(value, fraction=fraction, decimals=1 if fraction else 3)

    value = "not measured" if ruling.value is None else number(ruling.value)
    room = f", by chance ±{number(ruling.noise)}" if ruling.noise else ""
    note = f" ({ruling.note})" if ruling.note else ""
    verdict = "pass" if ruling.passed else "FAIL"
    return f"{verdict}  {ruling.rule} {value}, {ruling.bound} {number(ruling.limit)}{room}{note}"

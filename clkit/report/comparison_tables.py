"""What a terminal shows of methods that are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from clkit.report.general_tables import kind_of
from clkit.report.pairs import Comparison
from clkit.report.tables import CUT, paired_table
from clkit.results.spread import FEWEST, Paired, smallest_p


def comparison_tables(compared: Sequence[Comparison]) -> Iterator[RenderableType]:
    """What a terminal shows: the numbers of each method, where there are any, and over which pairs they are."""
    if shown := _with_numbers({one.method: one.metrics for one in compared}):
        yield from (paired_table(shown, lambda name: compared[0].scored_by), "")
    if shown := _with_numbers({one.method: one.general for one in compared}):
        table = paired_table(shown, lambda name: kind_of(name) or "", further="")
        yield from (Text("general ability when all is learned\n", style="italic"), table, "")
    yield from (Text(_about(one)) for one in compared)


def _with_numbers(compared: Mapping[str, Mapping[str, Paired]]) -> dict[str, dict[str, Paired]]:
    numbers = {method: {name: one for name, one in found.items() if one.means} for method, found in compared.items()}
    return {method: found for method, found in numbers.items() if found}


def _about(one: Comparison) -> str:
    """Which pairs a comparison is over, and what must be known to read it."""
    n = len(one.pairs)
    pairs = "1 pair" if n == 1 else f"{n} pairs"
    said = [f"{one.method} against {one.against}: {pairs}; they differ in {', '.join(one.differs_in)}"]
    seeds: dict[str, list[str]] = {}
    for shared in sorted((run.shared for run, _ in one.pairs), key=lambda shared: (len(str(shared.seed)), str(shared))):
        seeds.setdefault(", ".join(shared.order), []).append(str(shared.seed))
    said += [f"{order}: seeds {', '.join(found)}" for order, found in seeds.items()]
    every = one.metrics | one.general
    notes = dict.fromkeys(metric.note for metric in every.values() if metric.note)
    for note in notes:
        without = [name for name, metric in every.items() if metric.note == note]
        said.append(f"{note}: no {', '.join(without)}" if len(without) < len(every) else note)
    if n >= FEWEST and smallest_p(n) > 0.05:
        said.append(f"of {n} pairs p is never below {smallest_p(n):.3f}")
    if one.alone:
        said.append(f"without a partner: {', '.join(one.alone)}")
    if any(metric.interval and metric.interval.cut for metric in every.values()):
        said.append(CUT)
    return "\n  ".join(said)

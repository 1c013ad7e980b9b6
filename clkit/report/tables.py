"""Tables for the terminal: the matrix of one run, its metrics, and several runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from clkit.report.heat import heat
from clkit.results.kinds import LOWER_IS_BETTER, OUTSIDE, RANKED, UNBOUNDED, Protocol
from clkit.results.matrix import AccuracyMatrix
from clkit.results.metrics import MEANS, Metric
from clkit.results.scores import Guess
from clkit.results.spread import Aggregate, Interval, Paired
from clkit.run.seal import Checked, State

MISSING = "–"
LABEL_WIDTH = 24  # longer task names are cut
SIGNED = frozenset({"bwt", "fwt"})
#: Said where an interval was cut.
CUT = "intervals are cut where a metric's range ends"
#: What stands for `accuracy` in the names of a run's metrics, where its scores are others.
NOUNS = {
    "exact_match": "accuracy",
    "macro_f1": "macro F1",
    "token_f1": "token F1",
    "rouge_l": "ROUGE-L",
    RANKED: "accuracy, ranked",
    OUTSIDE: "outside labels",
}
#: Decimals of a percentage and of other scores, and those where space is scarce.
DECIMALS = {"perplexity": (2, 1), "loss": (3, 2)}
PERCENT_DECIMALS = (1, 0)
HEADS = {
    "average_accuracy": "average\n{noun}",
    "average_accuracy_micro": "micro\naverage",
    "bwt": "BWT",
    "fwt": "FWT",
    "forgetting": "forget-\nting",
    "learning_accuracy": "learning\n{noun}",
}
LOWER = "lower is better"
SIGNS = "; signs read as with accuracies: BWT above 0 is good"
# They stand in a table of their own: beside the others they would not fit into 80 columns.
REFERENCE_HEADS = {"intransigence": "intransi-\ngence", "upper_bound_distance": "distance to\nupper bound"}
CHANCE: dict[Guess, str] = {"uniform": "uniform guesses", "majority": "most frequent label"}
STATES: dict[State, str] = {"whole": "green", "missing": "bold red", "changed": "bold red"}  # and the others: yellow
BASELINES: dict[Protocol, tuple[str, str]] = {
    "multi_task": ("all tasks learned together", "together"),
    "per_task": ("each task learned by a model of its own", "alone"),
    "zero_shot": ("nothing learned", ""),
}


class RunMetrics(NamedTuple):
    """A run's metrics under its name: what its scores are, and what others compare with it for."""

    run: str
    metrics: Mapping[str, Metric]
    scored_by: str
    role: str = ""


class SeedGroup(NamedTuple):
    """Runs that differ in their seed only, by the name they are shown under, and their metrics over the seeds.

    Attributes:
        label: their name and what tells them apart from other such runs; empty where there are none.
    """

    runs: list[str]
    metrics: dict[str, Aggregate]
    label: str = ""


def show_number(value: float | None, *, fraction: bool, decimals: int = 1, signed: bool = False) -> str:
    """A number as a person reads it: percent of a fraction, a plain number otherwise, a dash where there is none."""
    if value is None:
        return MISSING
    if not fraction and abs(value) >= 1e6:
        return f"{value:{'+' if signed else ''}.1e}"
    rounded = round(100 * value if fraction else value, decimals) + 0.0  # -0.0 + 0.0 is a plain 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{decimals}f}"


def show_score(value: float | None, scored_by: str, *, narrow: bool = False, signed: bool = False) -> str:
    """A score, or a difference of scores, with as many decimals as its kind deserves."""
    decimals = DECIMALS.get(scored_by, PERCENT_DECIMALS)[narrow]
    if scored_by == "perplexity" and value is not None and abs(value) >= 1000:
        decimals = 1
    return show_number(value, fraction=scored_by not in UNBOUNDED, decimals=decimals, signed=signed)


def show_interval(interval: Interval, scored_by: str, *, signed: bool = False) -> str:
    """Both ends, as scores or differences of scores."""
    return " to ".join(show_score(end, scored_by, signed=signed) for end in (interval.low, interval.high))


def noun_of(scored_by: str) -> str:
    """How a metric's scores are called: the `accuracy` in average accuracy."""
    return NOUNS.get(scored_by, scored_by)


def name_of(metric: str, scored_by: str) -> str:
    """How a metric of continual learning is called where the scores are no accuracies: `average_perplexity`."""
    return metric if scored_by == "exact_match" else metric.replace("accuracy", scored_by)


def below_majority(matrix: AccuracyMatrix) -> Iterator[str]:
    """A remark on each task that was learned to less than its most frequent training label scores."""
    for task, scores in matrix.below_majority.items():
        learned, guess = (show_score(score, matrix.metric) for score in scores)
        yield (
            f"'{task}' was learned to {learned} %, below the {guess} % of always answering its most frequent training "
            "label; more epochs or another rate may teach it"
        )


def metrics_table(metrics: Mapping[str, Metric], scored_by: str, references: Sequence[RunMetrics] = ()) -> Table:
    """A row per metric: its value, and the formula, or why there is no value; below, what was compared with."""
    table = plain_table()
    _explain(table, [scored_by])
    table.add_column("metric", no_wrap=True)
    table.add_column("value" if scored_by in UNBOUNDED else "percent", justify="right", no_wrap=True)
    table.add_column("formula, or why there is no value")
    for name, metric in metrics.items():
        value = show_score(metric.value, scored_by, signed=name in SIGNED)
        table.add_row(name_of(name, scored_by), Text(value, style="bold"), Text(metric.note or metric.formula))
    if references:
        table.add_section()
    for one in references:
        value = show_score(one.metrics["average_accuracy"].value, scored_by)
        table.add_row(one.role, Text(value, style="bold"), Text(f"average {noun_of(scored_by)} of {one.run}"))
    return table


def _explain(table: Table, scored_by: Iterable[str], further: str = SIGNS) -> None:
    """Say below a table which scores are better when they are lower, if any."""
    lower = [kind for kind in dict.fromkeys(scored_by) if kind in LOWER_IS_BETTER]
    if lower:
        _remark(table, f"{' and '.join(lower)}: {LOWER}{further}")


def _remark(table: Table, remark: str) -> None:
    """Put one more line below a table."""
    before = f"{table.caption}\n" if table.caption else ""
    table.caption = Text(f"{before}{remark}", style="italic")
    table.caption_justify = "left"


def runs_table(
    runs: Sequence[RunMetrics],
    groups: Sequence[SeedGroup] = (),
    references: Sequence[RunMetrics] = (),
    heads: Mapping[str, str] = HEADS,
) -> Table:
    """The metrics of several runs, a row each; below those of a group of seeds their mean, and at last the references.

    Where the runs are not all scored by the same, each says by what.
    """
    kinds = list(dict.fromkeys(one.scored_by for one in runs))
    noun = noun_of(kinds[0]) if len(kinds) == 1 else "score"
    table = plain_table()
    _explain(table, kinds)
    table.add_column("run", overflow="fold", min_width=18)
    for head in heads.values():
        table.add_column(head.format(noun=noun), justify="right", no_wrap=True)

    def add(
        label: str, values: Iterable[float | None], scored_by: str, *, signed: bool = True, style: str = ""
    ) -> None:
        shown = _cell if signed else lambda _, value, kind: Text(show_score(value, kind))
        cells = [shown(name, value, scored_by) for name, value in zip(heads, values, strict=True)]
        table.add_row(Text(label), *cells, style=style)

    group_of = {run: group for group in groups for run in group.runs}
    in_order = [group_of.get(one.run) or SeedGroup([one.run], {}) for one in runs]
    by_name = {one.run: one for one in runs}
    for group in {id(one): one for one in in_order}.values():
        if group.metrics:
            table.add_section()
        if group.label:
            table.add_row(Text(group.label, style="italic"))
        for one in (by_name[name] for name in group.runs):
            label = one.run if len(kinds) == 1 else f"{one.run} ({one.scored_by})"
            add(label, [one.metrics[name].value for name in heads], one.scored_by)
        if group.metrics:
            kind = by_name[group.runs[0]].scored_by
            over_seeds = [group.metrics[name] for name in heads]
            add(f"mean of {len(group.runs)} seeds", [one.mean for one in over_seeds], kind, style="bold")
            add("± std", [one.std for one in over_seeds], kind, signed=False)
            intervals = [one.interval for one in over_seeds]
            if any(intervals):
                add("95 % interval from", [one.low if one else None for one in intervals], kind)
                add("95 % interval to", [one.high if one else None for one in intervals], kind)
            if any(one and one.cut for one in intervals) and CUT not in str(table.caption):
                _remark(table, CUT)
            table.add_section()
    if references:
        table.add_section()
    for one in references:
        add(f"{one.role}: {one.run}", [one.metrics[name].value for name in heads], one.scored_by)
    return table


def paired_table(
    compared: Mapping[str, Mapping[str, Paired]], kind_of: Callable[[str], str], further: str = SIGNS
) -> Table:
    """Methods against the same other one: of each, under its name, a row per metric that there are numbers of.

    Args:
        kind_of: what the scores are that a metric, by its name, is taken of.
        further: what is said besides where lower scores are better.
    """
    table = plain_table()
    _explain(table, (kind_of(name) for metrics in compared.values() for name in metrics), further)
    table.add_column("method", overflow="fold")  # the one that gives way where a label is long
    several = len(compared) > 1
    for head in ("mean", "against", "diff.", "95 % interval", "p", *(["Holm"] if several else [])):
        table.add_column(head, justify="right", no_wrap=True)
    for method, metrics in compared.items():
        table.add_section()
        table.add_row(Text(method, style="bold"))
        for name, one in metrics.items():
            kind = kind_of(name)
            means = [_cell(name, value, kind) for value in one.means or ()]
            interval = show_interval(one.interval, kind) if one.interval else ""
            tested = [f"{p:.3f}" for p in (one.p, one.holm if several else None) if p is not None]
            cells: list[RenderableType] = [*means, show_score(one.mean, kind, signed=True), interval, *tested]
            p = one.holm if several else one.p
            sure = p is not None and p < 0.05
            table.add_row(Text(f"  {name_of(name, kind)}"), *cells, style="bold" if sure else "")
    return table


def _cell(metric: str, value: float | None, scored_by: str) -> Text:
    """A metric of continual learning; where it is a mean of scores between 0 and 1, as warm as it is good."""
    style = Style()
    if value is not None and metric in MEANS and scored_by not in UNBOUNDED:
        style = heat(1 - value if scored_by in LOWER_IS_BETTER else value)
    return Text(show_score(value, scored_by, signed=metric in SIGNED), style)


def wide_table(
    heads: Sequence[str],
    rows: Sequence[tuple[Text, Sequence[Text]]],
    width: int,
    *,
    gap: int = 2,
    head_width: int = 1000,
    apart: int = 0,
) -> list[Table]:
    """A table of rows with labels in at most ``width`` characters; columns that do not fit go on in another one below.

    Args:
        head_width: where a longer head is broken; one may also have several lines.
        apart: how many of the last rows a line sets apart.
    """
    label_width = min(LABEL_WIDTH, max(len(label) for label, _ in rows))
    parts: list[list[int]] = [[]]
    free = width - label_width
    for column, head in enumerate(heads):
        longest_line = min(head_width, max(len(line) for line in head.split("\n")))
        needed = gap + max(longest_line, *(len(cells[column]) for _, cells in rows))
        if needed > free and parts[-1]:
            parts.append([])
            free = width - label_width
        parts[-1].append(column)
        free -= needed
    tables = []
    for columns in parts:
        table = plain_table(gap)
        table.add_column(no_wrap=True, overflow="ellipsis", width=label_width)
        for column in columns:
            table.add_column(Text(heads[column]), justify="right", overflow="fold", max_width=head_width)
        for place, (label, cells) in enumerate(rows):
            if apart and place == len(rows) - apart:
                table.add_section()
            table.add_row(label, *(cells[column] for column in columns))
        tables.append(table)
    return tables


def plain_table(gap: int = 2) -> Table:
    """An empty table as all are drawn."""
    # The box itself puts one space between columns.
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, gap - 1), header_style="bold")


def scores_table(tested: Mapping[str, tuple[Mapping[str, float], int]]) -> Table:
    """Scores of one model: task -> (score by metric, number of examples)."""
    table = Table("task", box=None, pad_edge=False)
    metrics = list(dict.fromkeys(metric for scores, _ in tested.values() for metric in scores))
    _explain(table, metrics, further="")
    for metric in metrics:
        table.add_column(metric.replace("_", " "), justify="right")
    table.add_column("examples", justify="right")
    for task, (scores, examples) in tested.items():
        shown = (show_score(scores.get(metric), metric) for metric in metrics)
        table.add_row(task, *shown, f"{examples:,}")
    return table


def checked_table(checked: Sequence[Checked]) -> Table:
    """What `clkit doctor` found of a run, in the order in which it looked."""
    table = plain_table()
    table.add_column("of the run", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("what was found", overflow="fold")
    for found in checked:
        state = Text(found.state, style=STATES.get(found.state, "yellow"))
        table.add_row(Text(found.path), state, Text(found.note))
    return table

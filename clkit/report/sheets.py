"""Tables for papers and pages: Markdown, LaTeX (booktabs) and CSV of what the terminal shows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from statistics import fmean, stdev
from typing import NamedTuple

from clkit.report.general_tables import kind_of
from clkit.report.pairs import Comparison
from clkit.report.runs import ComparedRuns, RunResult
from clkit.report.tables import CHANCE, CUT, HEADS, LOWER, MISSING, SIGNED, name_of, show_score
from clkit.results.kinds import LOWER_IS_BETTER
from clkit.results.matrix import AccuracyMatrix

_LATEX = {mark: rf"\{mark}" for mark in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    MISSING: "--",
    "−": "$-$",
}


class Cell(NamedTuple):
    """A number or a word; ``spread`` is what follows ±."""

    text: str
    spread: str = ""
    best: bool = False


class Sheet(NamedTuple):
    """A table whose first ``words`` columns hold words; ``about`` says in a sentence what it holds."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    about: str
    words: int = 1


def rendered(sheet: Sheet, form: str) -> str:
    """The table as `markdown`, `latex` or `csv`."""
    return {"markdown": _markdown, "latex": _latex, "csv": _csv}[form](sheet)


def _markdown(sheet: Sheet) -> str:
    def shown(cell: Cell) -> str:
        text = f"{cell.text} ± {cell.spread}" if cell.spread else cell.text
        text = text.replace("\\", r"\\").replace("|", r"\|")
        return f"**{text}**" if cell.best else text

    marks = [":--"] * sheet.words + ["--:"] * (len(sheet.heads) - sheet.words)
    lines = [[shown(Cell(head)) for head in sheet.heads], marks, *(map(shown, row) for row in sheet.rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{sheet.about}\n"


def _latex(sheet: Sheet) -> str:
    def escaped(text: str) -> str:
        text = re.sub(r"(?<![\w-])-(?=\d)", "−", text)  # a minus, and not the hyphen of a name
        return "".join(_LATEX.get(mark, mark) for mark in text)

    def shown(cell: Cell) -> str:
        text = escaped(f"{cell.text} ± {cell.spread}" if cell.spread else cell.text)
        return rf"\textbf{{{text}}}" if cell.best else text

    columns = "l" * sheet.words + "r" * (len(sheet.heads) - sheet.words)
    head, *rows = (" & ".join(map(shown, row)) + r" \\" for row in ([Cell(one) for one in sheet.heads], *sheet.rows))
    lines = [
        rf"% {sheet.about}; needs \usepackage{{booktabs}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _csv(sheet: Sheet) -> str:
    spread = [any(row[column].spread for row in sheet.rows) for column in range(len(sheet.heads))]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        name for head, both in zip(sheet.heads, spread, strict=True) for name in (head, f"{head} std")[: 1 + both]
    )
    for row in sheet.rows:
        cells = ((cell.text, cell.spread)[: 1 + both] for cell, both in zip(row, spread, strict=True))
        writer.writerow("" if one == MISSING else one for cell in cells for one in cell)
    return text.getvalue()


def results_sheet(compared: ComparedRuns) -> Sheet:
    """Of one run its matrix; of several a row per method or run, seeds as mean ± standard deviation."""
    if len(compared.runs) == 1:
        return _matrix_sheet(compared.runs[0].matrix)
    kinds = {run.matrix.metric for run in compared.runs}
    noun = next(iter(kinds)) if len(kinds) == 1 else "score"
    lines = [*_lines(compared)]
    columns = {name: (_head(name, noun), kinds) for name in HEADS}
    for run in compared.runs:
        columns |= {key: (f"general {key.replace('_', ' ')}", {kind_of(key) or ""}) for key in run.final}
    columns = {name: column for name, column in columns.items() if any(values.get(name) for _, _, values in lines)}
    alike = len({frozenset(zip(run.matrix.tasks, run.matrix.counts, strict=True)) for run in compared.runs}) == 1
    best = {
        name: _best(name, of, [values.get(name) for _, n, values in lines if n]) if alike else None
        for name, (_, of) in columns.items()
    }
    rows = [
        [
            Cell(label),
            Cell(str(n or "")),
            *(
                one._replace(best=n > 0 and one.text == best[name]) if (one := values.get(name)) else Cell(MISSING)
                for name in columns
            ),
        ]
        for label, n, values in lines
    ]
    heads = ["method", "seeds", *(head for head, _ in columns.values())]
    return Sheet(heads, rows, f"{noun}{_unit(compared.runs[0].matrix)}; mean ± standard deviation over seeds")


def _lines(compared: ComparedRuns) -> Iterator[tuple[str, int, dict[str, Cell | None]]]:
    """Label, number of seeds (0 of what is only compared with), metrics and general ability of each line."""
    by_name = {run.name: run for run in compared.runs}
    groups = {name: group for group in compared.means for name in group.runs}
    for run in [one for one in compared.runs if not one.matrix.in_progress] or compared.runs:
        group, kind = groups.get(run.name), run.matrix.metric
        if group is None:
            values = {name: _cell(name, run.metrics[name].value, None, kind) for name in HEADS}
            yield run.name, 1, values | _general([run])
        elif run.name == group.runs[0]:
            label = group.label or f"{run.name} and {len(group.runs) - 1} more"
            found = {name: group.metrics[name] for name in HEADS}
            values = {name: _cell(name, one.mean, one.std, kind) for name, one in found.items()}
            yield label, len(group.runs), values | _general([by_name[name] for name in group.runs])
    for one in compared.baselines():
        values = {name: _cell(name, one.metrics[name].value, None, one.scored_by) for name in HEADS}
        yield f"{one.role}: {one.run}", 0, values


def _general(runs: Sequence[RunResult]) -> dict[str, Cell | None]:
    """What is left of each measure that all of the runs have."""
    found = {}
    for key in runs[0].final:
        values = [value for run in runs if (value := run.final.get(key)) is not None]
        if len(values) == len(runs):
            found[key] = _cell(key, fmean(values), stdev(values) if len(values) > 1 else None, kind_of(key) or "")
    return found


def _cell(name: str, value: float | None, std: float | None, kind: str) -> Cell | None:
    if value is None:
        return None
    return Cell(show_score(value, kind, signed=name in SIGNED), "" if std is None else show_score(std, kind))


def _best(name: str, kinds: set[str], cells: Sequence[Cell | None]) -> str | None:
    """What the best of at least two numbers looks like; none where they are of different kinds."""
    numbers = {float(cell.text): cell.text for cell in cells if cell}
    if len(kinds) > 1 or len(numbers) < 2:
        return None
    lower = name == "forgetting" or (name not in SIGNED and kinds <= LOWER_IS_BETTER)
    return numbers[min(numbers) if lower else max(numbers)]


def _matrix_sheet(matrix: AccuracyMatrix) -> Sheet:
    learned = {"multi_task": "learned together", "per_task": "{} alone"}.get(matrix.protocol, "after {}")
    rows = [] if matrix.zero_shot is None else [("zero-shot", matrix.zero_shot)]
    rows += [(learned.format(task), row) for task, row in zip(matrix.tasks, matrix.rows, strict=False)]
    rows += [(CHANCE[guess], row) for guess, row in matrix.guesses.items()]
    cells = [[Cell(label), *(Cell(show_score(score, matrix.metric)) for score in row)] for label, row in rows]
    return Sheet(["", *matrix.tasks], cells, f"{matrix.metric}{_unit(matrix)}; a row per task learned")


def _head(metric: str, scored_by: str) -> str:
    return metric.upper() if metric in SIGNED else name_of(metric, scored_by).replace("_", " ")


def _unit(matrix: AccuracyMatrix) -> str:
    return f"{' in percent' if matrix.is_fraction else ''}{'' if matrix.higher_is_better else f' ({LOWER})'}"


def comparison_sheet(compared: Sequence[Comparison]) -> Sheet:
    """A row per method and metric that there are numbers of."""
    heads = ("method", "metric", "pairs", "mean", f"{compared[0].against}", "difference", "from", "to", "p", "p (Holm)")
    kind = compared[0].scored_by
    rows = [
        [
            Cell(one.method),
            Cell(_head(name, of)),
            Cell(str(found.n)),
            *(Cell(show_score(value, of, signed=name in SIGNED)) for value in found.means or ()),
            Cell(show_score(found.mean, of, signed=True)),
            *(Cell(show_score(end, of)) for end in (found.interval or (None, None))[:2]),
            *(Cell(MISSING if p is None else f"{p:.3f}") for p in (found.p, found.holm)),
        ]
        for one in compared
        for name, of, found in one.numbers()
    ]
    about = f"{kind}; against {compared[0].against}, over pairs of runs; 95 % t-interval, p of a sign-flip test"
    if any(found.interval and found.interval.cut for one in compared for _, _, found in one.numbers()):
        about += f"; {CUT}"
    return Sheet(heads, rows, about, words=2)

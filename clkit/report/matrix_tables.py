"""The matrix of one run, for the terminal: a table with warm and cold cells, and a curve for each task."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from clkit.report.heat import GAP, goodness, heat, sparkline
from clkit.report.tables import BASELINES, CHANCE, LABEL_WIDTH, LOWER, plain_table, show_score, wide_table
from clkit.results.kinds import Row
from clkit.results.matrix import AccuracyMatrix


def matrix_table(matrix: AccuracyMatrix, width: int) -> RenderableType:
    """The matrix in at most ``width`` characters: a row per task learned, a column per task tested.

    A baseline has one score per task, and so a row per task tested. In a sequence, where the tasks' names do not fit as
    heads, their numbers stand there; where that is still too wide, scores lose a decimal; and where even that is, the
    columns go on in another table below.
    """
    unit = f"{' in percent' if matrix.is_fraction else ''}{'' if matrix.higher_is_better else f' ({LOWER})'}"
    if matrix.protocol != "sequential":
        about, head = BASELINES[matrix.protocol]
        return Group(Text(f"{matrix.metric}{unit}; {about}\n", style="italic"), _baseline_table(matrix, head))
    title = Text(f"{matrix.metric}{unit}; a row per task learned, a column per task tested\n", style="italic")
    by_name, by_number = (_sequence_tables(matrix, width, numbered=numbered) for numbered in (False, True))
    narrow = _sequence_tables(matrix, width, numbered=True, narrow=True)
    return Group(title, *next((tables for tables in (by_name, by_number, narrow) if len(tables) == 1), by_number))


def _baseline_table(matrix: AccuracyMatrix, head: str) -> Table:
    table = plain_table()
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=LABEL_WIDTH)
    rows = {"zero-shot": matrix.zero_shot} | ({head: matrix.outcome} if head else {})
    columns = {name: row for name, row in rows.items() if row is not None}
    columns |= {CHANCE[guess]: row for guess, row in matrix.guesses.items()}
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for index, task in enumerate(matrix.tasks):
        scores = [show_score(row[index], matrix.metric) for row in columns.values()]
        table.add_row(Text(task), *scores)
    return table


def _sequence_tables(matrix: AccuracyMatrix, width: int, *, numbered: bool, narrow: bool = False) -> list[Table]:
    """One way to show a matrix: tasks by name or by number, with more or fewer decimals."""
    tasks = list(enumerate(matrix.tasks, start=1))
    # Tasks still to be learned have a row of dashes: it tells their names where the heads are numbers.
    pending: list[Row] = [[None] * len(tasks)] * (len(tasks) - len(matrix.rows))
    rows = [
        (number, f"{number if numbered else 'after'} {task}", row)
        for (number, task), row in zip(tasks, [*matrix.rows, *pending], strict=True)
    ]
    if matrix.zero_shot is not None:
        rows.insert(0, (0, "zero-shot", matrix.zero_shot))
    share = goodness(matrix)
    labelled = []
    for learned, label, row in rows:
        cells = [
            Text(show_score(score, matrix.metric, narrow=narrow), style=_style(share(score), learned, task))
            for task, score in enumerate(row, start=1)
        ]
        labelled.append((Text(label, style="dim" if learned > len(matrix.rows) else ""), cells))
    for guess, row in matrix.guesses.items():
        cells = [Text(show_score(score, matrix.metric, narrow=narrow), style="dim") for score in row]
        labelled.append((Text(CHANCE[guess], style="dim"), cells))
    for column in zip(*(cells for _, cells in labelled), strict=True):
        for cell in column:  # so that colours are as wide as their column
            cell.pad_left(max(map(len, column)) - len(cell))
    heads = [str(number) if numbered else task for number, task in tasks]
    return wide_table(heads, labelled, width, gap=1 if numbered else 2, apart=len(matrix.guesses))


def _style(share: float | None, learned: int, task: int) -> Style:
    """Warm where the score is good; what was just learned is emphasised."""
    if share is None:
        return Style(dim=True)
    return heat(share) + Style(bold=task == learned)


def curves_table(matrix: AccuracyMatrix, width: int) -> RenderableType | None:
    """How each task's score went from stage to stage, beside what is left of it; nothing of a run of one stage."""
    share = goodness(matrix)
    rows = [*([matrix.zero_shot] if matrix.zero_shot else []), *matrix.rows]
    if matrix.protocol != "sequential" or len(rows) < 2:
        return None
    table = plain_table()
    table.add_column("task", no_wrap=True, overflow="ellipsis", max_width=LABEL_WIDTH)
    table.add_column("curve", no_wrap=True)
    for head in ("learned", "now", "difference"):
        table.add_column(head, justify="right", no_wrap=True)
    most = max(width - LABEL_WIDTH - 30, 8)
    for place, task in enumerate(matrix.tasks[: len(matrix.rows)]):
        learned, now = matrix.rows[place][place], matrix.rows[-1][place]
        change = None if learned is None or now is None else now - learned
        curve = sparkline([share(row[place]) for row in rows], most)
        scores = (show_score(score, matrix.metric) for score in (learned, now))
        table.add_row(Text(task), curve, *scores, show_score(change, matrix.metric, signed=True))
    about = f"from stage to stage, higher is better; {GAP} not measured"
    return Group(Text(f"{about}\n", style="italic"), table)

"""All that a page shows of runs, gathered from their folders and ready to be laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clkit.errors import ClkitError
from clkit.report.answers import Example, chosen
from clkit.report.general_tables import GeneralAbility, general_rows, general_unit
from clkit.report.page.charts import Plot
from clkit.report.page.curves import Kept, kept_of_tasks, kept_plot, task_curves, term_plots
from clkit.report.page.heat import Heat, heat
from clkit.report.page.loud import Loud, read_loud
from clkit.report.page.settings import Setting, own_settings
from clkit.report.page.sides import Rows, SideBySide, side_by_side
from clkit.report.page.words import counted, run_summary, runs_summary
from clkit.report.pairs import Compared
from clkit.report.runs import RunResult, compare_runs
from clkit.report.tables import SIGNED, name_of, show_score
from clkit.results.matrix import AccuracyMatrix
from clkit.run.baselines import Reference
from clkit.run.folder import RunFolder
from clkit.run.layout import MEASURED
from clkit.run.seal import Done

#: Forgotten examples that a page holds at most, of all its runs, and the characters of a text that it shows.
EXAMPLES, CHARACTERS = 400, 500
HEADLINES = frozenset({"average_accuracy", "bwt", "forgetting", "learning_accuracy"})
#: What each metric says, in words.
MEANINGS = {
    "average_accuracy": "what all tasks are worth at the end, each counting the same",
    "average_accuracy_micro": "the same, each task counting as much as it has test examples",
    "bwt": "backward transfer: what learning later tasks did to earlier ones; below 0 they were forgotten",
    "fwt": "forward transfer: what learning earlier tasks did for one that is not yet learned",
    "forgetting": "how far each task fell from its best",
    "learning_accuracy": "how well each task was known when it was just learned",
    "intransigence": "what learning one after another cost, against a model for each task",
    "upper_bound_distance": "how far the end is from learning all tasks together",
    "forgetting_outside_labels": "the part of forgetting that is answers which are no label of the task",
    "forgetting_among_labels": "the part of forgetting that is wrong labels of the right task",
}


class MetricRow(NamedTuple):
    """A metric, what it is computed by, and why it has no value; ``headline`` where it belongs at the top."""

    name: str
    headline: bool
    value: str
    formula: str
    note: str | None
    meaning: str


class Forgotten(NamedTuple):
    """An example that was right when its task was learned and is wrong now."""

    run: str
    task: str
    place: str
    text: str
    gold: str
    then: str
    now: str
    lost_in: str


@dataclass(frozen=True)
class RunView:
    """One run.

    Attributes:
        id: what its sections' anchors begin with.
        facts: what it is, a few names with their values.
        lost: how many examples it forgot in all; None where that is unknown, for the reason in ``unread``.
    """

    id: str
    name: str
    result: RunResult
    facts: list[tuple[str, str]]
    summary: list[str]
    heat: Heat
    curves: list[Plot]
    kept: list[Kept]
    kept_plot: Plot | None
    terms: list[Plot]
    metrics: list[MetricRow]
    general: tuple[list[str], Rows, str] | None
    loud: Loud | None
    forgotten: list[Forgotten]
    lost: int | None
    unread: str
    recipe: str
    settings: list[Setting]
    unknown_defaults: str
    read: list[tuple[str, str]]
    environment: list[tuple[str, str]]
    stages: list[list[str]]


@dataclass(frozen=True)
class Page:
    """A page, of one run or of several."""

    title: str
    summary: list[str]
    runs: list[RunView]
    sides: SideBySide | None
    kept: list[Kept]
    kept_plot: Plot | None
    remarks: list[str]

    @property
    def forgotten(self) -> list[Forgotten]:
        return [one for run in self.runs for one in run.forgotten]


def gather(folders: Sequence[RunFolder], references: Sequence[Reference], metric: str | None) -> Page:
    """Read all that a page shows.

    Raises:
        RunError: a run has no scores, or is damaged so that none can be read.
        UsageError: a run has none of that metric, or a reference does not fit.
    """
    matrices, remarks = {}, []
    for folder in folders:
        matrix, damage, notes = folder.scores(metric)
        matrices[str(folder.path)] = (folder, matrix)
        remarks += [*damage, *notes]
    compared = compare_runs(matrices, references)
    remarks += compared.remarks
    names = run_names([folder for folder, _ in matrices.values()])
    share = max(1, EXAMPLES // len(names))
    runs = [
        _view(f"run-{place}", name, folder, result, share)
        for place, (name, (folder, _), result) in enumerate(
            zip(names, matrices.values(), compared.runs, strict=True), 1
        )
    ]
    # Scores of likelihood, which have no examples to forget, are no fractions.
    remarks += [f"no examples of {run.name}: {run.unread}" for run in runs if run.unread and _answered(run)]
    several = len(runs) > 1
    title = f"{counted(len(runs), 'run').capitalize()} side by side" if several else runs[0].name
    summary = runs[0].summary
    if several:
        named = zip(names, matrices.values(), strict=True)
        shown = [Compared(name, run.recipe(), matrix) for name, (run, matrix) in named]
        summary = runs_summary(shown, compared.paired, compared.remarks)
    kept = _kept_of_runs(runs) if several else []
    drawing = kept_plot(kept, runs[0].result.matrix, "run") if len(kept) > 1 else None
    return Page(title, summary, runs, side_by_side(compared, names) if several else None, kept, drawing, remarks)


def run_names(folders: Sequence[RunFolder]) -> list[str]:
    """What runs are called: by their folders' names, or where two have the same, by as much of the path as it takes."""
    paths = [folder.path.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, paths)) + 1):
        names = [str(Path(*parts[-depth:])) for parts in paths]
        if len(set(names)) == len(names):
            break
    return names


def _view(anchor: str, name: str, folder: RunFolder, result: RunResult, share: int) -> RunView:
    matrix = result.matrix
    kept = kept_of_tasks(matrix)
    forgotten, lost, unread = _forgotten(folder, name, share) if matrix.protocol == "sequential" else ([], None, "")
    settings, unknown_defaults = own_settings(folder)
    environment = folder.environment()
    general = result.general
    return RunView(
        id=anchor,
        name=name,
        result=result,
        facts=_facts(folder, matrix, environment),
        summary=run_summary(result),
        heat=heat(matrix),
        curves=task_curves(matrix),
        kept=kept,
        kept_plot=kept_plot(kept, matrix, "task") if len(kept) > 1 else None,
        terms=term_plots(folder.log.read()),
        metrics=_metrics(result),
        general=_general(general) if general else None,
        loud=read_loud(folder),
        forgotten=forgotten,
        lost=lost,
        unread=unread,
        recipe=_text(folder),
        settings=settings,
        unknown_defaults=unknown_defaults,
        read=[(key, _said(value)) for key, value in environment.get("read", {}).items()],
        environment=_environment(environment),
        stages=_stages(folder),
    )


def _answered(run: RunView) -> bool:
    """Whether there are answers of the run to be shown."""
    return bool(run.result.matrix.rows) and run.result.matrix.is_fraction


def _general(general: GeneralAbility) -> tuple[list[str], Rows, str]:
    heads, rows = general_rows(general)
    return heads, [[label, *cells] for label, cells in rows], general_unit(general)


def _text(folder: RunFolder) -> str:
    try:
        return folder.recipe_yaml()
    except ClkitError as error:
        return str(error)


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _facts(folder: RunFolder, matrix: AccuracyMatrix, environment: dict[str, Any]) -> list[tuple[str, str]]:
    """What kind of run it is."""
    try:
        recipe = folder.recipe()
    except ClkitError:
        recipe = {}
    sections = {key: value for key, value in recipe.items() if isinstance(value, dict)}
    listed = recipe.get("strategies")
    strategies = [str(one.get("name")) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    facts = {
        "model": sections.get("model", {}).get("name"),
        "tasks": f"{len(matrix.tasks)}, {matrix.protocol.replace('_', ' ')}",
        "strategies": " + ".join(strategies) or "none (plain tuning)",
        "tuning": sections.get("tuning", {}).get("method"),
        "objective": sections.get("objective", {}).get("kind", "").replace("_", " "),
        "seed": recipe.get("seed"),
        "began": str(environment.get("started", "")).replace("T", " ")[:16],
    }
    if MEASURED in environment:
        facts |= {"strategies": None, "tuning": None, "trained by": "another program (clkit measure)"}
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _metrics(result: RunResult) -> list[MetricRow]:
    metric = result.matrix.metric
    return [
        MetricRow(
            name.upper() if name in SIGNED else name_of(name, metric).replace("_", " "),
            name in HEADLINES,
            show_score(one.value, metric, signed=name in SIGNED),
            one.formula,
            one.note,
            MEANINGS.get(name, ""),
        )
        for name, one in result.metrics.items()
    ]


def _forgotten(folder: RunFolder, name: str, share: int) -> tuple[list[Forgotten], int | None, str]:
    """The first forgotten examples of each task, their number in all, and why none could be read."""
    try:
        stage, examples = chosen(folder, None, None, wrong=False, forgotten=True)
    except ClkitError as error:
        return [], None, str(error)
    tasks = dict.fromkeys(one.task for one in examples)
    each = max(1, share // max(1, len(tasks)))
    shown = [one for task in tasks for one in [one for one in examples if one.task == task][:each]]
    return [_example(name, stage, one) for one in shown[:share]], len(examples), ""


def _example(run: str, stage: str, one: Example) -> Forgotten:
    then, now = (one.answers[when]["prediction"] for when in (one.task, stage))
    place = Path(one.place).name if one.place else f"example {one.index}"
    text, gold, said, says = (_cut(text) for text in (one.text, one.gold, then, now))
    return Forgotten(run, one.task, place, text, gold, said, says, one.lost_in or "")


def _cut(text: str | None) -> str:
    if text is None:
        return "(not kept)"
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"


def _environment(environment: dict[str, Any]) -> list[tuple[str, str]]:
    command = environment.get("command")
    said: dict[str, Any] = {"command": " ".join(map(str, command)) if isinstance(command, list) else None}
    said |= {key: environment.get(key) for key in ("started", "platform", "cpus")}
    said |= environment.get("versions", {})
    formers = len(environment.get("former_recipes", {}))
    said["grown"] = f"{counted(formers, 'time')}, with further tasks" if formers else None
    return [(key, str(value)) for key, value in said.items() if value]


def _stages(folder: RunFolder) -> list[list[str]]:
    """Of each finished stage its name, steps, and seconds of training and testing."""
    rows = []
    for stage in folder.stage_folders():
        try:
            payload = Done.read(stage.path).payload
        except ClkitError:
            continue
        numbers = [("steps", "{:,}"), ("training_seconds", "{:,.1f}"), ("evaluation_seconds", "{:,.1f}")]
        rows.append([stage.name, *(form.format(payload[key]) if key in payload else "–" for key, form in numbers)])
    return rows


def _kept_of_runs(runs: Sequence[RunView]) -> list[Kept]:
    """Each finished run's average, just learned and at the end, where all have the same tasks and metric."""
    if len({(run.result.matrix.metric, tuple(sorted(run.result.matrix.tasks))) for run in runs}) > 1:
        return []
    kept = []
    for run in runs:
        learned, left = (run.result.metrics[name].value for name in ("learning_accuracy", "average_accuracy"))
        if learned is not None and left is not None:
            kept.append(Kept(run.name, learned, left))
    return kept

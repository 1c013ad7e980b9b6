"""Carries out a suite: what its folder lacks, and nothing twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clkit.errors import ClkitError, InterruptionError
from clkit.recipe.recipe import Recipe
from clkit.run.comparison import read_otherwise
from clkit.run.folder import RunFolder
from clkit.run.lock import locked
from clkit.suites.engine import Engine
from clkit.suites.job import Job
from clkit.suites.planning import PlannedRun, PlannedSuite, Rates
from clkit.suites.rates import Choice, choose_rates
from clkit.suites.state import refuse_others, remarks_of, state_of


class Failed(NamedTuple):
    """A run that failed, and why in one line."""

    run: PlannedRun
    log: Path
    reason: str


class Swept(NamedTuple):
    """What a sweep came to.

    Attributes:
        runs: those that are tested, finished or not.
        rates: what was chosen for each method, where the suite chooses.
    """

    runs: list[PlannedRun]
    failed: list[Failed]
    rates: Mapping[str, Choice]


class SweepListener:
    """Hears what happens in a sweep. Every method may be overridden; none needs to be."""

    def noted(self, remark: str) -> None:
        """Something that the user should know, in one line."""

    def started(self, runs: Sequence[PlannedRun], due: int) -> None:
        """Runs are carried out, of which so many are not finished."""

    def ended(self, run: PlannedRun, failed: Failed | None) -> None:
        """A run ended."""

    def chosen(self, method: str, choice: Choice | None) -> None:
        """A method's rate is chosen; None where a run by which it is chosen failed."""

    def finished(self) -> None:
        """The sweep ended, well or badly. Give the terminal back."""


def sweep(planned: PlannedSuite, folder: Path, engine: Engine, listener: SweepListener) -> Swept:
    """Carry out the runs of a suite that are not finished.

    A run that fails stops no other.

    Raises:
        UsageError: a folder holds the run of another recipe.
        RunError: another sweep writes into the folder.
        InterruptionError: a signal asked for an end; the runs were asked to save what they did, and have ended.
    """
    with locked(folder, "--runs") as remark:
        engine.note = listener.noted
        if remark is not None:
            listener.noted(remark)
        try:
            return _sweep(planned, folder, engine, listener)
        except KeyboardInterrupt:
            raise InterruptionError("stopped; the runs saved what they did, and the same command goes on") from None
        finally:
            listener.finished()


def _sweep(planned: PlannedSuite, folder: Path, engine: Engine, listener: SweepListener) -> Swept:
    failed: list[Failed] = []
    choices: dict[str, Choice] = {}
    if planned.chooses_rates:
        failed += _carry_out(planned.validation_runs(), folder, engine, listener)
        choices = choose_rates(planned, folder)
        for method in planned.rates_to_try():
            listener.chosen(method, choices.get(method))
    runs = planned.runs(known_rates(planned, folder))
    return Swept(runs, failed + _carry_out(runs, folder, engine, listener), choices)


def known_rates(planned: PlannedSuite, folder: Path) -> Rates:
    """The rates of each method that is tested; those for which none can be chosen yet are left out."""
    if not planned.chooses_rates:
        return planned.rates_to_try()
    return {method: [choice.rate] for method, choice in choose_rates(planned, folder).items()}


def _carry_out(runs: Sequence[PlannedRun], folder: Path, engine: Engine, listener: SweepListener) -> list[Failed]:
    """Carry out those of the runs that are not finished; the ones that failed."""
    refuse_others(folder, runs)
    due = [run for run in runs if state_of(folder / run.place).state != "finished"]
    listener.started(runs, len(due))
    jobs = {job_of(run, folder): run for run in due}
    failed = []
    told: dict[str, list[str]] = {}
    for job, failure in engine.carry_out(list(jobs)) if jobs else ():
        run = jobs[job]
        if not told.get(run.method):  # its other seeds say the same, or other counts of it
            said = {remark for remarks in told.values() for remark in remarks}
            told[run.method] = remarks_of(job.run)
            for remark in (remark for remark in told[run.method] if remark not in said):
                listener.noted(f"{run.place}: {remark}")
        if failure is not None:
            failed.append(Failed(run, job.log, failure))
        listener.ended(run, failed[-1] if failure is not None else None)
        if failure is None and (changed := _of_changed_data(run, runs, folder)):
            listener.noted(changed)
    return failed


def _of_changed_data(run: PlannedRun, runs: Sequence[PlannedRun], folder: Path) -> str:
    """A remark on a run that found other data than the first one that is finished, and should have found the same."""
    inputs = _inputs(run.recipe)
    alike = (one for one in runs if one is not run and _inputs(one.recipe) == inputs)
    first = next((one for one in alike if state_of(folder / one.place).state == "finished"), None)
    if first is None:
        return ""
    own, other = RunFolder(folder / run.place), RunFolder(folder / first.place)
    try:
        keys = read_otherwise(own.read(), other.read(), run.recipe.evaluation.split)
    except ClkitError:  # a damaged file, which whoever reads the runs is told of
        return ""
    if not keys:
        return ""
    return (
        f"{run.place} and {first.place}: what they read was changed in between ({', '.join(keys)}), so they do not "
        "compare; put it back, remove the runs that read something else, and sweep again"
    )


def _inputs(recipe: Recipe) -> tuple[Any, ...]:
    """What decides what a recipe reads, in whatever order."""
    return recipe.model, recipe.data, recipe.objective, {task.name: task for task in recipe.task_recipes()}


def job_of(run: PlannedRun, folder: Path) -> Job:
    """A run for an engine."""
    folder = folder.resolve()
    return Job(folder / run.place, tuple(run.command(folder)), folder, Path.cwd())

"""The stages of a run, one after another: each trained, tested, and kept when it is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from clkit.engine.failures import explained
from clkit.engine.fit import Fitted, fit
from clkit.engine.forgetting import kept_records
from clkit.engine.prepare import Prepared
from clkit.engine.protocols import PlannedStage, tests_first
from clkit.engine.resuming import Unfinished, mark_trained, tidy
from clkit.events import Listener, Plan
from clkit.models.loading import save_model
from clkit.processes import processes
from clkit.results.kinds import UNBOUNDED
from clkit.results.matrix import AccuracyMatrix
from clkit.results.scores import Guess, Tested, chance_of, chance_rows
from clkit.run.atomic import now, write_jsonl
from clkit.run.folder import RunFolder
from clkit.run.layout import PREDICTIONS, ZERO_SHOT
from clkit.run.scores import read_records
from clkit.tasks.task import Task
from clkit.testing.examiner import Examiner
from clkit.training.interruption import Interruption
from clkit.training.state import save_strategies


@dataclass(frozen=True)
class Start:
    """What a run starts from, all loaded and checked, and nothing written.

    Attributes:
        differing: keys of the recipe that differ from the run's, and do not decide the result of what it has.
        accepted: what is no longer as the run read it, in words.
    """

    prepared: Prepared
    unfinished: Unfinished | None = None
    differing: Sequence[str] = ()
    accepted: Sequence[str] = ()


class Stages:
    """One run in progress."""

    def __init__(self, start: Start, folder: RunFolder, listener: Listener, interruption: Interruption) -> None:
        self._interruption = interruption
        self._unfinished = start.unfinished
        self._read = start.prepared.read
        self._folder = folder
        self._listener = listener
        self._prepared = prepared = start.prepared
        self._recipe = recipe = prepared.recipe
        names = [task.name for task in prepared.tasks]
        self._between_batches = partial(interruption.check, "while testing")
        self._examiner = Examiner(prepared.tasks, recipe, self._between_batches, prepared.texts)
        self._header = AccuracyMatrix(
            tasks=names,
            metric=recipe.metric,
            higher_is_better=recipe.metric not in UNBOUNDED,
            counts=[self._examiner.examples(prepared.family, name) for name in names],
            protocol=recipe.protocol,
            chance=chance_rows([self._chance(task, place) for place, task in enumerate(prepared.tasks)]),
        ).header()
        self._main = processes().is_main_process

    def _chance(self, task: Task, place: int) -> dict[str, dict[Guess, float]]:
        """As the finished stages have it, where the training data are gone that tell the most frequent label."""
        if task.train:
            return self._examiner.chance(task.name)
        return chance_of(self._folder.stages()[-1].payload["matrix"]["chance"], place)

    def run(self) -> None:
        plan = self._plan()
        if self._main:
            self._folder.log.append({"event": "planned", "time": now(), **plan.outline()})
        self._listener.started(plan)
        finished = {stage.index for stage in self._folder.stages()}
        if finished:
            self._tidy()
        if tests_first(self._recipe) and 0 not in finished:
            self._zero_shot()
        for index, planned in enumerate(self._prepared.stages):
            if index + 1 in finished:
                self._listener.skipped(planned.name)
            else:
                self._learn(index, planned)

    def _plan(self) -> Plan:
        names = [task.name for task in self._prepared.tasks]
        payloads = {stage.name: stage.payload for stage in self._folder.stages()}
        # Of a run that has grown since, they are those of its first tasks.
        rows = {name: dict(zip(names, payload.get("row") or (), strict=False)) for name, payload in payloads.items()}
        return replace(self._prepared.plan(), rows=rows)

    def _zero_shot(self) -> None:
        """What the model can do before it learns: a row, None if only its general ability is measured."""
        stage = self._stage(0, ZERO_SHOT)
        names = [task.name for task in self._prepared.tasks]
        outcome: dict[str, Any] = {"row": None}
        if self._recipe.evaluation.zero_shot:
            outcome = self._evaluate(ZERO_SHOT, names, stage)
        self._finish(0, ZERO_SHOT, outcome | self._measure_general(ZERO_SHOT, 0))

    def _learn(self, index: int, planned: PlannedStage) -> None:
        begun = self._unfinished if self._unfinished and self._unfinished.index == index else None
        stage = begun.folder if begun else self._stage(index + 1, planned.name)
        if begun and begun.trained:
            fitted = begun.trained
            self._prepared.family.see(self._prepared.seen(index))
            self._listener.noted(f"{planned.name}: trained before, and tested now")
        else:
            fitted = self._train(index, planned, stage, begun)
        outcome = self._evaluate(planned.name, planned.tested, stage)
        outcome |= self._measure_general(planned.name, index + 1)
        self._finish(index + 1, planned.name, {**outcome, **asdict(fitted)})

    def _train(self, index: int, planned: PlannedStage, stage: Path, begun: Unfinished | None) -> Fitted:
        self._interruption.check(f"before '{planned.name}'")
        if index > 0 and planned.position == 0:  # the first stage has the model as it was loaded
            self._prepared.renew()
        fitted = fit(
            self._prepared,
            index,
            self._listener,
            self._folder,
            interruption=self._interruption,
            gone_on_from=begun.checkpoint if begun else None,
        )
        if self._main:
            save_model(self._prepared.family, stage)
            save_strategies(self._prepared.strategies, stage)
            mark_trained(stage, fitted)
        return fitted

    def _evaluate(self, stage_name: str, tested: Sequence[str], stage: Path) -> dict[str, Any]:
        """What `done.json` says of an evaluation: the row of the matrix, and those of the other metrics."""
        started = time.monotonic()
        outcomes: list[Tested] = []
        found: dict[str, dict[str, float]] = {}
        before = read_records(stage) if processes().num_processes == 1 else {}  # of a test that was interrupted
        for name in tested:
            known = self._examiner.read_back(name, before.get(name, []))
            outcomes.append(known or self._examiner.test(self._prepared.family, name, self._listener))
            found[name] = outcomes[-1].scores
            if self._main:
                kept = (kept_records(self._folder, outcome) for outcome in outcomes)
                write_jsonl(stage / PREDICTIONS, chain.from_iterable(kept))
            self._listener.scored(stage_name, name, found[name].get(self._recipe.metric))
        names = [task.name for task in self._prepared.tasks]
        metrics = dict.fromkeys(metric for scores in found.values() for metric in scores)
        rows = {metric: [found.get(name, {}).get(metric) for name in names] for metric in metrics}
        row = rows.get(self._recipe.metric, [None] * len(names))
        seconds = time.monotonic() - started
        self._listener.evaluated(stage_name, dict(zip(names, row, strict=True)), seconds)
        keys = [f"tasks.{name}.{self._recipe.evaluation.split}" for name in tested]
        read = {key: self._read[key] for key in keys}
        return {"row": row, "scores": rows, "read": read, "evaluation_seconds": seconds}

    def _measure_general(self, stage_name: str, finished: int) -> dict[str, Any]:
        """What `done.json` says of general ability when so many stages are finished; nothing where it is not due."""
        general = self._prepared.general
        if general is None or not general.is_due(finished, len(self._prepared.stages)):
            return {}
        started = time.monotonic()
        measured = general.measure(self._prepared.family, self._listener, self._between_batches)
        seconds = time.monotonic() - started
        self._listener.measured(stage_name, measured, seconds)
        return {"general": measured, "general_seconds": seconds}

    def _stage(self, index: int, name: str) -> Path:
        return self._folder.start_stage(index, name) if self._main else self._folder.stage_folder(index, name)

    def _finish(self, index: int, name: str, payload: Mapping[str, Any]) -> None:
        if self._main:
            self._folder.log.append({"event": "evaluated", "time": now(), "stage": name, **payload})
            self._folder.finish_stage(index, name, {**payload, "matrix": self._header})
        self._tidy()
        processes().wait_for_everyone()

    def _tidy(self) -> None:
        if self._main:
            tidy(self._folder, self._recipe, self._prepared.stages)


def carry_out(
    make: Callable[[RunFolder, Listener, Interruption], Stages], folder: RunFolder, listener: Listener
) -> RunFolder:
    """Run all stages, what fails explained where it can be.

    Raises:
        InterruptionError: a signal asked the run to stop, and all that it did is saved.
        ClkitError: the run failed; what was saved stays.
    """
    try:
        with Interruption() as interruption:
            make(folder, listener, interruption).run()
    except Exception as error:
        known = explained(error, folder.path)
        if known is None:
            raise
        raise known from error
    finally:
        listener.finished()
    return folder

"""Runs that other processes write: what their logs say, as it is written (`clkit watch`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from clkit.errors import ClkitError, RunError
from clkit.events import Plan
from clkit.report.course import Course
from clkit.report.progress import course_view, duration, evaluated_text, step_text
from clkit.report.tables import MISSING, plain_table, show_score
from clkit.run.atomic import event_line
from clkit.run.comparison import runs_in
from clkit.run.folder import RunFolder
from clkit.run.lock import Holder

State = Literal["running", "finished", "stopped"]
#: Seconds between two looks, and between two lines about the steps of one run.
EVERY, QUIET = 1.0, 10.0
Event = dict[str, Any]
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError)


def is_written(folder: Path) -> bool:
    """Whether a process holds the lock of a run's folder, or of a sweep's."""
    holder = Holder.of(folder)
    return holder is not None and not holder.is_gone()


class Watched:
    """One run, as far as its log says.

    Attributes:
        course: how far it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()

    def _begin(self) -> None:
        self._read: tuple[int, int] = (0, 0)  # the file's number, and bytes of it
        self._time = 0.0
        self.course = Course(lambda: self._time)

    def look(self) -> list[Event]:
        """What happened since the last look. A log that was replaced, as `--resume` does, is read from its start."""
        log = RunFolder(self.path).log.path
        events: list[Event] = []
        with suppress(FileNotFoundError), log.open("rb") as file:
            number, position = self._read
            status = log.stat()
            if position and (status.st_ino != number or status.st_size < position):
                self._begin()
                events.append({"event": "reread"})
                position = 0
            file.seek(position)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._read = (status.st_ino, position + len(whole) + len(newline))
            for text in whole.splitlines():
                for event in self._events(text):
                    with suppress(*_MALFORMED):  # another version of clkit wrote it
                        self._hear(event)
                    events.append(event)
            if events and events[-1]["event"] == "step":  # lines of steps do not say when they were
                self._time = status.st_mtime
                self.course.stepped(self.course.step)
        return events

    def _events(self, text: bytes) -> Iterator[Event]:
        """A line of the log as events, such as `clkit train --json-lines` prints them."""
        with suppress(*_MALFORMED, RecursionError):
            line = json.loads(text)
            if not isinstance(line, dict) or "event" not in line:
                return
            if line["event"] == "resumed":  # of which the log tells versions and command too
                yield {"event": "resumed", "time": line["started"]}
                return
            if line["event"] != "evaluated":
                yield line
                return
            same = {"time": line.get("time"), "stage": line["stage"]}
            tasks = self.course.plan.tasks if self.course.plan else ()
            row = dict(zip(tasks, line.get("row") or (), strict=False))
            yield {"event": "evaluated", **same, "row": row, "seconds": line.get("evaluation_seconds", 0.0)}
            if "general" in line:
                yield {"event": "measured", **same, "general": line["general"], "seconds": line["general_seconds"]}

    def _hear(self, event: Mapping[str, Any]) -> None:
        course = self.course
        if event.get("time"):
            self._time = datetime.fromisoformat(event["time"]).timestamp()
        match event["event"]:
            case "planned":
                outline = {key: value for key, value in event.items() if key not in ("event", "time")}
                course.started(Plan(examples=(), dropped=(), model={}, memory={}, rows=course.rows, **outline))
            case "task_started":
                course.task_started(event["task"], 0, event["steps"])
            case "goes_on":
                course.resumed(event["after"])
            case "step":
                if event["task"] != course.stage:  # its beginning was cut off, when it was gone on with
                    course.task_started(event["task"], 0, course.plan.steps[event["task"]] if course.plan else 0)
                course.step = event["step"]
                course.logged({key: value for key, value in event.items() if isinstance(value, int | float)})
            case "validated":
                course.validated(event["step"], float(event["validation_loss"]), event["best_step"])
            case "evaluated" if course.plan is not None:
                if event["stage"] == course.stage:
                    self._time -= event["seconds"]
                    course.stepped(course.steps)
                course.evaluated(event["stage"], event["row"], event["seconds"])
            case "measured" if course.plan is not None:
                course.measured(event["stage"], event["general"], event["seconds"])

    @property
    def state(self) -> State:
        if is_written(self.path):
            return "running"
        if self.course.is_finished:
            return "finished"
        with suppress(ClkitError):  # a log may be lost, and is not what counts
            if RunFolder(self.path).read_matrix().in_progress is None:
                return "finished"
        return "stopped"


class Watch:
    """All runs at some paths; a folder's may become more.

    Raises:
        RunError: there is nothing at a path, and nobody writes there.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.runs: dict[Path, Watched] = {}
        for path in paths:
            if not runs_in(path) and not is_written(path):
                raise RunError(f"{path}: no run there, and none that is about to begin; start one with `clkit train`")

    def look(self) -> Iterator[tuple[Watched, list[Event]]]:
        """Each run with what happened since the last look."""
        for place in [run for path in self._paths for run in runs_in(path)]:
            run = self.runs.setdefault(place, Watched(place))
            yield run, run.look()

    def goes_on(self) -> bool:
        """Whether any of the runs, or a sweep of them, goes on."""
        return any(map(is_written, self._paths)) or any(run.state == "running" for run in self.runs.values())


def follow(watch: Watch, tell: Callable[[Watched, list[Event]], None]) -> None:
    """Tell what happens until nothing goes on any more."""
    goes_on = True
    while goes_on:
        goes_on = watch.goes_on()  # before the last look, or what is written in between were missed
        for run, events in watch.look():
            tell(run, events)
        if goes_on:
            time.sleep(EVERY)


def watch_lines(watch: Watch, write: Callable[[str], None]) -> None:
    """Every event as a line of JSON with the run's path."""

    def tell(run: Watched, events: Iterable[Event]) -> None:
        for event in events:
            write(event_line({"run": str(run.path), **event}))

    follow(watch, tell)
    for run in watch.runs.values():
        write(event_line({"run": str(run.path), "event": run.state}))


def watch_in(console: Console, watch: Watch) -> None:
    """Show the runs in a terminal until they end, or say in lines what happens."""
    if console.is_terminal:

        def view() -> RenderableType:
            return watch_view(watch, console.width)

        with Live(console=console, get_renderable=view, refresh_per_second=2, transient=True):
            follow(watch, lambda run, events: None)
        console.print(view())
        return
    spoke: dict[Path, float] = {}

    def tell(run: Watched, events: Sequence[Event]) -> None:
        said = [*_lines(run, events)]
        if events and events[-1]["event"] == "step" and time.monotonic() - spoke.get(run.path, -QUIET) >= QUIET:
            said.append(step_text(run.course))
            spoke[run.path] = time.monotonic()
        for line in said:
            console.print(f"{run.path}: {line}", soft_wrap=True)

    follow(watch, tell)
    for run in watch.runs.values():
        console.print(f"{run.path}: {run.state}", soft_wrap=True)


def _lines(run: Watched, events: Iterable[Event]) -> Iterator[str]:
    metric = run.course.plan.metric if run.course.plan else ""
    for event in events:
        if event["event"] == "task_started":
            yield f"{event['task']}: {event['steps']} steps"
        elif event["event"] == "evaluated":
            yield evaluated_text(metric, event["stage"], event["row"], event["seconds"])


def watch_view(watch: Watch, width: int) -> RenderableType:
    """One run as `clkit train` shows it; of several a row each."""
    runs = [*watch.runs.values()]
    if len(runs) == 1:
        return Group(Text(f"{runs[0].path}: {runs[0].state}", style="bold"), course_view(runs[0].course, width))
    table = plain_table()
    table.add_column("run", overflow="fold")
    for head in ("state", "stages", "at work", "average", "left"):
        table.add_column(head, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(Text(str(run.path)), *_cells(run))
    ended = sum(run.state == "finished" for run in runs)
    return Group(table, Text(f"{ended} of {len(runs)} finished", style="italic"))


def _cells(run: Watched) -> list[str]:
    course, state = run.course, run.state
    if course.plan is None:
        return ["loading" if state == "running" else state, *[""] * 4]
    done, stages = course.stages_done()
    matrix = course.matrix()
    known = [score for score in matrix.rows[-1] if score is not None] if matrix and matrix.rows else []
    average = show_score(fmean(known) if known else None, course.plan.metric)
    left = course.left()
    at_work = f"{course.stage} {course.step}/{course.steps}" if state == "running" and course.stage else ""
    return [state, f"{done}/{stages}", at_work, average, duration(left) if state == "running" and left else MISSING]

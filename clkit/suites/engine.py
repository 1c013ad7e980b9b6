"""The contract of an engine, which carries out many runs, and where engines are found."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, NamedTuple

from clkit.errors import UsageError
from clkit.recipe.loading import overridden, validated
from clkit.recipe.written import COMMAND_LINE, Written
from clkit.section import Section
from clkit.suites import engines
from clkit.suites.job import Job
from clkit.wording import did_you_mean


class Ended(NamedTuple):
    """A job that ended.

    Attributes:
        failure: why, in one line, where it did not end well.
    """

    job: Job
    failure: str | None = None


class EngineOptions(Section):
    """An engine without options."""


class Engine(ABC):
    """Carries out jobs, several at a time. One file of `clkit/suites/engines/` holds one, under the file's name.

    Attributes:
        Options: what can be said with `--with KEY=VALUE`.
        jobs: how many runs may go on side by side; None: as many as there is room for.
        note: is told what the user should know, in one line.
    """

    Options: ClassVar[type[EngineOptions]] = EngineOptions

    def __init__(self, jobs: int | None, options: Any) -> None:
        self.jobs = jobs
        self.options = options
        self.note: Callable[[str], None] = lambda remark: None

    @abstractmethod
    def side_by_side(self, jobs: int) -> int:
        """How many of so many runs go on at a time, as far as that is known."""

    @abstractmethod
    def carry_out(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        """Yield each job when it has ended. A job that fails is no error; where this is closed early, all are stopped.

        Raises:
            ClkitError: the engine itself cannot work.
        """


class RemoteEngine(Engine):
    """An engine that hands jobs to something else, which carries them out, and holds a handle of each."""

    def carry_out(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        waiting, running = list(reversed(jobs)), dict[Any, Job]()
        most = self.side_by_side(len(jobs))
        try:
            while waiting or running:
                while waiting and len(running) < most:
                    job = waiting.pop()
                    running[self.submit(job)] = job
                for handle in self.wait(list(running)):
                    yield self.outcome(handle, running.pop(handle))
        finally:
            self.cancel(list(running))

    @abstractmethod
    def submit(self, job: Job) -> Any:
        """Hand a job over; its handle."""

    @abstractmethod
    def wait(self, handles: Sequence[Any]) -> Sequence[Any]:
        """Wait a while for some of the jobs to end; those that did."""

    @abstractmethod
    def outcome(self, handle: Any, job: Job) -> Ended:
        """How a job ended that did."""

    @abstractmethod
    def cancel(self, handles: Sequence[Any]) -> None:
        """Stop these jobs; each saves what it did."""


@cache
def engine_names() -> tuple[str, ...]:
    """The engines that there are."""
    return tuple(sorted(module.name for module in iter_modules(engines.__path__)))


def make_engine(name: str, jobs: int | None, options: Sequence[str]) -> Engine:
    """The engine of that name.

    Args:
        options: `KEY=VALUE` each.

    Raises:
        UsageError: there is none of that name, or what it needs is not installed.
        RecipeError: an option is wrong.
    """
    if name not in engine_names():
        known = engine_names()
        raise UsageError(f"no engine '{name}'{did_you_mean(name, known)} (engines: {', '.join(known)})")
    module = import_module(f"{engines.__name__}.{name}")
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    (engine,) = (value for value in own if issubclass(value, Engine))
    made: Engine = engine(jobs, validated(engine.Options, overridden(Written({}, COMMAND_LINE), options)))
    return made


def ended(job: Job, code: int) -> Ended:
    """What an exit code says of a job."""
    if code == 0:
        return Ended(job)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Ended(job, job.last_words() or how)


def needed(module: str, extra: str) -> Any:
    """A library that an engine needs.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(f"the engine needs {module} ({error}): pip install 'clkit[{extra}]'") from None


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

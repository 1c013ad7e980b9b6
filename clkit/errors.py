"""The errors that clkit raises on purpose. Each kind has one exit code; its message is one line for a person."""

from __future__ import annotations


class ClkitError(Exception):
    """Something went wrong while running. The message says what, where and what to do."""

    exit_code = 1


class UsageError(ClkitError):
    """The command was used wrongly: an unknown name, an existing run folder, flags that exclude each other."""

    exit_code = 2


class RecipeError(ClkitError):
    """A recipe that cannot work. ``problems`` holds one line per problem: file, line, key path, what is allowed."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        more = f" (+{len(problems) - 1} more: `clkit validate` lists all)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)


class DataError(ClkitError):
    """A task's data cannot be read or does not fit its labels."""

    exit_code = 2


class ModelError(ClkitError):
    """A model or tokenizer cannot be found, loaded, or recognised."""

    exit_code = 2


class StrategyError(ClkitError):
    """A strategy cannot do its work on this model, or contributed nothing where it must have."""


class RunError(ClkitError):
    """A run folder is missing, incomplete or unreadable."""

    exit_code = 2

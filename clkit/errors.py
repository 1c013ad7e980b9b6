"""The errors that clkit raises on purpose. Each kind has one exit code; its message is one line for a person."""

from __future__ import annotations

from clkit.redaction import redact


class ClkitError(Exception):
    """Something went wrong while running. The message says what, where and what to do, and never a password."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class UsageError(ClkitError):
    """The command was used wrongly: an unknown name, an existing run folder, flags that exclude each other."""

    exit_code = 2


class RecipeError(ClkitError):
    """A recipe that cannot work. ``problems`` holds one line per problem: file, line, key path, what is allowed."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems = [redact(problem) for problem in problems]
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


class InterruptionError(ClkitError):
    """A signal asked the run to stop, and it did where nothing is lost."""

    exit_code = 130


#: Characters of a message, most of which some label or value takes where there are as many.
LONGEST = 1400


def printable(text: str) -> str:
    """The text without control characters, which would reach a terminal as commands: they are spelt out."""
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)


def one_line(text: str) -> str:
    """A message as it is printed: one line without control characters, and without its middle where it is endless."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 305]} ... {line[-300:]}"


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line: the first one, with the next where it ends in a colon."""
    if isinstance(error, KeyError):
        return f"there is no key {error}"
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]

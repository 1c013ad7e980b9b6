"""The `clkit` command: gathers the verbs, and turns every error into one line and an exit code.

Verb modules import nothing heavy at their top, so that `clkit --help` needs neither torch nor pydantic.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from inspect import isfunction
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from pkgutil import iter_modules
from traceback import format_exception
from types import FrameType, ModuleType, TracebackType
from typing import Annotated, Any, NoReturn, TextIO

import typer

from clkit import __version__
from clkit.errors import ClkitError, first_line, one_line
from clkit.redaction import redact

INTERRUPTED = 130
#: Ctrl-C, what `kill` and batch systems send, and what a terminal that is closed does.
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

app = typer.Typer(
    name="clkit",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _verb(module: ModuleType) -> Callable[..., None]:
    """The one public function of a verb's file."""
    own = [value for value in vars(module).values() if isfunction(value) and value.__module__ == module.__name__]
    (verb,) = (function for function in own if not function.__name__.startswith("_"))
    return verb


#: Every other file of this folder is a verb, which has the file's name.
VERBS = {
    name.replace("_", "-"): _verb(import_module(f"clkit.cli.{name}"))
    for _, name, _ in iter_modules([str(Path(__file__).parent)])
    if name != "app"
}
for name, verb in VERBS.items():
    app.command(name, cls=getattr(sys.modules[verb.__module__], "Command", None))(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clkit {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def clkit(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")] = False,
) -> None:
    """Teach a language model one task after another; see and limit what it forgets.

    Start with: clkit train quickstart
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main() -> NoReturn:
    """Run the command line and exit: 0 fine, 1 failed, 2 wrong use or recipe, 3 gate failed, 130 interrupted."""
    out, err = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    sys.stdout = _lasting(out, wanted=out.isatty() and out is sys.__stdout__)
    sys.stderr = _lasting(err, wanted=err is sys.__stderr__)
    for number in STOPS if threading.current_thread() is threading.main_thread() else ():
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # not ignored, as under nohup
            signal.signal(number, _interrupted)
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported; what reads GGUF files has no other switch
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns as it is imported, and at each layer
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if len(arguments) < len(sys.argv) - 1:
        sys.excepthook = _print_traceback
        sys.exit(app(args=arguments, prog_name="clkit", standalone_mode=False) or 0)
    sys.exit(_one_line(arguments))


def _interrupted(number: int, frame: FrameType | None) -> None:
    """The error that Ctrl-C is in Python, so that what is half done is cleared away; but inside an import, where
    libraries written in C++ abort at one, the end at once.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(_stopped())
        frame = frame.f_back
    raise KeyboardInterrupt


def _nowhere() -> TextIO:
    """Where output goes that the shell closed (`>&-`)."""
    return Path(os.devnull).open("w", encoding="utf-8")


class _Lasting(FileIO):
    """What a person reads: a terminal, and stderr wherever it leads.

    It drops what can no longer be written, because the terminal was closed, whoever read a pipe has left, or a disk is
    full: that stops no work, and hides no reason of an end.
    """

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError:
            return memoryview(content).nbytes


def _lasting(stream: TextIO, *, wanted: bool) -> TextIO:
    if not isinstance(stream, TextIOWrapper):
        return stream
    stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal's encoding lacks
    if not wanted:
        return stream
    lasting = BufferedWriter(_Lasting(stream.fileno(), "w", closefd=False))
    return TextIOWrapper(lasting, stream.encoding, stream.errors, line_buffering=True)


def _one_line(arguments: list[str]) -> int:
    try:
        code: int = app(args=arguments, prog_name="clkit", standalone_mode=False) or 0
        sys.stdout.flush()  # a full disk or a pipe that nobody reads is noticed only here
        if code == INTERRUPTED:  # Typer turns Ctrl-C into this code, without a word
            return _stopped()
        return code
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        see = f" (see `{context.command_path} --help`)" if context is not None else ""
        return _failed(f"{error.format_message()}{see}", error.exit_code)
    except ClkitError as error:
        return _failed(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has had enough
        _drop_output()
        return 0
    except OSError as error:  # no space left, no permission: nothing that clkit could do better
        if error.errno == errno.ENAMETOOLONG:
            return _failed(f"{str(error.filename)[:60]}...: no path can be as long as this; give a shorter one", 2)
        where = f"{error.filename}: " if error.filename is not None else ""
        advice = "; make room, or send the output elsewhere" if error.errno == errno.ENOSPC else ""
        return _failed(f"{where}{error.strerror or first_line(error)}{advice}", 1)
    except Exception as error:
        if _out_of_memory(error):
            return _failed("out of memory; a smaller training.micro_batch_size or evaluation.batch_size needs less", 1)
        if "No space left on device" in str(error):  # of a library that has an error of its own for it
            return _failed("no space left on the disk; make room, and give the same command again", 1)
        reason = f"{type(error).__name__}: {first_line(error)}"
        return _failed(f"{reason} (unexpected: please report it, with the output of the same command with --debug)", 1)


def _out_of_memory(error: Exception) -> bool:
    # Without an import of torch: its error has this name on an accelerator, and none of its own on a CPU.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def _stopped() -> int:
    from clkit.run.lock import has_written

    kept = "; finished tasks are kept, and --resume goes on after them" if has_written() else ""
    return _failed(f"interrupted{kept}", INTERRUPTED)


def _failed(message: str, code: int) -> int:
    typer.echo(f"error: {one_line(redact(message))}", err=True)
    try:
        sys.stdout.flush()
    except OSError:  # with which Python would end, by a code of its own
        _drop_output()
    return code


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(format_exception(kind, error, trace))))

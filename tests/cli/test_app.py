"""The command as a whole: start-up, errors in one line, exit codes; in a fresh process where that is the point."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clkit.cli import app
from clkit.errors import LONGEST, ClkitError, RecipeError, UsageError, one_line
from tests.bad_inputs.corpus import call

PROBE = """
import sys
{extra}
from clkit.cli.app import app
try:
    app({arguments!r}, standalone_mode=False)
except Exception as error:
    print(error, file=sys.stderr)
heavy = {{"torch", "peft", "transformers", "datasets", "numpy", "matplotlib"}}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def clkit(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-m", "clkit", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=600,
    )


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls the command in this process; exit code, stdout and stderr."""

    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "80")
        return call(list(arguments), monkeypatch), *capsys.readouterr()

    return called


def heavy_modules(*arguments: str, extra: str = "pass", cwd: Path | None = None) -> list[str]:
    """What the command said on stderr, and which heavy libraries it imported, on lines of their own."""
    code = PROBE.format(arguments=list(arguments), extra=extra)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True, cwd=cwd, env=environment)
    return done.stderr.splitlines()


def test_help_imports_nothing_heavy() -> None:
    assert heavy_modules("--help")[-1] == "[]"
    assert heavy_modules("train", "--help")[-1] == "[]"
    assert heavy_modules("--help", extra="import numpy")[-1] == "['numpy']"  # the control


@pytest.mark.parametrize(
    "command", ["ls", "validate quickstart", "validate llama_magicoder", "schema", "show t5_order1 --resolved"]
)
def test_what_needs_no_model_answers_at_once(command: str, tmp_path: Path) -> None:
    assert heavy_modules(*command.split(), cwd=tmp_path)[-1] == "[]"


def test_a_folder_that_is_not_empty_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for further in ([], ["--dry-run"], ["--overwrite"]):
        message, heavy = heavy_modules("train", "quickstart", "--run", "mine", *further, cwd=tmp_path)
        assert message.startswith("mine is not empty")
        assert heavy == "[]"
    # The control: where the folder is free, the same command does load what it trains with.
    assert "'torch'" in heavy_modules("train", "quickstart", "--run", "new", "--dry-run", cwd=tmp_path)[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["trian"], 2, "error: No such command 'trian'. Did you mean 'train'? (see `clkit --help`)"),
        (["train"], 2, "error: Missing argument 'recipe'. (see `clkit train --help`)"),
        (["train", "quickstart", "--rn", "x"], 2, "error: No such option"),
        (["train", "quickstart", "--resume", "--overwrite"], 2, "error: --resume and --overwrite exclude each other"),
        (["train", "qickstart"], 2, "error: no recipe 'qickstart', did you mean 'quickstart'?"),
        (["train", "quickstart", "seed"], 2, "error: "),
        (["train", "quickstart", "seed=x"], 2, "error: command line: seed: "),
        (["matrix"], 2, "error: no run in runs/"),
        (["eval", "nowhere"], 2, "error: nowhere: no such run folder"),
        (["inspect-magnitudes", "quickstart", "--stage", "1"], 2, "error: --stage needs a run folder"),
    ],
)
def test_wrong_use_ends_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    called: Callable[..., tuple[int, str, str]],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended, stdout, stderr = called(*arguments)
    assert (ended, stdout) == (code, "")
    assert stderr.startswith(message)
    assert stderr.count("\n") == 1


def test_a_fresh_process_ends_in_the_same_line(tmp_path: Path) -> None:
    done = clkit("train", "qickstart", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no recipe 'qickstart', did you mean 'quickstart'?")
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    for arguments in (["--debug", "train", "nope"], ["train", "nope", "--debug"]):
        done = clkit(*arguments, cwd=tmp_path)
        assert "Traceback" in done.stderr
        assert done.returncode != 0


def test_version_and_bare_call() -> None:
    assert clkit("--version").stdout.startswith("clkit 0.")
    bare = clkit()
    assert "train" in bare.stdout
    assert bare.returncode == 2


def test_help_fits_80_columns(called: Callable[..., tuple[int, str, str]]) -> None:
    for verb in ([], *([name] for name in app.VERBS)):
        _, text, _ = called(*verb, "--help")
        assert text
        assert all(len(line) <= 80 for line in text.splitlines())
        assert not verb or "Example: clkit" in " ".join(text.split())


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ClkitError("broken\nin two"), 1, "error: broken in two\n"),
        (UsageError("wrong"), 2, "error: wrong\n"),
        (RecipeError("a", "b", "c"), 2, "error: a (+2 more: `clkit validate` lists all)\n"),
        (KeyError("x"), 1, "error: KeyError: there is no key 'x' (unexpected: please report it, with the output of"),
    ],
)
def test_every_error_has_a_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(app, "app", fail)
    monkeypatch.setattr(sys, "argv", ["clkit", "train"])
    with pytest.raises(SystemExit) as exit_:
        app.main()
    assert exit_.value.code == code
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1


@pytest.mark.parametrize("number", app.STOPS)
@pytest.mark.parametrize("begun", [True, False])
def test_what_stops_a_verb_clears_away_and_says_what_is_kept(
    number: signal.Signals, begun: bool, tmp_path: Path
) -> None:
    usual = {signal.SIGINT: "default_int_handler"}.get(number, "SIG_DFL")  # also where the suite is run with it ignored
    code = (
        f"import signal, sys; signal.signal({number:d}, signal.{usual}); from clkit.cli import app\n"
        "from pathlib import Path; from clkit.run.lock import locked\n"
        "def stop():\n"
        "    with locked(Path('run')):\n"
        f"        if {begun}: Path('run/env.json').touch()\n"
        f"        try: signal.raise_signal({number:d})\n"
        "        finally: print('cleared away')\n"
        "app.app.command('stop')(stop); sys.argv = ['clkit', 'stop']; app.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (130, "cleared away\n")
    kept = "; finished tasks are kept, and --resume goes on after them" if begun else ""
    assert done.stderr == f"error: interrupted{kept}\n"


def test_the_reader_of_a_pipe_may_leave() -> None:
    code = (
        "import sys; from clkit.cli import app\n"
        "def count():\n    for number in range(100_000): print(number)\n"
        "app.app.command('count')(count); sys.argv = ['clkit', 'count']; app.main()"
    )
    command = f"{shlex.join([sys.executable, '-c', code])} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600)
    assert done.stdout == "0\n"
    assert done.stderr == ""


VERB = """
import sys; from clkit.cli import app; from clkit.errors import InterruptionError; from clkit.report import console
{body}
app.app.command('work')(work); sys.argv = ['clkit', 'work']; app.main()
"""


def test_a_terminal_that_is_closed_hides_no_reason_of_an_end() -> None:
    """What is said there is lost, and nothing else: Ctrl-C and SIGHUP end with the same code."""
    body = (
        "def work():\n"
        "    import signal\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n"
        "    print('ready')\n"
        "    signal.sigwait([signal.SIGHUP])\n"
        "    console.stderr().print('a remark')\n"
        "    console.make_console().print('a table')\n"
        "    print('a line', flush=True)\n"
        "    raise InterruptionError('SIGHUP: stopped')\n"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", VERB.format(body=body)])
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 1024)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130


@pytest.mark.parametrize("where", ["2> >(exit)", "2> /dev/full"])
def test_what_is_said_on_stderr_stops_no_work(where: str) -> None:
    body = (
        "def work():\n"
        "    import time\n"
        "    for number in range(20): console.stderr().print('a remark'); time.sleep(0.01)\n"
        "    print('done')\n"
    )
    command = f"{shlex.join([sys.executable, '-c', VERB.format(body=body)])} {where}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def without_a_reader(body: str) -> tuple[int, str]:
    """The code with which a verb ends whose pipe nobody reads, and what it says on stderr."""
    command = f"{shlex.join([sys.executable, '-c', VERB.format(body=body)])} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=600)
    return done.returncode, done.stderr


def test_the_reader_of_a_table_may_leave() -> None:
    body = "def work():\n    import time; time.sleep(0.5)\n    console.make_console().print('a table')\n"
    assert without_a_reader(body) == (0, "")


def test_an_error_keeps_its_code_where_the_reader_of_a_pipe_has_left() -> None:
    body = (
        "def work():\n"
        "    for number in range(100_000):\n"
        "        try: print(number)\n"
        "        except BrokenPipeError: raise InterruptionError('SIGTERM: stopped') from None\n"
    )
    assert without_a_reader(body) == (130, "error: SIGTERM: stopped\n")


def test_every_other_file_of_the_folder_is_a_verb() -> None:
    files = {path.stem.replace("_", "-") for path in Path(app.__file__).parent.glob("*.py")}
    assert app.VERBS.keys() == files - {"app", "--init--"}
    assert app.VERBS["eval"].__module__ == "clkit.cli.eval"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = f"{shlex.quote(sys.executable)} -m clkit show quickstart {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_noticed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = f"{shlex.quote(sys.executable)} -m clkit show quickstart > /dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (
        1,
        "error: No space left on device; make room, or send the output elsewhere\n",
    )


def test_a_message_is_one_line_however_long_a_value_is() -> None:
    said = one_line("label '" + "9" * 5000 + "\x1b\n'; list the labels")
    assert len(said) == LONGEST
    assert said.endswith("999\\x1b '; list the labels")
    assert said.startswith("label '9")


def test_ctrl_c_inside_an_import_is_one_line_too(tmp_path: Path) -> None:
    """There libraries written in C++ would abort at a KeyboardInterrupt."""
    (tmp_path / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(9)\n")
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # also where it is ignored
    command = [sys.executable, "-c", f"{heard}\nfrom clkit.cli.app import main\nmain()"]
    arguments = ["validate", "quickstart", "strategies=[{name: 'slow:X'}]"]
    ended = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "error: interrupted\n")

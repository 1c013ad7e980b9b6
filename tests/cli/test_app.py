"""The command as a whole: start-up, errors in one line, exit codes. Each in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clkit.cli import app
from clkit.errors import ClkitError, RecipeError, UsageError

PROBE = (
    "import sys; from clkit.cli.app import app; code = app({arguments!r}, standalone_mode=False); "
    "print(sorted({{'torch', 'transformers', 'datasets', 'numpy'}} & set(sys.modules)), file=sys.stderr)"
)


def clkit(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-m", "clkit", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=120,
    )


def heavy_modules(*arguments: str) -> str:
    code = PROBE.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stderr.splitlines()[-1]


def test_help_imports_nothing_heavy() -> None:
    assert heavy_modules("--help") == "[]"
    assert heavy_modules("train", "--help") == "[]"
    # The control: the same probe sees torch where a verb needs it.
    assert "torch" in heavy_modules("validate", "quickstart")


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
def test_wrong_use_ends_in_one_line(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    done = clkit(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith(message)
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


def test_help_fits_80_columns() -> None:
    for verb in ([], *([name] for name in app.VERBS)):
        text = clkit(*verb, "--help").stdout
        assert all(len(line) <= 80 for line in text.splitlines())
        assert not verb or "Example: clkit" in " ".join(text.split())


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ClkitError("broken\nin two"), 1, "error: broken in two\n"),
        (UsageError("wrong"), 2, "error: wrong\n"),
        (RecipeError(["a", "b", "c"]), 2, "error: a (+2 more: `clkit validate` lists all)\n"),
        (KeyError("x"), 1, "error: KeyError: 'x' (unexpected: please report it, with the output of the same command"),
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


def test_ctrl_c_says_what_is_kept() -> None:
    code = (
        "import sys; from clkit.cli import app\n"
        "def stop(): raise KeyboardInterrupt\n"
        "app.app.command('stop')(stop); sys.argv = ['clkit', 'stop']; app.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 130
    assert done.stderr == "error: interrupted; finished tasks are kept, and --resume goes on after them\n"


def test_the_reader_of_a_pipe_may_leave(tmp_path: Path) -> None:
    command = f"{sys.executable} -m clkit schema | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stdout == "{\n"
    assert done.stderr == ""

"""Every bad input of the corpus gets its exact message: messages are read and reviewed like code."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from clkit.engine.sequence import train
from clkit.report.console import quiet_libraries
from tests.bad_inputs.corpus import Case, arguments_of, call, lay_out, read_cases
from tests.toy import toy_recipe

CASES = read_cases()


@pytest.fixture(scope="session")
def toy_run(toy_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two tasks."""
    folder = tmp_path_factory.mktemp("toy-run")
    recipe = toy_recipe(folder, toy_t5, training={"epochs": 0.4}, data={"test_per_task": 4})
    return train(recipe, folder / "run").path


def test_the_corpus_is_large_and_each_case_stands_once() -> None:
    names = [case.case for case in CASES]
    assert len(names) >= 60
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.case.replace(" ", "-"))
def test_message(
    case: Case,
    tmp_path: Path,
    toy_t5: Path,
    toy_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lay_out(case, tmp_path, {"model": toy_t5, "run": toy_run})
    monkeypatch.chdir(tmp_path)
    code = call(arguments_of(case), monkeypatch)
    printed = capsys.readouterr()

    def shown(text: str) -> str:
        return text.replace(str(tmp_path), "{here}").replace(str(toy_t5), "{model}").strip()

    assert (shown(printed.err), shown(printed.out), code) == (case.stderr.strip(), case.stdout.strip(), case.exit)
    assert len(printed.err.splitlines()) <= 1


def test_the_hubs_retries_add_no_lines() -> None:
    """Without a network, and without HF_HUB_OFFLINE, the hub's client tries six times and warns each time."""
    quiet_libraries()
    assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)

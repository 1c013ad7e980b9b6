"""What of a folder `--overwrite` may remove, and what files of the user's a verb may replace."""

from __future__ import annotations

from pathlib import Path

import pytest

from clkit.errors import RunError, UsageError
from clkit.run.folder import RunFolder
from clkit.run.layout import check_target, refuse_strangers, remove_own_files, strangers
from clkit.run.place import check_free

STAGE = "tasks/01-a"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with one finished stage and a half-written one."""
    run = RunFolder.create(tmp_path / "run", "name: a\n", {"seed": 1})
    stage = run.start_stage(1, "a")
    (stage / "predictions.jsonl").write_text("{}")
    (stage / "model").mkdir()
    (stage / "model" / "config.json").write_text("{}")
    run.finish_stage(1, "a", {"row": [1.0]})
    half = run.start_stage(2, "b")
    (half / "checkpoints" / ".partial").mkdir(parents=True)
    (half / "checkpoints" / ".partial" / "model.safetensors").write_text("")
    (run.path / "inspect" / "01-a").mkdir(parents=True)
    (run.path / "inspect" / "01-a" / "magnitudes.json").write_text("{}")
    (run.path / ".matrix.json.17.tmp").write_text("")
    return run


def test_all_that_a_run_writes_is_its_own_and_goes(run: RunFolder) -> None:
    assert strangers(run.path) == []
    remove_own_files(run.path)
    assert list(run.path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt", "data/train.csv", ".git/HEAD", "other-run/env.json", f"{STAGE}/README.md", f"{STAGE}/model/mine",
        "tasks/notes.md", "tasks/mine/model/config.json", "tasks/02-b/mine/x", "tasks/02-b/checkpoints/.git/HEAD",
        "inspect/.git/a.json", "inspect/notes.md",
    ],
)  # fmt: skip
def test_files_of_others_stop_overwrite_by_name_and_stay(run: RunFolder, name: str) -> None:
    file = run.path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    with pytest.raises(UsageError, match="files that clkit did not write") as refused:
        RunFolder.create(run.path, "name: a\n", {"seed": 1}, overwrite=True)
    assert name in str(refused.value)
    remove_own_files(run.path)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["recipe.yaml", f"{STAGE}/predictions.jsonl", f"{STAGE}/model/config.json"])
def test_what_the_user_edited_is_the_users(run: RunFolder, name: str) -> None:
    (run.path / name).write_text("mine")
    assert strangers(run.path) == [run.path / name]
    remove_own_files(run.path)
    assert (run.path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["mine", f"{STAGE}/mine", f"{STAGE}/model/mine", "tasks/02-b/mine", "tasks/mine"])
def test_an_empty_folder_of_the_users_stays(run: RunFolder, name: str) -> None:
    (run.path / name).mkdir()
    assert strangers(run.path) == [run.path / name]
    remove_own_files(run.path)
    assert (run.path / name).is_dir()


def test_a_file_that_the_user_put_into_a_stage_is_not_sealed_with_it(run: RunFolder) -> None:
    half = run.path / "tasks" / "02-b"
    (half / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"02-b/notes.txt is not clkit's, and lies in a stage that is begun anew"):
        refuse_strangers(run.path)
    run.finish_stage(2, "b", {"row": [1.0]})
    refuse_strangers(run.path)
    assert strangers(run.path) == [half / "notes.txt"]


def test_a_link_is_no_file_of_clkits_and_what_it_leads_to_stays(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("mine")
    (run.path / "data").symlink_to(tmp_path / "data")
    assert strangers(run.path) == [run.path / "data"]
    remove_own_files(run.path)
    assert (tmp_path / "data" / "a.csv").read_text() == "mine"


def test_what_the_new_run_reads_stays(run: RunFolder) -> None:
    with pytest.raises(UsageError, match="which the new run reads"):
        check_free(run.path, overwrite=True, reads=[run.path / STAGE / "model"])


def test_a_target_is_replaced_only_when_asked_and_never_inside_a_run(run: RunFolder, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    check_target(file, "--save", replace=False)
    file.write_text("mine")
    check_target(file, "--save", replace=True)
    for target, said in (
        (file, "--force replaces it"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "x", "no folder"),
        (run.path / STAGE / "predictions.jsonl", "lies in the run"),
    ):
        with pytest.raises(UsageError, match=said):
            check_target(target, "--save", replace=False)
    for read in (file, tmp_path):  # a data set's file, or a folder of them
        with pytest.raises(UsageError, match="is what this command reads"):
            check_target(file, "--save", replace=True, reads=[read])

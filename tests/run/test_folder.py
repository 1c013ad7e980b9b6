"""The run folder: whole at every moment, strict when read back, careful when it overwrites."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from clkit.errors import RunError, UsageError
from clkit.results.matrix import AccuracyMatrix
from clkit.run import folder as runs
from clkit.run.atomic import write_json
from clkit.run.doctor import refuse_damage, remedy
from clkit.run.folder import RunFolder
from clkit.run.layout import MATRIX, METRICS, TRAINED_FILE, ZERO_SHOT, leftovers
from clkit.run.lock import LOCK_FILE, locked
from clkit.run.place import check_free, is_empty
from clkit.run.seal import Done, seal_files
from tests.scored import score

RECIPE = "name: tiny\nseed: 42\n"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", RECIPE, {"seed": 42})


def finish(run: RunFolder, index: int, name: str) -> Path:
    folder = run.start_stage(index, name)
    run.finish_stage(index, name, {"row": [0.5]})
    return folder


class TestCreate:
    def test_new(self, run: RunFolder):
        assert run.recipe_yaml() == RECIPE
        assert run.recipe() == {"name": "tiny", "seed": 42}
        assert run.environment() == {"format": 1, "recipe_sha256": sha256(RECIPE.encode()).hexdigest(), "seed": 42}
        assert run.recipe_is_original()

    def test_into_an_empty_folder(self, tmp_path: Path):
        RunFolder.create(tmp_path, RECIPE, {})
        assert RunFolder.open(tmp_path).recipe_yaml() == RECIPE

    def test_existing_run_is_kept(self, run: RunFolder):
        with pytest.raises(UsageError) as refused:
            RunFolder.create(run.path, "name: other\n", {})
        assert str(refused.value) == (
            f"{run.path} is not empty: continue that run with --resume, replace it with --overwrite, "
            "or choose another folder with --run DIR"
        )
        assert run.recipe_yaml() == RECIPE

    def test_overwrite_leaves_nothing_of_the_old_run(self, run: RunFolder):
        finish(run, 1, "a")
        run.log.append({"step": 1})
        RunFolder.create(run.path, "name: other\n", {}, overwrite=True)
        assert sorted(entry.name for entry in run.path.iterdir()) == ["env.json", "recipe.yaml"]
        assert run.recipe_yaml() == "name: other\n"

    def test_overwrite_follows_no_link_out_of_the_run(self, run: RunFolder, tmp_path: Path):
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "thesis.tex").write_text("")
        (run.path / "link").symlink_to(precious)
        with pytest.raises(UsageError, match=r"files that clkit did not write, or .* \(link\)"):
            RunFolder.create(run.path, RECIPE, {}, overwrite=True)
        assert (precious / "thesis.tex").exists()

    @pytest.mark.parametrize("env", [None, "{}", "not json"])
    def test_overwrite_never_deletes_a_folder_of_the_users(self, tmp_path: Path, env: str | None):
        """A recipe.yaml beside other work makes no run folder: `clkit train recipe.yaml --run . --overwrite`."""
        (tmp_path / "recipe.yaml").write_text(RECIPE)
        (tmp_path / "thesis.tex").write_text("")
        if env is not None:
            (tmp_path / "env.json").write_text(env)
        with pytest.raises(UsageError, match=r"no run folder \(no env.json of clkit's\), so --overwrite leaves it"):
            RunFolder.create(tmp_path, RECIPE, {}, overwrite=True)
        assert (tmp_path / "thesis.tex").exists()

    def test_interrupted_overwrite_can_be_repeated(self, run: RunFolder, monkeypatch: pytest.MonkeyPatch):
        finish(run, 1, "a")

        def interrupt(path: Path) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rmdir", interrupt)
            with pytest.raises(KeyboardInterrupt):
                RunFolder.create(run.path, RECIPE, {}, overwrite=True)
        RunFolder.create(run.path, RECIPE, {}, overwrite=True)
        assert RunFolder.open(run.path).stages() == []

    def test_file_in_the_way(self, tmp_path: Path):
        (tmp_path / "run").write_text("")
        with pytest.raises(UsageError, match="run is a file; choose a folder with --run DIR"):
            RunFolder.create(tmp_path / "run", RECIPE, {}, overwrite=True)


class TestOpen:
    def test_nothing_there(self, tmp_path: Path):
        with pytest.raises(RunError, match="nowhere: no such run folder"):
            RunFolder.open(tmp_path / "nowhere")

    def test_says_what_is_missing(self, tmp_path: Path):
        with pytest.raises(RunError, match=r"is no run folder: recipe.yaml and env.json missing"):
            RunFolder.open(tmp_path)

    def test_layout_of_the_future_is_not_misread(self, run: RunFolder):
        write_json(run.env_path, {"format": 2})
        with pytest.raises(RunError) as refused:
            RunFolder.open(run.path)
        assert str(refused.value) == (
            f"{run.path} was made by a newer clkit (folder format 2, this clkit reads 1): "
            "upgrade with `pip install -U clkit`"
        )

    @pytest.mark.parametrize("found", [None, "1", True, 0, 1.0])
    def test_layout_must_be_a_number(self, run: RunFolder, found: object):
        write_json(run.env_path, {"format": found})
        with pytest.raises(RunError, match="'format' must be a number from 1"):
            RunFolder.open(run.path)

    def test_newest_is_the_one_written_last(self, tmp_path: Path):
        for age, name in enumerate(["c", "a", "b"]):
            made = RunFolder.create(tmp_path / name, RECIPE, {})
            os.utime(made.recipe_path, (1000 - age, 1000 - age))
        assert RunFolder.newest(tmp_path).path.name == "c"
        older = RunFolder.open(tmp_path / "b")
        older.log.append({"event": "step"})
        assert RunFolder.newest(tmp_path).path.name == "b"

    def test_newest_of_none(self, tmp_path: Path):
        with pytest.raises(RunError, match=r"no run in .*: start one with `clkit train`"):
            RunFolder.newest(tmp_path / "runs")

    def test_damaged_recipe(self, run: RunFolder):
        run.recipe_path.write_text("a: [")
        with pytest.raises(RunError, match=r"recipe.yaml is no YAML: while parsing") as refused:
            run.recipe()
        assert "\n" not in str(refused.value)


class TestMatrix:
    def test_round_trip_with_metrics(self, run: RunFolder):
        matrix = AccuracyMatrix(tasks=["a", "b"], counts=[2, 2], rows=[[1.0, None], [0.5, 1.0]])
        score(run, matrix)
        assert run.read_matrix() == matrix
        run.export()
        assert json.loads((run.path / MATRIX).read_text()) == matrix.to_json()
        metrics = json.loads((run.path / METRICS).read_text())
        assert metrics["bwt"] == {"value": -0.5, "formula": "mean_{j<T} (R[T][j] - R[j][j])", "note": None}
        assert metrics["fwt"]["value"] is None

    def test_not_there_yet(self, run: RunFolder):
        with pytest.raises(RunError, match="nothing was evaluated so far"):
            run.read_matrix()

    def test_what_the_exports_hold_does_not_matter(self, run: RunFolder):
        matrix = AccuracyMatrix(tasks=["a"], counts=[2], rows=[[0.5]])
        score(run, matrix)
        (run.path / MATRIX).write_text('{"rows": [[1.0]]}')
        assert run.read_matrix() == matrix

    def test_a_damaged_stage(self, run: RunFolder):
        score(run, AccuracyMatrix(tasks=["a", "b"], counts=[2, 2], rows=[[1.0, None], [0.5, 1.0]]))
        (run.path / "tasks" / "02-b" / "done.json").write_text("{")
        with pytest.raises(RunError, match=r"02-b/done\.json cannot be read") as refused:
            run.read_matrix()
        assert "\n" not in str(refused.value)


class TestStages:
    def test_in_order_of_their_numbers(self, run: RunFolder):
        finish(run, 0, ZERO_SHOT)
        for index in range(1, 102):
            finish(run, index, f"task-{index}")
        stages = run.stages()
        assert [stage.index for stage in stages] == list(range(102))
        assert stages[0].folder.name == "00-zero-shot"
        assert (stages[1].name, stages[1].folder.name) == ("task-1", "01-task-1")
        assert stages[101].payload == {"row": [0.5]}

    def test_without_zero_shot(self, run: RunFolder):
        finish(run, 1, "a")
        assert [stage.index for stage in run.stages()] == [1]

    def test_unfinished_is_no_stage_and_is_discarded(self, run: RunFolder):
        finish(run, 1, "a")
        half = run.start_stage(2, "b")
        (half / "model.safetensors").write_text("half")
        (run.path / "tasks" / "notes").mkdir()
        assert [stage.name for stage in run.stages()] == ["a"]
        assert run.discard_unfinished() == [half]
        assert sorted(entry.name for entry in (run.path / "tasks").iterdir()) == ["01-a", "notes"]

    def test_gap(self, run: RunFolder):
        for index, name in enumerate("abc", start=1):
            finish(run, index, name)
        (run.stage_folder(2, "b") / "done.json").unlink()
        with pytest.raises(RunError, match="03-c is finished, but task 2 is not"):
            run.discard_unfinished()
        assert run.stage_folder(2, "b").exists()

    def test_first_task_missing(self, run: RunFolder):
        finish(run, 0, ZERO_SHOT)
        finish(run, 2, "b")
        with pytest.raises(RunError, match="02-b is finished, but task 1 is not"):
            run.stages()

    def test_same_number_twice(self, run: RunFolder):
        finish(run, 1, "a")
        finish(run, 1, "b")
        with pytest.raises(RunError, match="the folders of two stages have number 1"):
            run.stages()

    def test_start_clears_what_an_interruption_left(self, run: RunFolder):
        (run.start_stage(1, "a") / "half").write_text("")
        assert list(run.start_stage(1, "a").iterdir()) == []

    def test_start_never_clears_what_is_finished(self, run: RunFolder):
        finish(run, 1, "a")
        with pytest.raises(RunError, match="01-a is finished already"):
            run.start_stage(1, "a")

    def test_done_comes_last(self, run: RunFolder, monkeypatch: pytest.MonkeyPatch):
        """If the model's files cannot be brought to disk, the stage must not count as finished."""
        folder = run.start_stage(1, "a")
        (folder / "model").mkdir()
        weights = folder / "model" / "weights"
        weights.write_text("w")

        def fail_on_weights(descriptor: int) -> None:
            if os.fstat(descriptor).st_ino == weights.stat().st_ino:
                raise OSError("disk full")

        monkeypatch.setattr(os, "fsync", fail_on_weights)
        with pytest.raises(OSError, match="disk full"):
            run.finish_stage(1, "a", {})
        assert run.stages() == []


class TestLock:
    def test_a_lock_alone_leaves_a_folder_empty(self, tmp_path: Path):
        with locked(tmp_path):
            assert is_empty(tmp_path)
            RunFolder.create(tmp_path, RECIPE, {})
            assert not is_empty(tmp_path)

    def test_so_does_one_that_is_just_being_written(self, tmp_path: Path):
        """By another process of the same run, or by one that was killed there."""
        (tmp_path / f".{LOCK_FILE}.4711.tmp").touch()
        check_free(tmp_path)
        (tmp_path / f"{LOCK_FILE}.4711.tmp").touch()  # not a name that clkit gives
        with pytest.raises(UsageError, match="is not empty"):
            check_free(tmp_path)

    def test_overwriting_keeps_the_writers_own_lock(self, run: RunFolder):
        with locked(run.path):
            RunFolder.create(run.path, RECIPE, {}, overwrite=True)
            assert (run.path / LOCK_FILE).exists()
        assert sorted(entry.name for entry in run.path.iterdir()) == ["env.json", "recipe.yaml"]


class TestDamage:
    @pytest.fixture
    def stage(self, run: RunFolder) -> Path:
        folder = run.start_stage(1, "a")
        for part in ("model", "adapter"):
            (folder / part).mkdir()
            (folder / part / "weights").write_text("w")
        (folder / "strategies.json").write_text("{}")
        (folder / "predictions.jsonl").write_text("{}\n")
        run.finish_stage(1, "a", {"row": [0.5]})
        return folder

    def test_a_whole_stage_can_be_gone_on_from(self, run: RunFolder, stage: Path):
        refuse_damage(run, [stage])

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            (
                "model/weights",
                "x",
                "is changed \\(of the right size, but its sha256 differs\\); put it back, or remove .*01-a and make it",
            ),
            ("strategies.json", "", "is changed \\(0 bytes instead of 2\\)"),
            (
                "strategies.json",
                None,
                "is missing \\(2 bytes\\); put it back, or remove .*01-a and make it anew: `clkit train .* --resume`",
            ),
        ],
    )
    def test_a_damaged_one_cannot(self, run: RunFolder, stage: Path, file: str, content: str | None, message: str):
        if content is None:
            (stage / file).unlink()
        else:
            (stage / file).write_text(content)
        with pytest.raises(RunError, match=f"{file} {message}") as refused:
            refuse_damage(run, [stage])
        assert "\n" not in str(refused.value)

    def test_a_model_that_was_dropped_is_not_lost(self, run: RunFolder, stage: Path):
        run.drop_model(run.stage_folder(1, "a"))
        assert sorted(path.name for path in stage.iterdir()) == ["done.json", "predictions.jsonl"]
        assert [found.state for found in Done.read(stage).check(stage)] == ["whole"]
        assert run.stages()[0].payload == {"row": [0.5]}
        refuse_damage(run, [stage])
        assert not run.stages()[0].model_kept

    def test_done_json_says_so_before_the_model_goes(
        self, run: RunFolder, stage: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def interrupt(path: Path, below: Path) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(runs, "remove_whole", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.drop_model(run.stage_folder(1, "a"))
        found = {one.path: one.state for one in Done.read(stage).check(stage)}
        gone = dict.fromkeys(["adapter/weights", "model/weights", "strategies.json"], "unknown")
        assert found == {"predictions.jsonl": "whole", **gone}

    def test_a_damaged_done_json_is_named(self, run: RunFolder, stage: Path):
        (stage / "done.json").write_text((stage / "done.json").read_text().replace("0.5", "0.6"))
        with pytest.raises(RunError, match=r"01-a/done\.json was changed .*; see `clkit doctor .*run`"):
            run.stages()

    def test_what_helps_depends_on_what_the_stage_was_made_from(self, run: RunFolder, stage: Path):
        last = finish(run, 2, "b")
        assert remedy(run, last).startswith(f"put it back, or remove {last} and make it anew: `clkit train ")
        assert f"or remove {stage} and the stages after it" in remedy(run, stage)
        run.drop_model(stage)
        assert remedy(run, last) == "put it back, or train anew with --overwrite (the model before it was not kept)"
        run.recipe_path.write_text("protocol: per_task\n")
        assert f"or remove {last} and make it anew" in remedy(run, last)

    def test_what_a_kill_left_behind_goes(self, run: RunFolder, stage: Path):
        weights, kept = stage / "model" / "weights", (stage / "model" / "weights").read_bytes()
        Done({}, seal_files(stage, ["model"])).write(stage, TRAINED_FILE)
        run.drop_model(stage)
        for file in (weights, stage / ".done.json.7.tmp", run.path / ".matrix.json.7.tmp"):
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(kept)
        mine = [run.path / ".mine.tmp", stage / "model" / "notes.txt"]
        for file in mine:
            file.write_text("")
        assert leftovers(run.path) == [run.path / ".matrix.json.7.tmp", stage / ".done.json.7.tmp", weights]
        run.discard_unfinished()
        assert leftovers(run.path) == []
        assert all(file.exists() for file in mine)
        names = ["done.json", "model", "predictions.jsonl", "trained.json"]
        assert sorted(path.name for path in stage.iterdir()) == names

    def test_a_model_goes_without_what_the_user_put_beside_it(self, run: RunFolder, stage: Path):
        (stage / "model" / "notes.txt").write_text("mine")
        run.drop_model(stage)
        assert sorted(path.name for path in stage.rglob("*.*")) == ["done.json", "notes.txt", "predictions.jsonl"]

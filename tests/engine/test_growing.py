"""Growing a run: what may be added to its recipe, what stays as it was, and what a kill leaves."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file

from clkit.engine.filling import fill
from clkit.engine.growing import refuse_changed_recipe
from clkit.engine.sequence import dry_run, train
from clkit.errors import UsageError
from clkit.recipe.recipe import Recipe
from clkit.recipe.written import recipe_yaml
from clkit.report.answers import read_examples
from clkit.report.plan import print_plan
from clkit.run import folder as run_folder
from clkit.run.doctor import examine, is_whole
from clkit.run.folder import RunFolder
from clkit.run.layout import FILLED
from clkit.run.seal import Done, text_sha256
from clkit.tasks.benchmarks import benchmark_tasks
from tests.interrupting import Heard, assert_same, stop
from tests.toy import Finished, ToyRecipe, toy_recipe, write_task

SHORT: dict[str, Any] = {"training": {"epochs": 1.0}, "evaluation": {"tasks": "seen", "zero_shot": False}}
Change = Callable[[dict[str, Any]], object]


def tasks(folder: Path, *names: str) -> list[dict[str, Any]]:
    return [write_task(folder, name) for name in names]


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestRecipe:
    """What of a recipe may differ; no run is trained."""

    @staticmethod
    def run(recipe: Recipe, tmp_path: Path) -> RunFolder:
        return RunFolder.create(tmp_path / "run", recipe_yaml(recipe), {})

    def test_further_tasks_with_settings_of_their_own(self, tmp_path: Path) -> None:
        olora: dict[str, Any] = {"tuning": {"method": "incremental_lora"}}
        began = toy_recipe(tmp_path, tmp_path, **olora, strategies=[{"name": "olora"}])
        run = self.run(began, tmp_path)
        grown = toy_recipe(
            tmp_path,
            tmp_path,
            **olora,
            tasks=tasks(tmp_path, "first", "second", "third"),
            strategies=[{"name": "olora", "per_task": {"third": {"lambda1": 2.0}}}],
            training={"per_task": {"third": {"epochs": 5.0}}},
            saving={"models": "last"},
        )
        assert refuse_changed_recipe(run, grown) == (["saving.models"], ["third"])

    @pytest.mark.parametrize(
        ("change", "keys"),
        [
            (lambda values: values["tasks"][0].update(labels=["w2", "w1"]), r"tasks\.first\.labels;"),
            (lambda values: values["tasks"].reverse(), r"tasks\.third;"),
            (lambda values: values["tasks"].pop(0), r"tasks\.first, tasks\.third;"),
            (
                lambda values: values["training"].update(per_task={"first": {"epochs": 9.0}}),
                r"\.per_task\.first;",
            ),
            (lambda values: values["training"].update(learning_rate=0.5), r"training\.learning_rate;"),
            (lambda values: values["evaluation"].update(tasks="all"), r"evaluation\.tasks;"),
        ],
    )
    def test_what_decided_the_tasks_learned_stays(self, tmp_path: Path, change: Change, keys: str) -> None:
        run = self.run(toy_recipe(tmp_path, tmp_path), tmp_path)
        values = toy_recipe(tmp_path, tmp_path, tasks=tasks(tmp_path, "first", "second", "third")).model_dump()
        change(values)
        with pytest.raises(UsageError, match=rf"these keys differ: (\S+, )*\S*{keys} take the changes back"):
            refuse_changed_recipe(run, Recipe.model_validate(values))

    def test_a_benchmark_grows_by_the_list_of_its_tasks(self, tmp_path: Path) -> None:
        began = Recipe.load("quickstart")
        assert began.benchmark is not None
        further = {**write_task(tmp_path, "third"), "instruction": "Say it."}
        spelt = [*(task.model_dump() for task in benchmark_tasks(began.benchmark.name, began.benchmark.order)), further]
        grown = Recipe.model_validate(began.model_dump() | {"benchmark": None, "tasks": spelt})
        assert refuse_changed_recipe(self.run(began, tmp_path), grown) == ([], ["third"])

    @pytest.mark.parametrize(
        ("protocol", "said"), [("multi_task", "it learns all tasks at once"), ("zero_shot", "it learns nothing")]
    )
    def test_protocols_without_a_sequence(self, tmp_path: Path, protocol: str, said: str) -> None:
        run = self.run(toy_recipe(tmp_path, tmp_path, protocol=protocol), tmp_path)
        grown = toy_recipe(tmp_path, tmp_path, protocol=protocol, tasks=tasks(tmp_path, "first", "second", "third"))
        with pytest.raises(UsageError, match=f"task 'third' is new, and the run's protocol is {protocol}: {said}"):
            refuse_changed_recipe(run, grown)


class TestRun:
    @pytest.fixture
    def begun(self, tmp_path: Path, toy: ToyRecipe, finished: Finished, toy_tasks: Path) -> tuple[RunFolder, Recipe]:
        """A copy of a run of one task, and the recipe with a second."""
        one = toy(tasks=tasks(toy_tasks, "first"), **SHORT)
        shutil.copytree(finished(one).path, tmp_path / "run")
        return RunFolder.open(tmp_path / "run"), toy(tasks=tasks(toy_tasks, "first", "second"), **SHORT)

    def test_what_was_done_is_sealed_and_the_former_recipe_kept(self, begun: tuple[RunFolder, Recipe]) -> None:
        run, recipe = begun
        former, done = run.recipe_yaml(), content(run.stage_folder(1, "first"))
        heard = Heard()
        train(recipe, run.path, resume=True, listener=heard)
        assert f"{run.path}: learns further tasks: second" in heard.remarks
        assert {task for task, _ in heard.steps} == {"second"}
        assert content(run.stage_folder(1, "first")) == done
        assert run.environment()["former_recipes"] == {text_sha256(former): former}
        assert run.recipe_yaml() == recipe_yaml(recipe)
        assert {key.split(".")[1] for key in run.environment()["read"] if key.startswith("tasks.")} == {
            "first",
            "second",
        }
        assert run.log.read()[-1]["stage"] == "second"
        assert [line["new"] for line in run.log.read() if line["event"] == "resumed"] == [["second"]]
        assert is_whole([*examine(run.path)])
        matrix = run.read_matrix()
        assert matrix.tasks == ["first", "second"]
        assert [[score is None for score in row] for row in matrix.rows] == [[False, True], [False, False]]

    def test_finished_stages_are_not_read_again(
        self, begun: tuple[RunFolder, Recipe], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, recipe = begun
        from clkit.engine import prepare

        read: list[tuple[str, str, int]] = []
        checked = prepare.checked_texts

        def noted(family: Any, recipe: Any, task: Any, split: Any, *, tested: bool) -> Any:
            read.append((task.name, split, len(task.split(split))))
            return checked(family, recipe, task, split, tested=tested)

        monkeypatch.setattr(prepare, "checked_texts", noted)
        train(recipe, run.path, resume=True)
        assert ("first", "train", 1) in read
        assert ("second", "train", 24) in read

    @pytest.mark.parametrize("writes", range(4))
    def test_a_kill_while_the_recipe_is_replaced(
        self, begun: tuple[RunFolder, Recipe], finished: Finished, monkeypatch: pytest.MonkeyPatch, writes: int
    ) -> None:
        run, recipe = begun
        left = writes

        def dying(write: Callable[..., None]) -> Callable[..., None]:
            def writes_or_dies(*arguments: Any) -> None:
                nonlocal left
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
                write(*arguments)

            return writes_or_dies

        with monkeypatch.context() as patched:
            for name in ("write_json", "write_atomically"):
                patched.setattr(run_folder, name, dying(getattr(run_folder, name)))
            with pytest.raises(KeyboardInterrupt):
                train(recipe, run.path, resume=True)
        assert run.recipe_is_original()
        assert run.recipe_yaml() in (recipe_yaml(recipe), *run.environment().get("former_recipes", {}).values()) or (
            writes == 0
        )
        train(recipe, run.path, resume=True)
        assert_same(run, finished(recipe))
        assert "growing" not in run.environment()
        assert len(run.environment()["former_recipes"]) == 1
        assert is_whole([*examine(run.path)])

    def test_stopped_inside_the_new_task(self, begun: tuple[RunFolder, Recipe], finished: Finished) -> None:
        run, recipe = begun
        stop(recipe, run.path, "second", 2, resume=True)
        heard = Heard()
        train(recipe, run.path, resume=True, listener=heard)
        assert heard.went_on_after == [2]
        assert_same(run, finished(recipe))

    def test_a_half_finished_run_grows_too(
        self, begun: tuple[RunFolder, Recipe], toy: ToyRecipe, toy_tasks: Path, finished: Finished
    ) -> None:
        run, recipe = begun
        three = toy(tasks=tasks(toy_tasks, "first", "second", "third"), **SHORT)
        train(recipe, run.path, resume=True)
        shutil.rmtree(run.stage_folder(2, "second"))
        train(three, run.path, resume=True)
        assert_same(run, finished(three))


def test_a_dry_run_says_what_is_finished_new_and_brought_along(
    tmp_path: Path, toy: ToyRecipe, toy_tasks: Path, finished: Finished
) -> None:
    kept = [{"name": "replay", "number": 4}, {"name": "ewc", "examples": 2}, {"name": "migu"}]
    one, two = (
        toy(tasks=tasks(toy_tasks, *names), strategies=kept, **SHORT) for names in (("first",), ("first", "second"))
    )
    run = finished(one)
    before = content(run.path)
    plan = dry_run(two, run.path)
    assert content(run.path) == before
    assert (plan.finished, plan.new, plan.steps) == (["first"], ["second"], {"first": 3, "second": 4})
    values = json.loads((run.stages()[0].folder / "strategies.json").read_text("utf-8"))["replay"]
    tensors = load_file(run.stages()[0].folder / "strategies.safetensors").values()
    assert plan.brought == {
        "replay": f"4 examples of first, {len(json.dumps(values)):,} bytes",
        "ewc": f"its state, {sum(tensor.nbytes for tensor in tensors):,} bytes",
        "migu": "nothing: it needs the model alone",
    }
    console = Console(file=StringIO(), width=100)
    print_plan(console, plan)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "finished, and left as it is: first; new: second" in lines
    assert f"replay brings {plan.brought['replay']}" in lines
    assert re.match(r"first +24 +24 +finished", lines[2])


class TestFill:
    def test_what_was_never_measured_is_measured_later(
        self, tmp_path: Path, toy_roberta: Path, toy_tasks: Path, finished: Finished
    ) -> None:
        """With the classifier's rows for labels that the model did not know, just as if it had known the task."""
        short = {**SHORT, "evaluation": {"tasks": "all"}, "objective": {"kind": "classification"}}
        one, two = (
            toy_recipe(toy_tasks, toy_roberta, tasks=tasks(toy_tasks, *names), **short)
            for names in (("first",), ("first", "second"))
        )
        shutil.copytree(finished(one).path, tmp_path / "run")
        run = train(two, tmp_path / "run", resume=True)
        assert run.read_matrix().zero_shot is not None
        assert run.read_matrix().zero_shot[1] is run.read_matrix().rows[0][1] is None
        assert run.read_matrix().metrics()["fwt"].value is None
        sealed = content(run.path / "tasks")
        fill(run, stage="first")
        assert run.read_matrix().zero_shot[1] is None
        fill(run)
        whole = finished(two)
        assert content(run.path / "tasks") == sealed
        for name in ("matrix.json", "metrics.json"):
            assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()
        assert run.scores("macro_f1").matrix == whole.scores("macro_f1").matrix
        assert read_examples(run) == read_examples(whole)  # for `clkit predictions`
        assert run.scores().notes == [
            f"{run.path}: measured later (clkit eval --fill): zero-shot: second",
            f"{run.path}: measured later (clkit eval --fill): after first: second",
        ]
        assert is_whole([*examine(run.path)])
        heard = Heard()
        fill(run, listener=heard)  # nothing is left to be measured
        assert heard.remarks == []

    def test_scores_of_a_stage_that_was_made_anew_or_of_a_changed_file_do_not_count(
        self, tmp_path: Path, toy: ToyRecipe, toy_tasks: Path, finished: Finished
    ) -> None:
        two = toy(tasks=tasks(toy_tasks, "first", "second"), **SHORT)
        shutil.copytree(finished(two).path, tmp_path / "run")
        run = RunFolder.open(tmp_path / "run")
        fill(run)
        assert run.read_matrix().rows[0][1] is not None
        (run.path / FILLED).write_text((run.path / FILLED).read_text().replace('"1"', '"2"'))
        assert [line for line in run.scores().damage if "filled.json was changed" in line]
        assert not is_whole([*examine(run.path)])
        (run.path / FILLED).unlink()
        fill(run)
        done = Done.read(run.stage_folder(1, "first"))
        Done({**done.payload, "training_seconds": 0.0}, done.files).write(run.stage_folder(1, "first"))
        assert run.read_matrix().rows[0][1] is None

    def test_other_test_data_fill_nothing(self, tmp_path: Path, toy: ToyRecipe) -> None:
        """Their scores would stand in one row with those of the data that the run was tested on."""
        data = tmp_path / "data"
        data.mkdir()
        run = train(toy(tasks=tasks(data, "first", "second"), **SHORT), tmp_path / "run")
        test = data / "second-test.jsonl"
        test.write_text("".join(test.read_text().splitlines(keepends=True)[:3]))
        with pytest.raises(UsageError, match=r"tasks.second.test is not what the run was tested on .* put it back"):
            fill(run, accept_changes=True)
        assert not (run.path / FILLED).exists()

    def test_what_cannot_be_filled(self, tmp_path: Path, toy: ToyRecipe, toy_tasks: Path, finished: Finished) -> None:
        two = toy(tasks=tasks(toy_tasks, "first", "second"), saving={"models": "last"}, **SHORT)
        shutil.copytree(finished(two).path, tmp_path / "run")
        heard = Heard()
        fill(RunFolder.open(tmp_path / "run"), listener=heard)
        assert heard.remarks == [
            "after first: its model was not kept (saving.models: last), so nothing can be measured"
        ]
        with pytest.raises(UsageError, match="the run's protocol is per_task, whose matrix has no cells to fill"):
            fill(finished(toy(tasks=tasks(toy_tasks, "first"), protocol="per_task", **SHORT)))


def test_models_that_learn_one_task_each(tmp_path: Path, toy: ToyRecipe, toy_tasks: Path, finished: Finished) -> None:
    known = [
        toy(tasks=tasks(toy_tasks, *names), protocol="per_task", **SHORT) for names in (("first",), ("first", "second"))
    ]
    shutil.copytree(finished(known[0]).path, tmp_path / "run")
    assert_same(train(known[1], tmp_path / "run", resume=True), finished(known[1]))
    header = json.loads((tmp_path / "run" / "matrix.json").read_text())
    assert header["tasks"] == ["first", "second"]

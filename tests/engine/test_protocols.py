"""The baselines: one model per task, all tasks together, none learned; each held against a sequence."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError

from clkit.engine import fit as fitting
from clkit.engine.evaluate import evaluate
from clkit.engine.prepare import prepare
from clkit.engine.protocols import PlannedStage, lineage, planned_stages
from clkit.engine.sequence import train
from clkit.errors import RunError
from clkit.events import Listener, Plan
from clkit.models.loading import load_model
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.recipe.smoke import smoke_recipe
from clkit.results.scores import Answers
from clkit.run.folder import RunFolder
from tests.toy import Finished, ToyRecipe, toy_recipe, write_task

# Dropout: every draw must be the same one. A fresh adapter per task is the tuning that depends most on the position.
ADAPTERS = {"method": "incremental_lora", "rank": 2, "dropout": 0.3}
TUNINGS = pytest.mark.parametrize("tuning", [{"method": "full"}, ADAPTERS], ids=["full", "incremental_lora"])


def saved_weights(recipe: Recipe, stage: Path) -> dict[str, torch.Tensor]:
    """The parameters of a model that has this one stage behind it."""
    return dict(load_model(recipe.model, recipe.tuning, [stage]).model.named_parameters())


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


class TestPlannedStages:
    @pytest.mark.parametrize(
        ("protocol", "tasks", "stages"),
        [
            ("sequential", "seen", [("first", "first", "first", 0), ("second", "second", "first second", 1)]),
            ("sequential", "final", [("first", "first", "", 0), ("second", "second", "first second", 1)]),
            ("sequential", "all", [("first", "first", "first second", 0), ("second", "second", "first second", 1)]),
            ("per_task", "seen", [("first", "first", "first", 0), ("second", "second", "second", 0)]),
            ("zero_shot", "seen", []),
            *(
                ("multi_task", tasks, [("all-tasks", "first second", "first second", 0)])
                for tasks in ("seen", "final", "all")
            ),
        ],
    )
    def test_each_protocol(self, tmp_path: Path, protocol: str, tasks: str, stages: list[tuple[str, str, str, int]]):
        recipe = toy_recipe(tmp_path, tmp_path, protocol=protocol, evaluation={"tasks": tasks})
        assert planned_stages(recipe) == [
            PlannedStage(name, tuple(learned.split()), tuple(tested.split()), position)
            for name, learned, tested, position in stages
        ]

    def test_lineage(self):
        stages = [PlannedStage(str(index), (), (), position) for index, position in enumerate((0, 1, 2, 0))]
        assert [list(range(4))[lineage(stages, index)] for index in range(4)] == [[0], [0, 1], [0, 1, 2], [3]]


class TestRefused:
    @pytest.mark.parametrize("protocol", ["multi_task", "per_task", "zero_shot"])
    def test_strategies(self, tmp_path: Path, protocol: str):
        with pytest.raises(ValidationError, match=rf"strategies: they limit forgetting.*protocol: {protocol} nothing"):
            toy_recipe(tmp_path, tmp_path, protocol=protocol, strategies=[{"name": "migu"}])

    @pytest.mark.parametrize(
        ("protocol", "changes", "message"),
        [
            (
                "multi_task",
                {"training": {"per_task": {"second": {"epochs": 2.0}}}},
                r"training.per_task.second.epochs: protocol: multi_task trains on all tasks at once",
            ),
            ("per_task", {"evaluation": {"tasks": "all"}}, "evaluation.tasks: 'all' does not fit protocol: per_task"),
            ("per_task", {"evaluation": {"tasks": "final"}}, "evaluation.tasks: 'final' does not fit"),
            ("zero_shot", {"evaluation": {"zero_shot": False}}, "evaluation.zero_shot: protocol: zero_shot measures"),
        ],
    )
    def test_what_would_mean_nothing(self, tmp_path: Path, protocol: str, changes: dict[str, Any], message: str):
        with pytest.raises(ValidationError, match=message):
            toy_recipe(tmp_path, tmp_path, protocol=protocol, **changes)
        toy_recipe(tmp_path, tmp_path, **changes)  # the control: a sequence takes it

    def test_an_inherited_value_of_one_task_can_be_unset(self, tmp_path: Path):
        toy_recipe(tmp_path, tmp_path, protocol="multi_task", training={"per_task": {"second": {"epochs": None}}})


class TestOneModelPerTask:
    @TUNINGS
    def test_each_task_trains_as_the_first_of_a_sequence(
        self, tmp_path: Path, flat_t5: Path, toy: ToyRecipe, finished: Finished, tuning: dict[str, Any]
    ):
        """Bit for bit, whatever its place: its seed is that of a sequence's first task."""
        tasks = [write_task(tmp_path, name) for name in ("first", "second")]
        one_epoch = {"per_task": {"second": {"epochs": 1.0}}}
        alone_recipe = toy_recipe(tmp_path, flat_t5, protocol="per_task", tuning=tuning, training=one_epoch)
        alone = train(alone_recipe, tmp_path / "alone")
        matrix = alone.read_matrix()
        assert [[score is None for score in row] for row in matrix.rows] == [[False, True], [True, False]]
        for index, order in enumerate(([0, 1], [1, 0])):
            recipe = toy_recipe(
                tmp_path, flat_t5, tuning=tuning, training=one_epoch, tasks=[tasks[place] for place in order]
            )
            sequence = train(recipe, tmp_path / f"sequence-{index}")
            ours, theirs = alone.stages()[index + 1], sequence.stages()[1]
            assert (ours.name, ours.payload["steps"]) == (theirs.name, theirs.payload["steps"])
            assert equal(saved_weights(recipe, ours.folder), saved_weights(recipe, theirs.folder))
            assert matrix.rows[index][index] == sequence.read_matrix().rows[0][0]
            later = sequence.stages()[2]
            assert not equal(
                saved_weights(recipe, alone.stages()[2 - index].folder), saved_weights(recipe, later.folder)
            )
        assert matrix.zero_shot == finished(toy()).read_matrix().zero_shot

    @TUNINGS
    def test_resuming_equals_never_having_stopped(
        self, tmp_path: Path, toy: ToyRecipe, finished: Finished, tuning: dict[str, Any]
    ):
        recipe = toy(protocol="per_task", tuning=tuning, training={"epochs": 4.0})
        whole = finished(recipe)
        run = tmp_path / "stopped"
        shutil.copytree(whole.path, run)
        shutil.rmtree(run / "tasks" / "02-second")
        first_done = (run / "tasks" / "01-first" / "done.json").stat().st_mtime_ns
        resumed = train(recipe, run, resume=True)
        assert (run / "tasks" / "01-first" / "done.json").stat().st_mtime_ns == first_done
        for file in ("matrix.json", "metrics.json"):
            assert (run / file).read_bytes() == (whole.path / file).read_bytes()
        a, b = (saved_weights(recipe, one.stages()[2].folder) for one in (whole, resumed))
        assert equal(a, b)

    @TUNINGS
    def test_a_saved_model_answers_as_it_did(self, toy: ToyRecipe, finished: Finished, tuning: dict[str, Any]):
        run = finished(toy(protocol="per_task", tuning=tuning, training={"epochs": 4.0}))
        for name in ("first", "second"):
            folder = next(stage.folder for stage in run.stages() if stage.name == name)
            kept = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
            (answers,) = evaluate(run, stage=name, tasks=[name])
            assert list(answers.records()) == kept

    @TUNINGS
    def test_only_the_last_model_is_kept_where_asked(self, tmp_path: Path, flat_t5: Path, tuning: dict[str, Any]):
        recipe = toy_recipe(tmp_path, flat_t5, protocol="per_task", tuning=tuning, saving={"models": "last"})
        run = train(recipe, tmp_path / "run")
        with pytest.raises(RunError, match="was not kept"):
            evaluate(run, stage="first")
        (answers,) = evaluate(run, tasks=["second"])
        assert answers.exact_match == run.read_matrix().rows[1][1]

    def test_the_model_before_is_let_go(self, tmp_path: Path, flat_t5: Path):
        prepared = prepare(toy_recipe(tmp_path, flat_t5, protocol="per_task"))
        fitting.fit(prepared, 0, Listener())
        trained = weakref.ref(prepared.family.model)
        gc.disable()
        try:
            prepared.renew()
        finally:
            gc.enable()
        assert trained() is None


class TestAllTasksTogether:
    def test_the_training_data_is_the_union_each_with_its_own_prompt(
        self, tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
    ):
        trained_on: list[list[dict[str, Any]]] = []

        class Recorded(fitting.TaskTrainer):
            def __init__(self, **arguments: Any) -> None:
                trained_on.append(arguments["train_dataset"].to_list())
                super().__init__(**arguments)

        monkeypatch.setattr(fitting, "TaskTrainer", Recorded)
        (tmp_path / "data").mkdir()
        tasks = [
            {**write_task(tmp_path / "data", name, examples), "instruction": instruction}
            for name, examples, instruction in (("first", 24, "w30 w31"), ("second", 13, "w32"))
        ]
        together = toy_recipe(tmp_path, flat_t5, protocol="multi_task", tasks=tasks)
        run = train(together, tmp_path / "together")
        train(toy_recipe(tmp_path, flat_t5, tasks=tasks), tmp_path / "sequence")
        union, *each = trained_on
        assert [len(data) for data in each] == [24, 13]
        assert union == [example for data in each for example in data]
        assert run.stages()[-1].payload["steps"] == 10  # 2 epochs of 37 examples, 8 at a time

    @TUNINGS
    def test_one_stage_tests_all_tasks(self, tmp_path: Path, toy: ToyRecipe, tuning: dict[str, Any]):
        recipe = toy(protocol="multi_task", tuning=tuning)
        run = train(recipe, tmp_path / "run")
        matrix = run.read_matrix()
        assert [stage.folder.name for stage in run.stages()] == ["00-zero-shot", "01-all-tasks"]
        assert len(matrix.rows) == 1
        assert matrix.in_progress is None
        assert {line["task"] for line in run.log.read() if line["event"] == "step"} == {"all-tasks"}
        for stage in (None, "all-tasks", "1"):
            assert [answers.exact_match for answers in evaluate(run, stage=stage)] == matrix.rows[0]
        whole = (run.path / "matrix.json").read_bytes()
        shutil.rmtree(run.path / "tasks" / "01-all-tasks")
        assert (train(recipe, run.path, resume=True).path / "matrix.json").read_bytes() == whole

    def test_it_learns_all_of_them(self, tmp_path: Path, flat_t5: Path):
        recipe = toy_recipe(
            tmp_path,
            flat_t5,
            protocol="multi_task",
            prompt={"task_name": True},
            training={"epochs": 12.0, "learning_rate": 2e-2},
            # The toy's tasks differ in their instruction only: the first word decides in both.
            tasks=[
                {**write_task(tmp_path, name), "instruction": word}
                for name, word in (("first", "w30"), ("second", "w32"))
            ],
        )
        row = train(recipe, tmp_path / "run").read_matrix().rows[0]
        assert min(score for score in row if score is not None) > 0.9


class TestNoneLearned:
    def test_only_the_zero_shot_row(self, toy: ToyRecipe, finished: Finished):
        run = finished(toy(protocol="zero_shot"))
        matrix, plain = run.read_matrix(), finished(toy()).read_matrix()
        assert (matrix.zero_shot, matrix.rows, matrix.in_progress) == (plain.zero_shot, [], None)
        assert [stage.folder.name for stage in run.stages()] == ["00-zero-shot"]
        assert [answers.exact_match for answers in evaluate(run)] == matrix.zero_shot

    def test_the_plan_shows_a_prompt_of_each_test(self, toy: ToyRecipe):
        recipe = toy(protocol="zero_shot")
        first = [task.test[0] for task in load_tasks(recipe)]
        samples = prepare(recipe).plan().samples
        assert [answer for _, answer in samples] == [row["answer"] for row in first]
        assert all(row["text"] in prompt for row, (prompt, _) in zip(first, samples, strict=True))

    def test_a_finished_run_is_not_tested_again(self, tmp_path: Path, toy: ToyRecipe, finished: Finished):
        recipe = toy(protocol="zero_shot")
        shutil.copytree(finished(recipe).path, tmp_path / "run")
        run = RunFolder.open(tmp_path / "run")
        before = {path: path.stat().st_mtime_ns for path in (run.path / "tasks").rglob("*")}
        train(recipe, run.path, resume=True)
        assert {path: path.stat().st_mtime_ns for path in (run.path / "tasks").rglob("*")} == before


class TestHeard:
    class Heard(Listener):
        plans: ClassVar[list[Plan]] = []
        heard: ClassVar[list[tuple[str, int, int]]] = []

        def started(self, plan: Plan) -> None:
            self.plans.append(plan)

        def task_started(self, task: str, index: int, steps: int) -> None:
            self.heard.append((task, index, steps))

    @pytest.mark.parametrize(
        ("protocol", "heard"),
        [
            ("per_task", [("first", 0, 6), ("second", 1, 6)]),
            ("multi_task", [("all-tasks", 0, 12)]),
            ("zero_shot", []),
        ],
    )
    def test_the_plan_is_what_happens(
        self, tmp_path: Path, flat_t5: Path, protocol: str, heard: list[tuple[str, int, int]]
    ):
        self.Heard.plans.clear()
        self.Heard.heard.clear()
        train(toy_recipe(tmp_path, flat_t5, protocol=protocol), tmp_path / "run", listener=self.Heard())
        (plan,) = self.Heard.plans
        assert self.Heard.heard == heard
        assert [(name, index, steps) for index, (name, steps) in enumerate(plan.steps.items())] == heard
        assert plan.examples == [(24, 24), (24, 24)]


@pytest.mark.parametrize(("protocol", "stages"), [("per_task", 4), ("multi_task", 1), ("zero_shot", 0)])
def test_the_miniature_keeps_the_protocol(protocol: str, stages: int):
    small = smoke_recipe(Recipe.load("t5_order1", ["strategies=[]", f"protocol={protocol}"]))
    assert len(prepare(small).plan().steps) == stages


def test_free_answers_are_scored_by_what_they_share_with_the_right_ones(toy: ToyRecipe, tmp_path: Path) -> None:
    """Beside a task with labels, whose answers are scored so only if that is the run's metric."""
    tasks = [task.model_dump(exclude_none=True) for task in toy().task_recipes()]
    tasks[1] = {**{key: value for key, value in tasks[1].items() if key != "labels"}, "answers": "free"}
    evaluation = {"max_new_tokens": 4, "numbers": True, "normalise": "none"}
    plain = train(toy(protocol="zero_shot", tasks=tasks, evaluation=evaluation), tmp_path / "plain")
    (stage,) = plain.stages()
    lines = (stage.folder / "predictions.jsonl").read_text("utf-8").splitlines()
    own = [line for line in map(json.loads, lines) if line["task"] == "second"]
    answers = Answers("second", [line["prediction"] for line in own], [line["gold"] for line in own])
    assert stage.payload["scores"]["rouge_l"] == [None, answers.rouge_l]
    assert plain.scores("token_f1").matrix.zero_shot == [None, answers.token_f1]
    scored = train(
        toy(protocol="zero_shot", tasks=tasks, evaluation=evaluation | {"metric": "rouge_l"}), tmp_path / "by"
    )
    first, second = scored.read_matrix().zero_shot or []
    assert second == answers.rouge_l
    assert first is not None

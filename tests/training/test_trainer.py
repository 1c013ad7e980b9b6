"""One task's training: the step does not depend on how it is split, and hooks stand at their places."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from safetensors.torch import load_file

from clkit.engine.prepare import labels_of, load_learner
from clkit.engine.sequence import train
from clkit.errors import ClkitError
from clkit.events import Listener
from clkit.models.examples import encode, task_texts
from clkit.recipe.inputs import load_tasks
from clkit.run.folder import RunFolder
from clkit.strategies import registry
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.options import StrategyOptions
from clkit.training.grouping import GroupedByLength, SortedWithinSteps
from clkit.training.trainer import TaskTrainer
from tests.interrupting import assert_same, stop
from tests.toy import toy_recipe, write_task


class RecorderOptions(StrategyOptions):
    name: Literal["recorder"]
    weight: float = 0.0


class Recorder(Strategy):
    """Writes down what is called, and adds weight · ½ Σ θ² where asked."""

    name: ClassVar[str] = "recorder"
    Options = RecorderOptions
    calls: ClassVar[list[str]] = []
    gradients: ClassVar[list[torch.Tensor]] = []

    def before_task(self, context: Context) -> None:
        self.calls.append("before_task")

    def training_data(self, context: Context, dataset: Any) -> Any:
        self.calls.append(f"training_data {sorted(dataset.column_names)}")
        return dataset

    def before_forward(self, context: Context, batch: Mapping[str, torch.Tensor]) -> None:
        self.calls.append(f"before_forward {'labels' in batch}")

    def after_forward(self, context: Context, batch: Mapping[str, torch.Tensor]) -> None:
        self.calls.append("after_forward")

    def penalty(self, context: Context) -> torch.Tensor | None:
        self.calls.append("penalty")
        if not self.options.weight:
            return None
        return self.options.weight * sum((p**2).sum() for p in context.model.parameters()) / 2

    def before_step(self, context: Context) -> None:
        self.calls.append("before_step")
        self.gradients.append(torch.cat([p.grad.flatten().clone() for p in context.model.parameters()]))

    def after_step(self, context: Context) -> None:
        self.calls.append("after_step")

    def after_task(self, context: Context) -> None:
        self.calls.append("after_task")


@pytest.fixture
def recorder() -> type[Recorder]:
    Recorder.calls.clear()
    Recorder.gradients.clear()
    return Recorder


def recorded(tmp_path: Path, model: Path, weight: float = 0.0, **training: Any) -> Path:
    entry = {"name": "tests.training.test_trainer:Recorder", "weight": weight}
    recipe = toy_recipe(
        tmp_path,
        model,
        strategies=[entry],
        training={"epochs": 0.4, **training},  # two steps of each task
        evaluation={"zero_shot": False, "tasks": "final"},
    )
    return train(recipe, tmp_path / "run").path


def test_hooks_are_called_at_their_places(tmp_path: Path, flat_t5: Path, recorder: type[Recorder]) -> None:
    recorded(tmp_path, flat_t5, epochs=1.0, micro_batch_size=4, batch_size=12)
    one_step = ["before_forward True", "after_forward"] * 3 + ["penalty", "before_step", "after_step"]
    one_task = ["before_task", "training_data ['answer', 'prompt', 'task']", *one_step, *one_step, "after_task"]
    assert recorder.calls == one_task * 2


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_the_gradient_does_not_depend_on_the_split_into_micro_batches(
    tmp_path: Path, flat_t5: Path, recorder: type[Recorder], micro_batch_size: int
) -> None:
    recorded(tmp_path, flat_t5)
    (tmp_path / "run").rename(tmp_path / "whole")
    whole = list(recorder.gradients)
    recorder.gradients.clear()
    recorded(tmp_path, flat_t5, micro_batch_size=micro_batch_size)
    assert len(recorder.gradients) == len(whole)
    torch.testing.assert_close(recorder.gradients[0], whole[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["text_to_text", "pretraining"])
def test_every_label_of_a_causal_model_counts(tmp_path: Path, flat_llama: Path, kind: str) -> None:
    """One step over all examples, in micro-batches, against the model's own loss of one example at a time."""
    recipe = toy_recipe(
        tmp_path,
        flat_llama,
        objective={"kind": kind} | ({"block_tokens": 16} if kind == "pretraining" else {}),
        prompt={"max_tokens": 512},
        training={"batch_size": 64, "micro_batch_size": 4, "epochs": 1.0},
        evaluation={"zero_shot": False, "tasks": "final"},
    )
    tasks = load_tasks(recipe)
    loaded = load_learner(recipe, labels_of(tasks))
    nll = tokens = 0.0
    for example in encode(loaded, task_texts(tasks[0], "train", loaded, recipe).examples):
        ids, labels = (torch.tensor([example[name]]) for name in ("input_ids", "labels"))
        counted = int((labels[:, 1:] != -100).sum())
        nll += loaded.model(input_ids=ids, labels=labels).loss.item() * counted
        tokens += counted
    log = train(recipe, tmp_path / "run").log.read()
    assert next(line for line in log if line["event"] == "step")["task_loss"] == pytest.approx(nll / tokens, rel=1e-5)


def test_checkpointing_does_not_change_the_gradient(tmp_path: Path, flat_t5: Path, recorder: type[Recorder]) -> None:
    recorded(tmp_path, flat_t5)
    (tmp_path / "run").rename(tmp_path / "whole")
    whole = recorder.gradients[0]
    recorder.gradients.clear()
    recorded(tmp_path, flat_t5, gradient_checkpointing=True)
    torch.testing.assert_close(recorder.gradients[0], whole, rtol=1e-4, atol=1e-6)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called, the loss is scaled as that of fp16, which needs a GPU, and unscaled as by accelerate."""
    proper = TaskTrainer.create_accelerator_and_postprocess

    def with_scaler(self: Any) -> None:
        proper(self)
        accelerator, scaler = self.accelerator, torch.amp.GradScaler("cpu", init_scale=1024.0)
        accelerator.scaler = scaler
        accelerator.unscale_gradients = lambda: [scaler.unscale_(one.optimizer) for one in accelerator._optimizers]

    return lambda: monkeypatch.setattr(TaskTrainer, "create_accelerator_and_postprocess", with_scaler)


def test_strategies_see_gradients_without_the_scale_of_half_precision(
    tmp_path: Path, flat_t5: Path, recorder: type[Recorder], scaled: Callable[[], None]
) -> None:
    runs, gradients = [], []
    for way in ("plain", "scaled"):
        recorder.gradients.clear()
        runs.append(recorded(tmp_path, flat_t5, weight=0.1).rename(tmp_path / way))
        gradients.append(recorder.gradients[-1])
        scaled()
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    plain, other = (load_file(run / "tasks/02-second/model/model.safetensors") for run in runs)
    for name, tensor in plain.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_a_step_that_a_strategy_broke_is_left_out_too(
    tmp_path: Path, flat_t5: Path, recorder: type[Recorder], scaled: Callable[[], None], half: bool
) -> None:
    if half:
        scaled()
    run = recorded(tmp_path, flat_t5, weight=1e38, on_nan="skip")
    weights, start = (
        load_file(file) for file in (run / "tasks/02-second/model/model.safetensors", flat_t5 / "model.safetensors")
    )
    assert all(torch.equal(weights[name], tensor) for name, tensor in start.items())


@pytest.mark.parametrize("caches", [True, False])
def test_a_model_keeps_what_its_configuration_says_of_its_cache(tmp_path: Path, flat_t5: Path, caches: bool) -> None:
    model = tmp_path / "model"
    shutil.copytree(flat_t5, model)
    config = json.loads((model / "config.json").read_text("utf-8"))
    (model / "config.json").write_text(json.dumps({**config, "use_cache": caches}), "utf-8")
    recipe = toy_recipe(tmp_path, model, evaluation={"zero_shot": False, "tasks": "final"}, training={"epochs": 0.4})
    saved = train(recipe, tmp_path / "run").path / "tasks/02-second/model/config.json"
    assert json.loads(saved.read_text("utf-8"))["use_cache"] is caches


class Traces(Strategy):
    """Remembers in what precision each task is computed, and what is left on the model once it is trained."""

    name: ClassVar[str] = "traces"
    precisions: ClassVar[list[set[torch.dtype]]] = []
    left: ClassVar[list[tuple[int, bool, int]]] = []

    def before_task(self, context: Context) -> None:
        self.precisions.append(set())
        head = context.model.get_output_embeddings()
        self._hook = head.register_forward_hook(lambda *given: self.precisions[-1].add(given[-1].dtype))

    def after_task(self, context: Context) -> None:
        self._hook.remove()
        hooks = sum(len(module._forward_hooks) for module in context.model.modules())
        self.left.append((hooks, "forward" in vars(context.model), self._moments(context)))

    def _moments(self, context: Context) -> int:
        """Numbers that optimizers of the model's parameters hold."""
        own = {id(one) for one in context.model.parameters()}
        optimizers = [one for one in gc.get_objects() if issubclass(type(one), torch.optim.Optimizer)]
        states = [state for one in optimizers for parameter, state in one.state.items() if id(parameter) in own]
        return sum(held.numel() for state in states for held in state.values() if isinstance(held, torch.Tensor))


@pytest.mark.parametrize("method", ["lora", "incremental_lora"])
def test_training_leaves_nothing_on_the_model(tmp_path: Path, flat_t5: Path, method: str) -> None:
    """A hook or a wrapper more with every task would make the fifteenth slower than the second."""
    Traces.precisions.clear()
    Traces.left.clear()
    recipe = toy_recipe(
        tmp_path,
        flat_t5,
        tasks=[{**write_task(tmp_path, "first"), "name": name} for name in ("a", "b", "c")],
        tuning={"method": method, "rank": 4},
        strategies=[{"name": f"{__name__}:Traces"}],
        training={"epochs": 0.4, "gradient_checkpointing": True, "precision": "bf16"},
        evaluation={"zero_shot": False, "tasks": "final"},
    )
    train(recipe, tmp_path / "run")
    assert Traces.left == [(0, False, 0)] * 3
    assert Traces.precisions == [{torch.bfloat16}] * 3  # the later tasks too


def test_magnitudes_count_once_under_checkpointing(tmp_path: Path, flat_t5: Path) -> None:
    """The same rows are masked although the forward pass runs twice."""
    runs = []
    for checkpointing in (False, True):
        recipe = toy_recipe(
            tmp_path,
            flat_t5,
            strategies=[{"name": "migu", "mask": "update", "first_task": "masked"}],
            training={"gradient_checkpointing": checkpointing, "micro_batch_size": 4, "batch_size": 8, "epochs": 1.0},
            evaluation={"zero_shot": False, "tasks": "final"},
        )
        run = train(recipe, tmp_path / f"run-{checkpointing}")
        runs.append(load_file(run.stages()[-1].folder / "model" / "model.safetensors"))
    for name in runs[0]:
        torch.testing.assert_close(runs[0][name], runs[1][name], atol=1e-3, rtol=0)


def test_a_penalty_enters_once_per_step_whatever_the_micro_batches(
    tmp_path: Path, flat_t5: Path, recorder: type[Recorder]
) -> None:
    """The gradient of weight · ½ Σ θ² is weight · θ: known in closed form, and independent of the data."""
    gradients = []
    for weight in (0.0, 0.5):
        recorder.gradients.clear()
        recorded(tmp_path, flat_t5, weight=weight, micro_batch_size=2)
        (tmp_path / "run").rename(tmp_path / f"run-{weight}")
        gradients.append(recorder.gradients[0])
    from clkit.models.loading import load_model
    from clkit.models.sections import FullTuning, ModelSection

    start = load_model(ModelSection(name=str(flat_t5)), FullTuning()).model
    theta = torch.cat([p.detach().flatten() for p in start.parameters()])
    torch.testing.assert_close(gradients[1] - gradients[0], 0.5 * theta, rtol=1e-3, atol=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, flat_t5: Path, recorder: type[Recorder]) -> None:
    with pytest.raises(ClkitError, match=r"the loss of task 'first' is inf at step 1; lower training.learning_rate"):
        recorded(tmp_path, flat_t5, weight=1e38)


class BreaksLast(Strategy):
    """Makes one gradient of the last step NaN, where no later loss shows it."""

    name: ClassVar[str] = "breaks_last"

    def before_step(self, context: Context) -> None:
        if context.step == 5:
            context.model.shared.weight.grad[0] = torch.nan


def test_a_model_that_the_last_step_broke_is_not_kept(tmp_path: Path, flat_t5: Path) -> None:
    strategies = [{"name": "tests.training.test_trainer:BreaksLast"}]
    recipe = toy_recipe(tmp_path, flat_t5, strategies=strategies, training={"log_every": 100})
    with pytest.raises(ClkitError, match=r"the loss of task 'first' is nan at step 6"):
        train(recipe, tmp_path / "run")
    assert [stage.index for stage in RunFolder.open(tmp_path / "run").stages()] == [0]
    skipping = recipe.model_copy(update={"training": recipe.training.model_copy(update={"on_nan": "skip"})})
    run = train(skipping, tmp_path / "skipped")
    assert [stage.index for stage in run.stages()] == [0, 1, 2]


def test_what_is_logged_is_a_number_under_a_name_of_its_own() -> None:
    context = Context(None, None, task_index=0, seed=0)  # type: ignore[arg-type]
    read_later = torch.tensor(2.0)
    context.log(own=numpy.float64(0.5), other=read_later)
    read_later.add_(1)  # what was logged is the value of that moment
    assert [type(values[0]) for values in context.read_pending().values()] == [float, float]
    with pytest.raises(RuntimeError):
        context.log(several=torch.zeros(2))
    assert context.take_terms() == {"own": 0.5, "other": 2.0}
    for name in ("step", "task_loss", "learning_rate"):
        with pytest.raises(ValueError, match=f"the engine logs '{name}' itself; choose another name"):
            context.log(**{name: 1.0})


def test_a_hook_that_does_not_exist_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.before_batch is no hook of Strategy \(hooks: before_task, "):
        type("Wrong", (Strategy,), {"before_batch": lambda self: None})


def test_something_that_is_no_strategy_is_refused() -> None:
    with pytest.raises(ClkitError, match=r"is not a subclass of clkit\.Strategy"):
        registry.load_strategy("tests.training.test_trainer:RecorderOptions")


def test_grouping_by_length_goes_on_inside_a_task_to_the_last_bit(tmp_path: Path, flat_llama: Path) -> None:
    (tmp_path / "long").mkdir()
    recipe = toy_recipe(
        tmp_path,
        flat_llama,
        tasks=[write_task(tmp_path / "long", "first", examples=40)],
        training={"group_by_length": True},
        evaluation={"zero_shot": False, "tasks": "final"},
    )
    whole = train(recipe, tmp_path / "whole")
    stop(recipe, tmp_path / "stopped", "first", 7)  # of five in each of two passes
    assert_same(train(recipe, tmp_path / "stopped", resume=True), whole)


def test_batches_grouped_by_length_need_little_padding_and_change_with_each_pass() -> None:
    lengths = [1 + 37 * index % 100 for index in range(100)]

    def padding(order: list[int]) -> int:
        batches = [[lengths[index] for index in order[start : start + 10]] for start in range(0, 100, 10)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    orders = [list(GroupedByLength(lengths, 10, seed, lambda epoch=epoch: epoch)) for seed, epoch in [(3, 0), (3, 1)]]
    assert orders[0] != orders[1]
    assert orders[0] == list(GroupedByLength(lengths, 10, 3, lambda: 0))
    for order in orders:
        assert sorted(order) == list(range(100))
        assert padding(order) < 0.7 * padding(list(range(100)))
        assert lengths[order[0]] == 100


def test_per_task_training(tmp_path: Path, flat_t5: Path) -> None:
    class Heard(Listener):
        steps: ClassVar[list[tuple[str, int]]] = []
        rates: ClassVar[set[float]] = set()

        def task_started(self, task: str, index: int, steps: int) -> None:
            self.steps.append((task, steps))

        def logged(self, terms: Mapping[str, float]) -> None:
            self.rates.add(terms["learning_rate"])

    recipe = toy_recipe(
        tmp_path,
        flat_t5,
        training={"per_task": {"second": {"epochs": 1.0, "learning_rate": 5e-3}}},
        evaluation={"zero_shot": False, "tasks": "final"},
    )
    folder = train(recipe, tmp_path / "run", listener=Heard())
    assert Heard.steps == [("first", 6), ("second", 3)]
    assert Heard.rates == {1e-2, 5e-3}
    assert [stage.payload["steps"] for stage in folder.stages()] == [6, 3]


def test_the_micro_batches_of_a_step_are_sorted_and_the_steps_are_the_trainers() -> None:
    lengths = [1 + 37 * index % 100 for index in range(95)]
    stock = SeedableRandomSampler(lengths, data_seed=3)
    for epoch in (0, 1, 0):
        ours = list(SortedWithinSteps(lengths, 10, 3, lambda epoch=epoch: epoch))
        stock.set_epoch(epoch)
        theirs = list(stock)
        for start in range(0, 95, 10):
            step = slice(start, start + 10)
            assert sorted(ours[step]) == sorted(theirs[step])
            assert [lengths[index] for index in ours[step]] == sorted(
                (lengths[one] for one in ours[step]), reverse=True
            )

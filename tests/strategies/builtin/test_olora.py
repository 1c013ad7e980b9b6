"""O-LoRA's penalty against plain loops over adapters and entries in float64, and what it does to training."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from clkit.engine.sequence import train
from clkit.errors import RecipeError, StrategyError
from clkit.models.loading import begin_task
from clkit.models.sections import IncrementalLoraTuning
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from clkit.strategies.builtin.olora import OLoRA, OLoRAOptions
from clkit.strategies.contract import Context
from tests.strategies.loaded import load_toy
from tests.toy import toy_recipe, write_task

RANK, WIDTH, LAYERS = 3, 16, 12  # q and v: two layers of the encoder, two of the decoder with two attentions each
TUNING = IncrementalLoraTuning(method="incremental_lora", rank=RANK, alpha=6.0, dropout=0.0)
NAMES = ["a", "b", "c", "d"]


# --- the penalty --------------------------------------------------------------------------------------------------


class Sequence:
    """A model that goes through tasks with O-LoRA; training is replaced by drawing the adapter's matrices."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.strategy = OLoRA(OLoRAOptions(name="olora", **options))
        self.loaded = load_toy(folder, TUNING, seed=1)
        self.earlier: list[dict[str, np.ndarray]] = []

    def context(self, index: int) -> Context:
        task: Any = SimpleNamespace(name=NAMES[index])
        return Context(self.loaded, task, index, seed=5)

    def matrices(self, which: str) -> dict[str, torch.nn.Parameter]:
        """The trained A's or B's by layer, found by their names rather than through peft's classes."""
        return {
            name.split("base_model.model.")[1].split(".lora_")[0]: parameter
            for name, parameter in self.loaded.model.named_parameters()
            if parameter.requires_grad and f".lora_{which}." in name
        }

    def begin(self, index: int) -> Context:
        """Task ``index`` with matrices that are drawn anew, in float64."""
        begin_task(self.loaded, TUNING, index, seed=index)
        self.loaded.model.double()
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            for matrix in [*self.matrices("A").values(), *self.matrices("B").values()]:
                matrix.copy_(torch.randn(matrix.shape, generator=generator, dtype=torch.float64) * 0.1)
        where = self.context(index)
        self.strategy.before_task(where)
        return where

    def end(self, where: Context) -> None:
        self.earlier.append({layer: a.detach().numpy().copy() for layer, a in self.matrices("A").items()})
        self.strategy.after_task(where)

    def until(self, index: int) -> Context:
        """All tasks before ``index`` learned, that task begun."""
        for task in range(index):
            self.end(self.begin(task))
        return self.begin(index)

    def gradients(self, penalty: torch.Tensor) -> dict[str, dict[str, np.ndarray]]:
        return {
            which: {
                layer: gradient.numpy()
                for layer, gradient in zip(
                    self.matrices(which),
                    torch.autograd.grad(
                        penalty,
                        list(self.matrices(which).values()),
                        allow_unused=True,
                        materialize_grads=True,
                        retain_graph=True,
                    ),
                    strict=True,
                )
            }
            for which in "AB"
        }


def overlap(earlier: list[dict[str, np.ndarray]], new: dict[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
    """Σ over adapters, layers and entries of |A_i Aᵀ|, and its derivative by each A: one pair of rows after another."""
    value, gradient = 0.0, {layer: np.zeros_like(a) for layer, a in new.items()}
    for adapter in earlier:
        for layer, a in new.items():
            for row in adapter[layer]:
                for j in range(len(a)):
                    product = sum(float(x) * float(y) for x, y in zip(row, a[j], strict=True))
                    value += abs(product)
                    gradient[layer][j] += math.copysign(1.0, product) * row
    return value, gradient


def frobenius(matrix: np.ndarray) -> float:
    return math.sqrt(sum(float(x) ** 2 for x in matrix.flat))


def arrays(matrices: dict[str, torch.nn.Parameter]) -> dict[str, np.ndarray]:
    return {layer: matrix.detach().numpy().copy() for layer, matrix in matrices.items()}


@pytest.mark.parametrize("index", [1, 3])
@pytest.mark.parametrize(("lambda1", "lambda2"), [(0.5, 0.0), (5.0, 0.3), (0.0, 0.1)])
def test_value_and_gradient_are_those_of_plain_loops(toy_t5: Path, index: int, lambda1: float, lambda2: float) -> None:
    sequence = Sequence(toy_t5, lambda1=lambda1, lambda2=lambda2)
    where = sequence.until(index)
    a, b = arrays(sequence.matrices("A")), arrays(sequence.matrices("B"))
    assert len(a) == len(b) == LAYERS
    expected, slope = overlap(sequence.earlier, a)
    norm = sum(frobenius(matrix) for matrix in [*a.values(), *b.values()])

    penalty = sequence.strategy.penalty(where)
    assert penalty is not None
    assert penalty.item() == pytest.approx(lambda1 * expected + lambda2 * norm, rel=1e-12)
    gradients = sequence.gradients(penalty)
    for layer in a:
        wanted = lambda1 * slope[layer] + lambda2 * a[layer] / frobenius(a[layer])
        np.testing.assert_allclose(gradients["A"][layer], wanted, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            gradients["B"][layer], lambda2 * b[layer] / frobenius(b[layer]), rtol=1e-10, atol=1e-12
        )
    terms = where.take_terms()  # as they enter the loss; a term that is off is not logged
    wanted_terms = {"olora_orthogonality": lambda1 * expected, "olora_norm": lambda2 * norm}
    assert terms == pytest.approx({name: value for name, value in wanted_terms.items() if value}, rel=1e-12)


def test_in_the_first_task_only_the_norm_acts(toy_t5: Path) -> None:
    without, with_norm = Sequence(toy_t5, lambda1=5.0), Sequence(toy_t5, lambda1=5.0, lambda2=0.1)
    where = without.begin(0)
    assert without.strategy.penalty(where) is None
    assert where.take_terms() == {}
    where = with_norm.begin(0)
    assert with_norm.strategy.penalty(where) is not None
    assert set(where.take_terms()) == {"olora_norm"}


def test_the_norm_of_a_fresh_adapter_has_a_finite_gradient(toy_t5: Path) -> None:
    """A fresh B is zero, where the norm has no derivative."""
    sequence = Sequence(toy_t5, lambda2=0.1)
    where = sequence.begin(0)
    with torch.no_grad():
        for b in sequence.matrices("B").values():
            b.zero_()
    penalty = sequence.strategy.penalty(where)
    assert penalty is not None
    assert all(not gradient.any() for gradient in sequence.gradients(penalty)["B"].values())


# --- tasks with weights of their own ------------------------------------------------------------------------------


def test_a_task_may_have_its_own_weights(toy_t5: Path) -> None:
    per_task = {"b": {"lambda1": 0.0}, "c": {"lambda2": 0.3}, "d": {"lambda1": 5.0, "lambda2": 0.0}}
    sequence = Sequence(toy_t5, lambda1=0.5, lambda2=0.1, per_task=per_task)
    factors = [(0.5, 0.1), (0.0, 0.1), (0.5, 0.3), (5.0, 0.0)]
    for index, (lambda1, lambda2) in enumerate(factors):
        where = sequence.begin(index)
        a, b = arrays(sequence.matrices("A")), arrays(sequence.matrices("B"))
        norm = sum(frobenius(matrix) for matrix in [*a.values(), *b.values()])
        penalty = sequence.strategy.penalty(where)
        assert penalty.item() == pytest.approx(lambda1 * overlap(sequence.earlier, a)[0] + lambda2 * norm)
        sequence.end(where)


def test_nothing_is_computed_where_both_weights_are_zero(toy_t5: Path) -> None:
    sequence = Sequence(toy_t5, per_task={"b": {"lambda1": 0.0}})
    where = sequence.until(1)
    assert sequence.strategy.penalty(where) is None
    sequence.end(where)
    where = sequence.begin(2)  # the adapter of the task without a penalty is kept nevertheless
    expected, _ = overlap(sequence.earlier, arrays(sequence.matrices("A")))
    assert len(sequence.earlier) == 2
    assert sequence.strategy.penalty(where).item() == pytest.approx(0.5 * expected)


def write_recipe(folder: Path, model: Path, entry: str) -> Path:
    """A recipe file with two tasks whose line 6 is ``entry``, a line of O-LoRA's options."""
    tasks = [write_task(folder, name) for name in ("first", "second")]
    lines = [
        "name: toy",
        f"model: {{name: {model}}}",
        f"tasks: {tasks}",
        "tuning: {method: incremental_lora}",
        "strategies: [{name: olora,",
        f"  {entry}}}]",
    ]
    (folder / "recipe.yaml").write_text("\n".join(lines), "utf-8")
    return folder / "recipe.yaml"


def test_a_misspelt_task_is_refused_with_what_was_probably_meant(tmp_path: Path, toy_t5: Path) -> None:
    recipe = write_recipe(tmp_path, toy_t5, "per_task: {secnd: {lambda1: 5.0}}")
    with pytest.raises(RecipeError) as error:
        Recipe.load(recipe)
    assert error.value.problems == [
        f"{recipe}:6: strategies.olora.per_task: no task named 'secnd', did you mean 'second'? (tasks: first, second)"
    ]
    Recipe.load(write_recipe(tmp_path, toy_t5, "per_task: {second: {lambda1: 5.0}}"))


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("lambda1: -1", r":6: strategies.olora.lambda1: -1 is out of range \(allowed: a number from 0\)"),
        ("per_task: {first: {lamda1: 1}}", r":6: strategies.olora.per_task.first: unknown key 'lamda1', did you mean"),
        ("per_task: {first: {lambda2: -1}}", r":6: strategies.olora.per_task.first.lambda2: -1 is out of range \(all"),
    ],
)
def test_wrong_weights_are_refused(tmp_path: Path, toy_t5: Path, entry: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        Recipe.load(write_recipe(tmp_path, toy_t5, entry))


# --- guards -------------------------------------------------------------------------------------------------------


def test_an_overlap_of_exactly_zero_is_an_error(toy_t5: Path) -> None:
    sequence = Sequence(toy_t5)
    where = sequence.until(1)
    sequence.strategy.load_state_dict({name: torch.zeros_like(a) for name, a in sequence.strategy.state_dict().items()})
    with pytest.raises(StrategyError, match="exactly 0 on task 'b', so an A is empty"):
        sequence.strategy.before_training(where)


def test_a_model_without_adapters_is_an_error(toy_t5: Path) -> None:
    sequence = Sequence(toy_t5)
    sequence.loaded = load_toy(toy_t5)
    with pytest.raises(StrategyError, match="no linear layer of the model carries a LoRA adapter"):
        sequence.strategy.before_task(sequence.context(0))


def test_kept_matrices_of_another_number_of_tasks_or_other_layers_are_an_error(toy_t5: Path) -> None:
    sequence = Sequence(toy_t5)
    sequence.until(1)
    state = sequence.strategy.state_dict()
    for wrong in ({}, dict(list(state.items())[1:]), {name: a[:2] for name, a in state.items()}):
        sequence.strategy.load_state_dict(wrong)
        with pytest.raises(StrategyError, match="the A matrices kept are not those of the 1 tasks"):
            sequence.strategy.before_task(sequence.context(1))
    sequence.strategy.load_state_dict(state)
    sequence.strategy.before_task(sequence.context(1))


def test_other_tunings_are_refused(tmp_path: Path, toy_t5: Path) -> None:
    with pytest.raises(ValueError, match=r"strategies.olora: does not work with tuning.method: full"):
        toy_recipe(tmp_path, toy_t5, strategies=[{"name": "olora"}])


# --- what is kept -------------------------------------------------------------------------------------------------


def test_the_state_is_all_earlier_a_in_the_order_of_tasks_and_comes_back(toy_t5: Path) -> None:
    sequence = Sequence(toy_t5)
    where = sequence.until(3)
    state = sequence.strategy.state_dict()
    assert set(state) == {f"A/{layer}" for layer in sequence.matrices("A")}
    for name, kept in state.items():
        assert kept.shape == (3 * RANK, WIDTH)
        rows = np.concatenate([adapter[name.removeprefix("A/")] for adapter in sequence.earlier])
        np.testing.assert_array_equal(kept.numpy(), rows)

    again = OLoRA(sequence.strategy.options)
    again.load_state_dict({name: kept.clone() for name, kept in state.items()})
    again.before_task(where)
    assert torch.equal(again.penalty(where), sequence.strategy.penalty(where))
    with pytest.raises(KeyError, match="'B/"):
        again.load_state_dict({**state, "B/encoder": torch.zeros(1)})


def test_what_is_kept_is_a_copy_without_a_graph(toy_t5: Path) -> None:
    """Steps would otherwise drag the earlier tasks' graphs along, and merging would change what is kept."""
    sequence = Sequence(toy_t5)
    where = sequence.begin(0)
    trained = sequence.matrices("A")
    sequence.end(where)
    before = {name: kept.clone() for name, kept in sequence.strategy.state_dict().items()}
    with torch.no_grad():
        for a in trained.values():
            a.fill_(7.0)
    where = sequence.begin(1)
    for _ in range(2):
        penalty = sequence.strategy.penalty(where)
        assert penalty is not None
        penalty.backward()
    for name, kept in sequence.strategy.state_dict().items():
        assert torch.equal(kept, before[name])
        assert (kept.requires_grad, kept.grad_fn, kept.grad) == (False, None, None)


def test_memory_is_that_of_the_state(toy_t5: Path) -> None:
    sequence = Sequence(toy_t5)
    loaded = sequence.loaded
    promised = sequence.strategy.memory(loaded, 3)  # asked before the run, in float32
    sequence.until(3)
    kept = sequence.strategy.state_dict().values()
    assert promised == sum(a.numel() * torch.float32.itemsize for a in kept) == 3 * LAYERS * RANK * WIDTH * 4


# --- in training --------------------------------------------------------------------------------------------------


def learned(folder: Path, model: Path, strategies: list[dict[str, Any]], **training: Any) -> RunFolder:
    """A run over the two toy tasks; its tests are kept few."""
    recipe = toy_recipe(
        folder,
        model,
        tuning=TUNING.model_dump(),
        strategies=strategies,
        training=training,
        evaluation={"tasks": "final", "zero_shot": False},
    )
    return train(recipe, folder / f"run-{len(list(folder.iterdir()))}")


def overlap_of_saved_adapters(run: RunFolder) -> float:
    """Σ|A_1 A_2ᵀ| of the adapters that a run has saved."""
    first, second = (
        {
            name: a
            for name, a in load_file(stage.folder / "adapter" / "adapter_model.safetensors").items()
            if "_A" in name
        }
        for stage in run.stages()
    )
    assert len(first) == LAYERS
    return float(sum(np.abs(first[name] @ second[name].T).sum() for name in first))


def second_task(run: RunFolder) -> list[dict[str, Any]]:
    return [line for line in run.log.read() if line["event"] == "step" and line["task"] == "second"]


def test_training_makes_the_subspaces_orthogonal(tmp_path: Path, toy_t5: Path) -> None:
    training = {"epochs": 10.0, "schedule": "linear"}
    strong = learned(tmp_path, toy_t5, [{"name": "olora", "lambda1": 10.0}], **training)
    plain = learned(tmp_path, toy_t5, [], **training)
    overlaps = [line["olora_orthogonality"] for line in second_task(strong)]
    assert overlaps[-1] < 0.1 * overlaps[0]
    assert overlap_of_saved_adapters(strong) < 0.1 * overlap_of_saved_adapters(plain)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, toy_t5: Path) -> RunFolder:
    return learned(tmp_path_factory.mktemp("alone"), toy_t5, [{"name": "olora", "lambda1": 0.5}])


@pytest.mark.parametrize(
    "other",
    [
        {"name": "migu", "threshold": 0.3},  # the paper's 0.05 masks no row of layers as narrow as these
        {"name": "replay"},
    ],
    ids=["migu", "replay"],
)
def test_it_composes(tmp_path: Path, toy_t5: Path, alone: RunFolder, other: dict[str, Any]) -> None:
    both = learned(tmp_path, toy_t5, [{"name": "olora", "lambda1": 0.5}, other])
    assert all(line["olora_orthogonality"] == line["olora_penalty"] > 0 for line in second_task(both))
    for run in (alone, learned(tmp_path, toy_t5, [other])):  # each of the two has its part in the result
        assert overlap_of_saved_adapters(run) != overlap_of_saved_adapters(both)

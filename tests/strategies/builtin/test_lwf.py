"""LwF's loss against explicit softmax and divergence in float64 numpy, from two copies of the model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from clkit.errors import StrategyError
from clkit.models.family import Family
from clkit.models.layers import select_layers
from clkit.models.loading import load_model
from clkit.models.objective import Classification
from clkit.models.sections import FullTuning, IncrementalLoraTuning, LoraTuning, ModelSection, Tuning
from clkit.strategies.builtin import lwf as defined
from clkit.strategies.builtin.lwf import LwF, LwFOptions, distillation
from clkit.strategies.builtin.migu import MIGU
from clkit.strategies.builtin.osf import OSF, OSFOptions
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.migu_options import MIGUOptions
from tests.strategies.loaded import load_toy

TUNINGS: dict[str, Tuning] = {
    "full": FullTuning(),
    "frozen": FullTuning(freeze=["embeddings", "norms"]),
    "lora": LoraTuning(method="lora", rank=4, dropout=0.5),
    "incremental_lora": IncrementalLoraTuning(method="incremental_lora", rank=4, dropout=0.5),
}
Batch = dict[str, torch.Tensor]


def toy(folder: Path, tuning: Tuning | None = None, dropout: float = 0.0) -> Family:
    loaded = load_toy(folder, tuning)
    loaded.model.double()
    for module in loaded.model.modules():
        if isinstance(module, torch.nn.Dropout) and dropout:
            module.p = dropout
    return loaded


def context(loaded: Family, index: int = 1, **changes: Any) -> Context:
    values = {"task": SimpleNamespace(name="second"), "task_index": index, "seed": 5}
    return Context(family=loaded, **(values | changes))


def batch(loaded: Family, seed: int, examples: int = 4) -> Batch:
    """Prompts and answers of different lengths, so that both are padded."""
    draw = np.random.default_rng(seed)

    def text(words: int) -> str:
        return " ".join(f"w{draw.integers(37)}" for _ in range(words))

    encoded = loaded.encode(
        [text(2 + 3 * index) for index in range(examples)],
        [text(1 + index % 3) for index in range(examples)],
    )
    rows = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
    return loaded.collator()(rows)


def strategy(alpha: float = 1.0, temperature: float = 2.0) -> LwF:
    return LwF(LwFOptions(name="lwf", alpha=alpha, temperature=temperature))


def outputs(model: Any, one: Batch) -> Any:
    return model(**{name: tensor for name, tensor in one.items() if name != "labels"})


def loss_of(lwf: LwF, where: Context, one: Batch) -> torch.Tensor:
    loss = lwf.batch_loss(where, one, outputs(where.model, one))
    assert loss is not None
    return loss


def move(model: torch.nn.Module, seed: int = 0) -> None:
    """What optimizer steps do, in one: every trained parameter goes elsewhere."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype), alpha=0.05)


def begun(loaded: Family, lwf: LwF, index: int = 1) -> Context:
    """A task in which the teacher is known and the model has moved away from it."""
    where = context(loaded, index)
    lwf.before_training(where)
    move(loaded.model)
    return where


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def expected(teacher: Any, student: Any, one: Batch, alpha: float, temperature: float) -> tuple[float, np.ndarray]:
    """The loss, and its gradient with respect to the student's logits: α τ (q − p) at answer tokens, else 0."""
    with torch.no_grad():
        p, q = (softmax(outputs(model, one).logits.numpy(), temperature) for model in (teacher, student))
    answers = one["labels"].numpy() != -100
    divergence = (p * (np.log(p) - np.log(q))).sum(axis=-1)
    return alpha * temperature**2 * divergence[answers].sum(), alpha * temperature * (q - p) * answers[..., None]


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 2.0), (0.3, 1.0), (5.0, 4.0)])
def test_the_loss_and_its_gradient_equal_those_of_two_copies_of_the_model(
    toy_t5: Path, tuning: str, alpha: float, temperature: float
) -> None:
    loaded = toy(toy_t5, TUNINGS[tuning])
    loaded.model.eval()
    teacher = copy.deepcopy(loaded.model)
    lwf = strategy(alpha, temperature)
    where = begun(loaded, lwf)
    one = batch(loaded, 1)
    assert (one["labels"] == -100).any()  # padding, which must not count

    given = outputs(loaded.model, one)
    given.logits.retain_grad()
    loss = lwf.batch_loss(where, one, given)
    assert loss is not None
    loss.backward()
    value, gradient = expected(teacher, loaded.model, one, alpha, temperature)
    assert value > 1e-3
    assert loss.item() == pytest.approx(value, rel=1e-10)
    np.testing.assert_allclose(given.logits.grad.numpy(), gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("heads", "held"), [("shared", [[0, 1, 2]]), ("per_task", [[0, 1], [2, 3]])], ids=["shared", "per_task"]
)
def test_a_classifier_keeps_what_the_earlier_tasks_heads_answer(
    toy_roberta: Path, heads: Literal["shared", "per_task"], held: list[list[int]]
) -> None:
    """Summed over the heads of earlier tasks (Li & Hoiem section 3); what a new task brings is not held."""
    labels = {"a": ["yes", "no"], "b": ["yes", "maybe"], "second": ["left", "right", "no"]}
    objective = Classification(kind="classification", heads=heads)
    loaded = load_model(ModelSection(name=str(toy_roberta)), FullTuning(), (), objective, labels)
    loaded.model.double().eval()
    loaded.see(labels)
    teacher, lwf = copy.deepcopy(loaded.model), strategy(0.5, 3.0)
    where = begun(loaded, lwf)
    rows = [loaded.encode(["w1 w2"], [label], ["second"]) for label in ("left", "no")]
    one = loaded.collator()([{name: values[0] for name, values in row.items()} for row in rows])
    loss = loss_of(lwf, where, one)
    with torch.no_grad():
        z, s = (outputs(model, one).logits.numpy() for model in (teacher, loaded.model))
    expected_loss = 0.0
    for head in held:
        p, q = softmax(z[:, head], 3.0), softmax(s[:, head], 3.0)
        expected_loss += 0.5 * 9.0 * (p * (np.log(p) - np.log(q))).sum()
    assert expected_loss > 1e-6
    assert loss.item() == pytest.approx(expected_loss, rel=1e-9)
    loss.backward()
    moved = loaded.model.classifier.out_proj.weight.grad.any(dim=1).nonzero().flatten().tolist()
    assert moved == sorted(row for head in held for row in head)


def test_equal_logits_have_no_distance_and_half_precision_is_raised() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    assert distillation(logits, logits, 2.0) == 0
    assert distillation(logits.bfloat16(), logits.half(), 2.0).dtype == torch.float32


def test_before_the_first_step_the_loss_is_zero_and_the_first_task_has_none(toy_t5: Path) -> None:
    loaded = toy(toy_t5)
    one = batch(loaded, 0)
    lwf = strategy()
    lwf.before_training(where := context(loaded))
    assert abs(loss_of(lwf, where, one).item()) < 1e-12
    first = strategy()
    first.before_training(where := context(loaded, index=0))
    assert first.batch_loss(where, one, outputs(loaded.model, one)) is None


def test_micro_batches_add_up_to_the_whole(toy_t5: Path) -> None:
    loaded = toy(toy_t5)
    lwf = strategy()
    where = begun(loaded, lwf)
    one = batch(loaded, 1, examples=6)
    parts = [{name: tensor[rows] for name, tensor in one.items()} for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    whole = loss_of(lwf, where, one).item()
    assert sum(loss_of(lwf, where, part).item() for part in parts) == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_teacher_has_no_dropout_and_leaves_the_random_numbers_and_the_model_alone(
    toy_t5: Path, tuning: str
) -> None:
    loaded = toy(toy_t5, TUNINGS[tuning], dropout=0.5)
    one = batch(loaded, 1)
    loaded.model.eval()
    exact = outputs(loaded.model, one)
    loaded.model.train()
    assert not torch.equal(outputs(loaded.model, one).logits, exact.logits)  # the control: there is dropout
    before = {name: (parameter, parameter.clone()) for name, parameter in loaded.model.named_parameters()}
    state = torch.get_rng_state()
    lwf = strategy()
    lwf.before_training(where := context(loaded))
    loss = lwf.batch_loss(where, one, exact)
    assert loss is not None
    assert abs(loss.item()) < 1e-12
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in loaded.model.modules())
    after = dict(loaded.model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is object_ and torch.equal(object_, value) for name, (object_, value) in before.items())


def test_gradient_checkpointing_changes_nothing(toy_t5: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        loaded = toy(toy_t5)
        lwf = strategy()
        where = begun(loaded, lwf)
        loaded.model.train()
        if checkpointing:
            loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
        loss_of(lwf, where, batch(loaded, 1)).backward()
        gradients.append({name: parameter.grad for name, parameter in loaded.model.named_parameters()})
    plain, checkpointed = gradients
    assert any(gradient.abs().max() > 1e-3 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-9, atol=1e-12)


def forward(strategies: Sequence[Strategy], where: Context, one: Batch, while_open: LwF | None = None) -> None:
    """One micro-batch with the hooks in the engine's order."""
    for each in strategies:
        each.before_forward(where, one)
    given = outputs(where.model, one)
    if while_open is not None:
        while_open.batch_loss(where, one, given)
    for each in strategies:
        each.after_forward(where, one)
    terms = [each.batch_loss(where, one, given) for each in strategies]
    torch.stack([given.logits.square().sum(), *(term for term in terms if term is not None)]).sum().backward()
    for each in strategies:
        each.before_step(where)


@pytest.mark.parametrize("first", ["lwf", "migu", None, "broken"])
def test_migu_does_not_see_the_teachers_forward_pass(toy_t5: Path, first: str | None) -> None:
    """In either order the mask is the one without LwF. The control, a teacher heard by the collector, changes it."""
    masks = []
    for composed in (False, True):
        loaded = toy(toy_t5)
        lwf = strategy()
        where = begun(loaded, lwf)
        migu = MIGU(MIGUOptions(name="migu", threshold=0.7))
        migu.before_task(where)
        strategies: list[Strategy] = [migu]
        if composed and first in ("lwf", "migu"):
            strategies = [lwf, migu] if first == "lwf" else [migu, lwf]
        forward(strategies, where, batch(loaded, 1), lwf if composed and first == "broken" else None)
        layers = select_layers(loaded, ["attention", "feed_forward"])
        masks.append(
            {name: [not row.any() for row in layer.weight.grad] for name, layer in layers.items()}  # type: ignore[union-attr]
        )
    assert any(any(rows) for rows in masks[0].values())
    assert (masks[0] == masks[1]) is (first != "broken")


@pytest.mark.parametrize("order", ["lwf first", "osf first"])
def test_it_works_beside_osf_which_rebuilds_the_layers(toy_t5: Path, order: str) -> None:
    loaded = toy(toy_t5)
    loaded.model.float()
    teacher = copy.deepcopy(loaded.model)
    lwf, osf = strategy(), OSF(OSFOptions(name="osf"))
    where = context(loaded)
    for each in [lwf, osf] if order == "lwf first" else [osf, lwf]:
        each.before_task(where)
    lwf.before_training(where)
    one = batch(loaded, 1)
    assert loss_of(lwf, where, one).item() == pytest.approx(0, abs=1e-6)
    move(loaded.model)
    loss = loss_of(lwf, where, one).item()
    assert loss == pytest.approx(expected(teacher, loaded.model, one, 1.0, 2.0)[0], rel=1e-3)
    assert loss > 1e-2


def test_the_larger_alpha_the_nearer_the_answers_stay(toy_t5: Path) -> None:
    distances = []
    for alpha in (0.01, 1.0, 100.0):
        loaded = toy(toy_t5)
        teacher = copy.deepcopy(loaded.model)
        lwf = strategy(alpha)
        lwf.before_training(where := context(loaded))
        optimizer = torch.optim.Adam(loaded.model.parameters(), lr=1e-3)
        for step in range(25):
            one = batch(loaded, step % 3)
            given = loaded.model(**one)
            loss = lwf.batch_loss(where, one, given)
            assert loss is not None
            (given.loss * (one["labels"] != -100).sum() + loss).backward()
            optimizer.step()
            optimizer.zero_grad()
        distances.append(sum(expected(teacher, loaded.model, batch(loaded, seed), 1.0, 1.0)[0] for seed in range(3)))
    assert distances[0] > distances[1] > 2 * distances[2] > 0


def test_each_tasks_teacher_is_the_model_before_that_task(toy_t5: Path) -> None:
    loaded = toy(toy_t5)
    lwf = strategy()
    where = begun(loaded, lwf)
    assert loss_of(lwf, where, batch(loaded, 1)) > 1e-3
    lwf.after_task(where)
    following = context(loaded, index=2)
    lwf.before_training(following)
    assert abs(loss_of(lwf, following, batch(loaded, 1)).item()) < 1e-12
    assert lwf.state_dict() == {}


def test_a_task_without_any_distillation_is_an_error(toy_t5: Path) -> None:
    def task(index: int, steps: int, answers: bool) -> None:
        loaded = toy(toy_t5)
        lwf = strategy()
        where = context(loaded, index)
        lwf.before_training(where)
        one = batch(loaded, 0)
        for _ in range(steps):
            given = outputs(loaded.model, one)
            lwf.batch_loss(where, one if answers else one | {"labels": torch.full_like(one["labels"], -100)}, given)
            move(loaded.model)
            where.step += 1
        lwf.after_task(where)

    with pytest.raises(StrategyError, match=r"in all 5 steps of task 'second' the model answered as its teacher"):
        task(index=1, steps=5, answers=False)
    task(index=1, steps=5, answers=True)
    task(index=1, steps=1, answers=False)  # one step starts from the teacher itself
    task(index=0, steps=5, answers=False)


def test_a_divergence_that_is_lost_in_rounding_is_no_error(toy_t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a classifier of two labels, whose few small steps gave -6e-7 and -2e-7 in float32."""
    monkeypatch.setattr(defined, "distillation", lambda student, *_: -1e-7 + 0 * student.sum())
    loaded = toy(toy_t5)
    lwf = strategy()
    where = begun(loaded, lwf)
    where.step = 3
    assert loss_of(lwf, where, batch(loaded, 0)).item() < 0
    lwf.after_task(where)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_memory_is_a_copy_of_what_is_trained(toy_t5: Path, tuning: str) -> None:
    loaded = toy(toy_t5, TUNINGS[tuning])
    model = loaded.model.float()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert strategy().memory(loaded, 2) == 4 * trained > 0
    assert strategy().memory(loaded, 1) == 0

"""AdamW in chosen rows against torch's own with masked gradients, whose masked rows are put back after each step."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from clkit.engine.prepare import prepare
from clkit.engine.sequence import train
from clkit.errors import UsageError
from clkit.models import rows as rows_of_layers
from clkit.models.rows import RowGradient
from clkit.training import row_adamw as optimizers
from clkit.training.row_adamw import RowAdamW
from clkit.training.row_kernel import RowStep, row_kernel, step_rows
from tests.toy import toy_recipe


def draws(steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rows, and a gradient of the whole weight that is zero in the others; some rows come back late or never."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(steps):
        rows = torch.randperm(12, generator=generator)[:4].sort().values
        gradient = torch.zeros(12, 5)
        gradient[rows] = torch.randn(4, 5, generator=generator)
        found.append((rows, gradient))
    return found


def options(**changes: Any) -> dict[str, Any]:
    return {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "fused": True, **changes}


def weight() -> nn.Parameter:
    return nn.Parameter(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("others", ["stay", "move"])
def test_it_equals_masking_and_putting_back(others: Any) -> None:
    ours, theirs, given = weight(), weight(), {}
    own, stock = RowAdamW([ours], given, **options()), torch.optim.AdamW([theirs], **options())
    for number, (rows, gradient) in enumerate(draws(40)):
        if number == 7:  # a step that did not reach the weight: no time passes for it
            own.step()
            stock.step()
            continue
        given[ours] = RowGradient(rows, gradient[rows], others)
        before = theirs.detach().clone()
        theirs.grad = gradient
        stock.step()
        theirs.grad = None
        with torch.no_grad():
            masked = [row for row in range(12) if row not in rows and others == "stay"]
            theirs[masked] = before[masked]
        own.step()
        assert not given
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert own.state[ours]["step"] == stock.state[theirs]["step"] == 39


def test_parameters_with_a_gradient_of_their_own_step_as_ever() -> None:
    ours, theirs = weight(), weight()
    optimizers = [RowAdamW([ours], {}, **options()), torch.optim.AdamW([theirs], **options())]
    for _, gradient in draws(3):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(ours, theirs)


def test_rows_that_leave_are_forgotten_and_begin_anew() -> None:
    """Beside each row's own Adam, by hand, which is thrown away in a step that leaves the row out."""
    ours, given, expected = weight(), {}, weight().detach().double()
    optimizer, alive = RowAdamW([ours], given, **options()), dict[int, tuple[int, torch.Tensor, torch.Tensor]]()
    held = torch.arange(4)
    for number, (drawn, _) in enumerate(draws(40)):
        rows = (drawn, torch.cat([drawn[:2], held[2:]]).unique(), held)[number % 3]  # all may change, some, or none
        gradient = torch.randn(12, 5, generator=torch.Generator().manual_seed(number))
        given[ours] = RowGradient(rows, gradient[rows], others="forgotten")
        optimizer.step()
        alive = {row: alive.get(row, (0, torch.zeros(5), torch.zeros(5))) for row in rows.tolist()}
        for row, (steps, first, second) in alive.items():
            grad, steps = gradient[row].double(), steps + 1
            first, second = 0.9 * first + 0.1 * grad, 0.95 * second + 0.05 * grad**2
            step = first / (1 - 0.9**steps) / ((second / (1 - 0.95**steps)).sqrt() + 1e-8)
            expected[row] = (1 - 0.01 * 0.1) * expected[row] - 0.01 * step
            alive[row] = steps, first, second
        held = rows
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)
        assert len(optimizer.state[ours]["exp_avg"]) == len(optimizer.state[ours]["exp_avg_sq"]) == len(rows)


@pytest.mark.parametrize("others", ["stay", "forgotten"])
def test_it_goes_on_from_its_state_to_the_last_bit(others: Any) -> None:
    found = []
    for stopped in (False, True):
        parameter, given = weight(), {}
        optimizer = RowAdamW([parameter], given, **options())
        for number, (rows, gradient) in enumerate(draws(10)):
            if stopped and number == 5:
                state = deepcopy(optimizer.state_dict())
                parameter = nn.Parameter(parameter.detach().clone())
                optimizer = RowAdamW([parameter], given, **options())
                optimizer.load_state_dict(state)
            given[parameter] = RowGradient(rows, gradient[rows], others)
            optimizer.step()
        found.append(parameter)
    assert torch.equal(*found)


# --- the kernel ---------------------------------------------------------------------------------------------------


def row_step() -> RowStep:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    rows = torch.arange(0, 300, 3)
    state = (normal(300, 77), normal(100, 77), normal(100, 77).square())
    by_row = [torch.rand(100, generator=generator) for _ in range(4)]
    given = torch.arange(100).masked_fill(torch.arange(100) % 5 == 0, -1)
    places = torch.randperm(100, generator=generator)
    return RowStep(state, rows, places, normal(100, 77), given, *by_row, by=(0.1, 0.001, 0.999, 1e-8))


@pytest.mark.skipif(row_kernel() is step_rows, reason="there is no C compiler here")
def test_compiled_and_in_torch_it_is_the_same_to_the_last_bit() -> None:
    compiled, plain = row_step(), row_step()
    row_kernel()(compiled)
    step_rows(plain)
    for one, other, before in zip(compiled.state, plain.state, row_step().state, strict=True):
        assert torch.equal(one, other)
        rows = compiled.rows if len(one) == 300 else compiled.places
        assert torch.equal((one != before).any(dim=1).nonzero().flatten(), rows.sort().values)


# --- MIGU with it -------------------------------------------------------------------------------------------------


EWC = {"name": "ewc", "ewc_lambda": 10.0}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped hard, with weight decay": {"training": {"max_grad_norm": 0.01, "weight_decay": 0.1}},
    "never clipped": {"training": {"max_grad_norm": 0.0}},
    "bf16": {"training": {"precision": "bf16"}},
    "gradient checkpointing": {"training": {"gradient_checkpointing": True}},
    "with a penalty": {"strategies": [EWC]},
    "the smallest rows": {"migu": {"source": "smallest"}},
    "random rows": {"migu": {"source": "random"}},
    "held rows, in micro-batches": {"migu": {"hold": 3}, "training": {"micro_batch_size": 4}},
}


#: What CI runs of all cases; the toy T5 has no biases, the RoBERTa has.
QUICK = [
    *(("flat_t5", case, "update") for case in CASES),
    ("flat_t5", "with a penalty", "gradient"),
    ("toy_roberta", "plain", "gradient"),
    ("toy_roberta", "with a penalty", "update"),
]
ALL = [(model, case, mask) for model in ("flat_t5", "toy_roberta") for case in CASES for mask in ("gradient", "update")]


@pytest.mark.parametrize(
    ("model", "case", "mask"),
    [*QUICK, *(pytest.param(*other, marks=pytest.mark.slow) for other in ALL if other not in QUICK)],
)
def test_rows_alone_give_what_whole_gradients_give(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, model: str, case: str, mask: str
) -> None:
    changes = dict(CASES[case])
    strategies = [{"name": "migu", "mask": mask, **changes.pop("migu", {})}, *changes.pop("strategies", [])]
    training = {"learning_rate": 1e-3, "epochs": 1.0, **changes.pop("training", {})}
    objective = {"objective": {"kind": "classification"}} if model == "toy_roberta" else {}
    folder = request.getfixturevalue(model)
    recipe = toy_recipe(tmp_path, folder, strategies=strategies, training=training, **objective)
    told = " ".join(prepare(recipe).plan().remarks)
    assert "migu: computes gradients of kept rows only" in told
    assert ("migu: the optimizer leaves masked rows alone" in told) is (mask == "update")
    found = []
    for name in ("rows", "whole"):
        with monkeypatch.context() as one:
            if name == "whole":
                one.setattr(rows_of_layers, "_refusal", lambda *_: "asked for")
            run = train(recipe, tmp_path / name)
        lines = [line for line in run.log.read() if line["event"] == "step"]
        found.append((load_file(run.stages()[-1].folder / "model" / "model.safetensors"), lines))
    (ours, log), (theirs, other_log) = found
    before = load_file(tmp_path / "rows" / "tasks" / "01-first" / "model" / "model.safetensors")
    loose = 20 if case == "bf16" else 1
    for name in theirs:
        grown = theirs[name].shape != before[name].shape  # a head with the second task's labels
        moved = (theirs[name] - (0 if grown else before[name])).abs().max()
        assert (ours[name] - theirs[name]).abs().max() <= loose * 1e-2 * moved + 1e-7, name
    for one_line, other_line in zip(log, other_log, strict=True):
        for term in ("task_loss", "grad_norm"):
            assert one_line[term] == pytest.approx(other_line[term], rel=loose * 1e-3)


def test_moments_of_held_rows_need_no_compiler(tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    migu = {"name": "migu", "mask": "update", "hold": 3, "moments": "held"}
    recipe = toy_recipe(tmp_path, flat_t5, strategies=[migu, EWC], training={"micro_batch_size": 4, "epochs": 1.0})
    runs = [train(recipe, tmp_path / "compiled")]
    monkeypatch.setattr(optimizers, "row_kernel", lambda: step_rows)
    runs.append(train(recipe, tmp_path / "plain"))
    weights, others = (load_file(run.stages()[-1].folder / "model" / "model.safetensors") for run in runs)
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {
                "training": {"micro_batch_size": 4},
                "strategies": [{"name": "migu", "hold": 1, "source": "fixed_random"}],
            },
            "but rows are known after the step's last micro-batch; use all",
        ),
        ({"strategies": [{"name": "migu", "layers": ["lm_head", "q"]}]}, "of lm_head, but they are tied to other"),
    ],
)
def test_moments_of_held_rows_are_refused_where_gradients_are_whole(
    tmp_path: Path, flat_t5: Path, changes: dict[str, Any], why: str
) -> None:
    (migu,) = changes.pop("strategies", [{"name": "migu"}])
    strategies = [{"hold": 3, **migu, "mask": "update", "moments": "held"}]
    with pytest.raises(UsageError, match=f"^strategies.migu.moments: held needs gradients of single rows.*{why}"):
        prepare(toy_recipe(tmp_path, flat_t5, strategies=strategies, **changes))


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"training": {"micro_batch_size": 4}}, "rows are known after the step's last micro-batch"),
        ({"training": {"optimizer": "sgd"}}, "the optimizer goes over whole weights: training.optimizer: sgd"),
        ({"tuning": {"method": "lora", "rank": 4}}, "the optimizer leaves masked rows alone"),
        ({"strategies": [{"name": "migu", "layers": ["lm_head", "q"]}]}, "1 of 4 weights: they are tied to other"),
    ],
)
def test_the_plan_says_what_is_not_done_in_rows_and_why(
    tmp_path: Path, flat_t5: Path, changes: dict[str, Any], remark: str
) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, **{"strategies": [{"name": "migu", "mask": "update"}], **changes})
    told = [one for one in prepare(recipe).plan().remarks if one.startswith("migu: ")]
    assert any(remark in one for one in told), told

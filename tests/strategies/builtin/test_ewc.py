"""EWC's Fisher against closed forms and plain autograd, its penalty against the formula, and what it must not touch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from pydantic import ValidationError
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, RwkvConfig

from clkit.engine.sequence import train
from clkit.errors import RecipeError, StrategyError
from clkit.models.family import Family, summed_cross_entropy
from clkit.models.loading import load_model
from clkit.models.sections import FullTuning, LoraTuning, ModelSection, Tuning
from clkit.recipe.recipe import Recipe
from clkit.strategies import fisher
from clkit.strategies.builtin.ewc import EWC, EWCOptions
from clkit.strategies.contract import Context
from clkit.strategies.fisher import QuadraticPenalty, drawn_answer, sum_of_squared_scores
from clkit.training.state import load_strategies
from tests.strategies.loaded import load_toy
from tests.toy import toy_recipe
from tests.toy_models import WORDS

LORA = LoraTuning(method="lora", rank=4, alpha=8.0, dropout=0.0)
TOTAL = 7  # examples of the toy task: a number that two processes cannot share evenly


def penalty_of(strategy: EWC, where: Context) -> Any:
    """The penalty of a step in a task that has just begun."""
    strategy.before_training(where)
    return strategy.penalty(where)


# --- the Fisher information in closed form ------------------------------------------------------------------------


def test_gold_answers_give_the_mean_of_squared_residuals_of_a_logistic_regression() -> None:
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0], [2.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    w = nn.Parameter(torch.tensor([0.3, -0.7], dtype=torch.float64))
    log_likelihoods = (-functional.binary_cross_entropy_with_logits(x[n] @ w, y[n]) for n in range(3))
    total = sum_of_squared_scores({"w": w}, log_likelihoods)
    p = torch.sigmoid(x @ w.detach())
    torch.testing.assert_close(total, ((y - p)[:, None] ** 2 * x**2).sum(0), rtol=1e-12, atol=0)


def test_scores_that_cancel_in_a_batch_do_not_cancel_in_the_fisher() -> None:
    """Squares of a batch's mean gradient, which peers take for the Fisher, would be exactly zero here."""
    w = nn.Parameter(torch.zeros(1))
    x = torch.tensor([3.0])
    labels = torch.tensor([0.0, 1.0])
    mean = torch.stack([functional.binary_cross_entropy_with_logits(x @ w, y) for y in labels]).mean()
    assert torch.autograd.grad(mean, w)[0] == 0
    total = sum_of_squared_scores({"w": w}, (-functional.binary_cross_entropy_with_logits(x @ w, y) for y in labels))
    assert total / 2 == 0.25 * 3.0**2  # p (1 − p) x²


def test_drawn_answers_give_the_fisher_of_a_softmax_regression_in_expectation() -> None:
    """F = Σ_t p_tk (1 − p_tk) x_t² for class k: tokens drawn independently add up, as their mixed terms cancel."""
    draws = 2000
    x = torch.tensor([[1.0, -0.5], [0.0, 0.0], [-2.0, 1.5]], dtype=torch.float64)
    w = nn.Parameter(torch.tensor([[0.2, -0.4], [0.9, 0.1], [-0.3, 0.6]], dtype=torch.float64))
    gold = torch.tensor([[2, -100, 0]])  # the second position has no label, and must have none drawn
    generator = torch.Generator().manual_seed(1)

    def log_likelihoods() -> Iterator[torch.Tensor]:
        for _ in range(draws):
            logits = (x @ w.T)[None]
            yield -summed_cross_entropy(logits, drawn_answer(logits.detach(), gold, generator))

    mean = sum_of_squared_scores({"w": w}, log_likelihoods()).view(3, 2) / draws
    inputs = x[[0, 2]]
    p = (inputs @ w.detach().T).softmax(-1)
    expected = torch.einsum("tk,ti->ki", p * (1 - p), inputs**2)
    # All nine answers with their probabilities give the same, and how far the mean of so many draws may lie off.
    answers = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    probability = p[0, answers[:, 0]] * p[1, answers[:, 1]]
    scores = torch.einsum("atk,ti->aki", functional.one_hot(answers, 3) - p, inputs)
    torch.testing.assert_close(torch.einsum("a,aki->ki", probability, scores**2), expected)
    deviation = (torch.einsum("a,aki->ki", probability, scores**4) - expected**2).sqrt() / draws**0.5
    assert ((mean - expected).abs() < 4 * deviation).all()
    assert (deviation < 0.1 * expected).all()


def test_two_gaussian_tasks_end_at_the_mean_weighted_by_their_precisions() -> None:
    """Where the likelihood is Gaussian, EWC with λ = 1 is exact: it finds the optimum of both losses together."""
    precision_a, optimum_a = torch.tensor([4.0, 0.25]).double(), torch.tensor([1.0, -3.0]).double()
    precision_b, optimum_b = torch.tensor([1.0, 2.0]).double(), torch.tensor([-1.0, 5.0]).double()
    theta = nn.Parameter(optimum_a.clone())  # task A is learned

    def log_likelihoods() -> Iterator[torch.Tensor]:
        for sign in (1, -1):  # two data whose variance is that of the likelihood
            datum = optimum_a + sign / precision_a.sqrt()
            yield -(precision_a / 2 * (datum - theta) ** 2).sum()

    information = sum_of_squared_scores({"theta": theta}, log_likelihoods()) / 2
    torch.testing.assert_close(information, precision_a, rtol=1e-12, atol=0)
    for _ in range(300):
        penalty = QuadraticPenalty.apply(1.0, [[(information, optimum_a)]], [torch.empty(2).double()], theta)
        loss = (precision_b / 2 * (theta - optimum_b) ** 2).sum() + penalty
        with torch.no_grad():
            theta -= 0.2 * torch.autograd.grad(loss, theta)[0]
    joint = (precision_a * optimum_a + precision_b * optimum_b) / (precision_a + precision_b)
    torch.testing.assert_close(theta.detach(), joint)


# --- the Fisher information of a model ----------------------------------------------------------------------------


def toy(folder: Path, tuning: Tuning | None = None, dropout: float = 0.0) -> Family:
    loaded = load_toy(folder, tuning)
    loaded.model.double().train()
    for module in loaded.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:  # fresh adapters start with B = 0, which would hide A's scores
            nn.init.normal_(parameter)
    return loaded


def encoded(loaded: Family, task: int) -> Dataset:
    """Prompts and answers of different lengths."""
    draw = random.Random(task)
    words = [f"w{index}" for index in range(37)]
    prompts = [" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(TOTAL)]
    answers = [" ".join(draw.choices(words, k=draw.randint(1, 4))) for _ in range(TOTAL)]
    return Dataset.from_dict(loaded.encode(prompts, answers))


def context(loaded: Family, index: int = 0, **changes: Any) -> Context:
    values: dict[str, Any] = {
        "task": SimpleNamespace(name=f"task{index}"),
        "seed": 5,
        "examples": encoded(loaded, index),
        "collate": loaded.collator(),
    }
    return Context(family=loaded, task_index=index, **values | changes)


def ewc(**values: Any) -> EWC:
    return EWC(EWCOptions.model_validate({"name": "ewc", "examples": None, **values}))


def trained(loaded: Family) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}


def move(loaded: Family, seed: int) -> None:
    """What training would do to the weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained(loaded).values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def kept(strategy: EWC, part: str, number: str = "") -> dict[str, torch.Tensor]:
    prefix = f"{part}/{number}"
    return {key[len(prefix) :]: value for key, value in strategy.state_dict().items() if key.startswith(prefix)}


def gradients(loaded: Family, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Of Σ log p(answer | prompt), by T5's own loss, a mean over tokens, on single examples without padding."""
    model = loaded.model.eval()
    model.zero_grad()
    for row in rows:
        labels = torch.tensor([row["labels"]])
        (-model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss * labels.numel()).backward()
    found = {name: parameter.grad.clone() for name, parameter in trained(loaded).items()}
    model.zero_grad()
    return found


def mean_of_squares(loaded: Family, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    single = [gradients(loaded, [row]) for row in rows]
    return {name: torch.stack([one[name] ** 2 for one in single]).mean(0) for name in single[0]}


@pytest.mark.parametrize("tuning", [FullTuning(), LORA], ids=["full", "lora"])
def test_the_fisher_is_the_mean_of_every_examples_own_squared_gradient(toy_t5: Path, tuning: Tuning) -> None:
    loaded = toy(toy_t5, tuning)
    where = context(loaded)
    strategy = ewc()
    strategy.after_task(where)
    rows = list(where.examples)
    torch.testing.assert_close(kept(strategy, "fisher"), mean_of_squares(loaded, rows), rtol=1e-9, atol=1e-15)
    assert kept(strategy, "center").keys() == trained(loaded).keys()
    # The control: squares of the batch's mean gradient are another, smaller number.
    mean = gradients(loaded, rows)
    assert sum((g / TOTAL).square().sum() for g in mean.values()) < 0.8 * sum(
        f.sum() for f in kept(strategy, "fisher").values()
    )


def test_a_state_that_a_model_changes_in_place_is_not_kept(toy_llama: Path, tmp_path: Path) -> None:
    sizes = {"vocab_size": 4 + WORDS, "hidden_size": 16, "num_hidden_layers": 2, "eos_token_id": 1, "pad_token_id": 0}
    AutoModelForCausalLM.from_config(RwkvConfig(**sizes)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(toy_llama).save_pretrained(tmp_path)
    loaded = load_model(ModelSection(name=str(tmp_path)), FullTuning())
    strategy = ewc()
    strategy.after_task(context(loaded))
    assert kept(strategy, "fisher").keys() == trained(loaded).keys()
    assert loaded.base.config.use_cache  # which generating goes on with


def test_as_many_different_examples_are_drawn_as_asked_and_the_same_again(toy_t5: Path) -> None:
    def seen(count: int | None, seed: int = 5) -> list[list[int]]:
        loaded = toy(toy_t5)
        rows: list[list[int]] = []
        collate = loaded.collator()
        where = context(loaded, seed=seed, collate=lambda batch: rows.append(batch[0]["input_ids"]) or collate(batch))
        strategy = ewc(examples=count)
        strategy.after_task(where)
        drawn = [row for row in where.examples if row["input_ids"] in rows]
        torch.testing.assert_close(kept(strategy, "fisher"), mean_of_squares(loaded, drawn), rtol=1e-9, atol=1e-15)
        return rows

    assert len({tuple(row) for row in seen(3)}) == len(seen(3)) == 3
    assert seen(3) == seen(3)
    assert any(seen(3) != seen(3, seed) for seed in (6, 7))
    assert len(seen(None)) == len(seen(100)) == TOTAL


@pytest.mark.parametrize("labels", ["data", "model"])
@pytest.mark.parametrize("examples", [None, 1])
def test_two_processes_find_what_one_finds(toy_t5: Path, labels: str, examples: int | None) -> None:
    def found(**process: Any) -> dict[str, torch.Tensor]:
        strategy = ewc(labels=labels, examples=examples)
        strategy.after_task(context(toy(toy_t5), **process))
        return kept(strategy, "fisher")

    def both(index: int) -> dict[str, torch.Tensor]:
        sums: list[torch.Tensor] = []
        with pytest.raises(StopIteration):  # the other process, up to what it sends
            found(process_index=1 - index, num_processes=2, sum_over_processes=lambda own: _stop(sums, own))
        return found(process_index=index, num_processes=2, sum_over_processes=lambda own: own + sums[0])

    whole = found()
    torch.testing.assert_close(both(0), whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(both(1), whole, rtol=1e-12, atol=0)
    if examples is None:  # the control: one half is not the whole
        half = found(process_index=0, num_processes=2)
        assert not all(torch.allclose(half[name], whole[name]) for name in whole)


def _stop(sums: list[torch.Tensor], own: torch.Tensor) -> torch.Tensor:
    sums.append(own)
    raise StopIteration


def test_drawn_answers_are_not_the_gold_ones_and_the_same_again(toy_t5: Path) -> None:
    def found(labels: str, seed: int = 5) -> torch.Tensor:
        strategy = ewc(labels=labels)
        strategy.after_task(context(toy(toy_t5), seed=seed))
        return torch.cat([value.flatten() for value in kept(strategy, "fisher").values()])

    assert torch.equal(found("model"), found("model"))
    assert not torch.allclose(found("model"), found("model", seed=6))
    assert not torch.allclose(found("model"), found("data"))


@pytest.mark.parametrize("labels", ["data", "model"])
def test_estimating_leaves_no_trace(toy_t5: Path, labels: str) -> None:
    loaded = toy(toy_t5, dropout=0.5)
    part = loaded.model.get_submodule("encoder.block.0")
    part.eval()  # someone's choice, which must survive
    modes = {name: module.training for name, module in loaded.model.named_modules()}
    weights = {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}
    first = next(loaded.model.parameters())
    first.grad = torch.ones_like(first)
    torch.manual_seed(11)
    numbers, python_numbers = torch.get_rng_state(), random.getstate()

    dropping, without = ewc(labels=labels), ewc(labels=labels)
    dropping.after_task(context(loaded))

    assert torch.equal(torch.get_rng_state(), numbers)
    assert random.getstate() == python_numbers
    assert {name: module.training for name, module in loaded.model.named_modules()} == modes
    assert all(torch.equal(parameter, weights[name]) for name, parameter in loaded.model.named_parameters())
    assert all(p.grad is None for p in loaded.model.parameters() if p is not first)
    assert torch.equal(first.grad, torch.ones_like(first))
    without.after_task(context(toy(toy_t5, dropout=0.0)))
    assert all(torch.equal(value, kept(without, "fisher")[name]) for name, value in kept(dropping, "fisher").items())


def test_dropout_would_show_in_the_test_above(toy_t5: Path) -> None:
    """Its control: in training mode the toy's answers depend on dropout."""
    loaded = toy(toy_t5, dropout=0.5)
    batch = loaded.collator()([encoded(loaded, 0)[0]])
    assert loaded.model(**batch).loss != loaded.model(**batch).loss


# --- the penalty --------------------------------------------------------------------------------------------------


def learn(strategy: EWC, loaded: Family, tasks: int) -> None:
    for index in range(tasks):
        move(loaded, index)
        strategy.after_task(context(loaded, index))
    move(loaded, tasks)


def formula(strategy: EWC, loaded: Family, numbers: list[str]) -> torch.Tensor:
    """λ/2 · Σ_tasks Σ_i F_i (θ_i − θ*_i)², written down again."""
    parameters = trained(loaded)
    anchors = [(kept(strategy, "fisher", number), kept(strategy, "center", number)) for number in numbers]
    return sum(
        strategy.options.ewc_lambda / 2 * (information[name] * (parameters[name] - center[name]) ** 2).sum()
        for information, center in anchors
        for name in parameters
    )


@pytest.mark.parametrize("chunk", [50, fisher.CPU_CHUNK])
@pytest.mark.parametrize("device", ["model", "cpu"])
@pytest.mark.parametrize(("form", "numbers"), [("online", [""]), ("per_task", ["1/", "2/", "3/"])])
@pytest.mark.parametrize("tuning", [FullTuning(), LORA], ids=["full", "lora"])
def test_value_and_gradient_are_those_of_the_formula(
    toy_t5: Path, tuning: Tuning, form: str, numbers: list[str], device: str, chunk: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(fisher, "CPU_CHUNK", chunk)
    loaded = toy(toy_t5, tuning)
    strategy = ewc(fisher=form, device=device, ewc_lambda=123.0, examples=2)
    learn(strategy, loaded, 3)
    parameters = list(trained(loaded).values())
    for step, scale in enumerate((1.0, 1.0, 1024.0)):
        move(loaded, 100 + step)
        penalty = penalty_of(strategy, context(loaded, 3))
        expected = formula(strategy, loaded, numbers)
        torch.testing.assert_close(penalty, expected, rtol=1e-12, atol=0)
        assert penalty.shape == ()
        ours = torch.autograd.grad(penalty * scale, parameters, allow_unused=True)
        theirs = torch.autograd.grad(expected * scale, parameters)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_gradient_that_became_the_parameters_own_is_not_written_over(toy_t5: Path) -> None:
    """The engine makes the penalty's gradient `.grad` where the loss gave none."""
    loaded = toy(toy_t5)
    strategy = ewc(examples=2)
    learn(strategy, loaded, 1)
    parameters = list(trained(loaded).values())
    own = torch.autograd.grad(penalty_of(strategy, context(loaded, 1)), parameters)
    for parameter, gradient in zip(parameters, own, strict=True):
        parameter.grad = gradient
    before = [gradient.clone() for gradient in own]
    move(loaded, 9)
    again = torch.autograd.grad(penalty_of(strategy, context(loaded, 1)), parameters)
    assert all(torch.equal(parameter.grad, value) for parameter, value in zip(parameters, before, strict=True))
    assert not torch.equal(again[0], own[0])


def test_the_first_task_has_no_penalty_and_an_unmoved_model_none_to_pay(toy_t5: Path) -> None:
    loaded = toy(toy_t5)
    strategy = ewc()
    assert penalty_of(strategy, context(loaded, 0)) is None
    strategy.after_task(context(loaded, 0))
    assert penalty_of(strategy, context(loaded, 1)) == 0


def test_a_trained_model_stays_nearer_in_the_fishers_measure(tmp_path: Path, toy_t5: Path) -> None:
    entry = {"name": "ewc", "ewc_lambda": 1e4, "examples": None}
    recipe = toy_recipe(tmp_path, toy_t5, strategies=[entry])
    held, plain = train(recipe, tmp_path / "held"), train(toy_recipe(tmp_path, toy_t5), tmp_path / "plain")
    strategy = ewc()
    load_strategies([strategy], held.stages()[1].folder)

    @torch.no_grad()
    def distance(stage: Path) -> float:
        model = load_model(recipe.model, recipe.tuning, [stage]).model
        information, center = kept(strategy, "fisher"), kept(strategy, "center")
        return sum(float((information[n] * (p - center[n]) ** 2).sum()) for n, p in model.named_parameters())

    assert distance(held.stages()[1].folder) == distance(plain.stages()[1].folder) == 0
    assert distance(held.stages()[2].folder) < 0.5 * distance(plain.stages()[2].folder)


# --- over tasks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [1.0, 0.3])
def test_the_running_fisher_decays_and_its_centre_is_the_latest(toy_t5: Path, decay: float) -> None:
    loaded = toy(toy_t5)
    strategy, single = ewc(decay=decay), ewc(fisher="per_task")
    for index in range(3):
        move(loaded, index)
        for one in (strategy, single):
            one.after_task(context(loaded, index))
    first, second, third = (kept(single, "fisher", f"{number}/") for number in (1, 2, 3))
    for name, value in kept(strategy, "fisher").items():
        torch.testing.assert_close(value, decay**2 * first[name] + decay * second[name] + third[name])
    for name, value in kept(strategy, "center").items():
        assert torch.equal(value, trained(loaded)[name])
    move(loaded, 3)
    assert not any(torch.equal(value, trained(loaded)[name]) for name, value in kept(strategy, "center").items())


@pytest.mark.parametrize("form", ["online", "per_task"])
@pytest.mark.parametrize("tuning", [FullTuning(), LORA], ids=["full", "lora"])
def test_state_round_trip_and_its_announced_size(toy_t5: Path, tuning: Tuning, form: str) -> None:
    loaded = toy(toy_t5, tuning)
    strategy, again = ewc(fisher=form), ewc(fisher=form)
    assert strategy.memory(loaded, 0) == 0
    for tasks in (1, 2):
        strategy.after_task(context(loaded, tasks - 1))
        state = strategy.state_dict()
        assert sum(tensor.nbytes for tensor in state.values()) == strategy.memory(loaded, tasks)
    again.load_state_dict(state)
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(again.state_dict()[key], value) for key, value in state.items())
    move(loaded, 0)
    assert torch.equal(penalty_of(again, context(loaded, 2)), penalty_of(strategy, context(loaded, 2)))


@pytest.mark.parametrize(
    ("form", "keys"),
    [
        ("online", ["fisher/1/w", "center/1/w"]),
        ("per_task", ["fisher/w", "center/w"]),
        ("per_task", ["fisher/2/w", "center/2/w"]),
        ("online", ["fisher/w"]),
        ("online", ["fisher/w", "center/v"]),
        ("online", ["fisher/w", "center/w", "importance/w"]),
    ],
)
def test_state_that_is_not_whole_or_of_the_other_form_is_refused(form: str, keys: list[str]) -> None:
    with pytest.raises(KeyError, match="ewc"):
        ewc(fisher=form).load_state_dict({key: torch.ones(1) for key in keys})


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weight", "found"), [(0.0, "zero everywhere"), (float("nan"), "not finite")])
def test_a_fisher_that_protects_nothing_is_an_error(toy_t5: Path, weight: float, found: str) -> None:
    loaded = toy(toy_t5)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.fill_(weight)
    with pytest.raises(StrategyError, match=f"of task 'task0' is {found}.*; use training.precision: fp32"):
        ewc().after_task(context(loaded))


def test_a_missing_or_foreign_fisher_is_an_error(toy_t5: Path) -> None:
    full, lora = toy(toy_t5), toy(toy_t5, LORA)
    strategy = ewc()
    with pytest.raises(StrategyError, match=r"not that of the 1 tasks .* before 'task1'"):
        penalty_of(strategy, context(full, 1))
    strategy.after_task(context(full, 0))
    with pytest.raises(StrategyError, match="train anew with --overwrite"):
        penalty_of(strategy, context(lora, 1))
    per_task = ewc(fisher="per_task")
    per_task.after_task(context(full, 0))
    with pytest.raises(StrategyError, match="not that of the 2 tasks"):
        penalty_of(per_task, context(full, 2))


def test_a_task_without_examples_is_an_error(toy_t5: Path) -> None:
    with pytest.raises(StrategyError, match="no training example"):
        ewc().after_task(context(toy(toy_t5), examples=None))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"fisher": "per_task", "decay": 1.0}, "decay: remove it"),
        ({"decay": None}, "decay: null"),
        ({"decay": 0}, "greater than 0"),
        ({"decay": 1.1}, "less than or equal to 1"),
        ({"ewc_lambda": 0}, "greater than 0"),
        ({"examples": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_contradict(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        EWCOptions.model_validate({"name": "ewc", **values})


@pytest.mark.parametrize("form", ["online", "per_task"])
def test_options_written_out_in_full_load_back(form: str) -> None:
    options = EWCOptions(name="ewc", fisher=form)
    assert EWCOptions.model_validate(options.model_dump()) == options


def test_incremental_lora_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"ewc: does not work with tuning\.method: incremental_lora"):
        Recipe.load("quickstart", ["strategies=[{name: ewc}]", "tuning.method=incremental_lora"])

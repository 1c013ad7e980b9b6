"""MIGU's mask against an independent computation in float64: numpy, from the layers' inputs and weights."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clkit.errors import ModelError, StrategyError
from clkit.models.family import Family
from clkit.models.layers import linear_layers, row_sites, select_layers
from clkit.models.magnitudes import divided_rows, rows_masked
from clkit.models.sections import FullTuning, LoraTuning, Tuning
from clkit.strategies.builtin.migu import MIGU
from clkit.strategies.contract import Context, Steps
from clkit.strategies.migu_options import MIGUOptions
from tests.models.test_layers import write_gpt2
from tests.strategies.loaded import load_toy

LORA = LoraTuning(method="lora", rank=4, alpha=8.0, dropout=0.0)


# --- which rows ---------------------------------------------------------------------------------------------------


def divided(scores: list[list[float]], threshold: float) -> list[tuple[list[int], list[int]]]:
    found = divided_rows([torch.tensor(score) for score in scores], threshold)
    return [(kept.tolist(), sorted(masked.tolist())) for kept, masked in found]


def test_the_rows_with_the_largest_score_are_kept() -> None:
    assert divided([[5.0, 1.0, 4.0, 2.0, 3.0]], 0.6) == [([0, 2], [1, 3, 4])]


def test_layers_of_different_widths_are_divided_each_by_itself() -> None:
    scores = [[5.0, 1.0, 4.0, 2.0], [1.0, 2.0], [0.0, 0.0, 9.0, 8.0], [2.0, 1.0]]
    assert divided(scores, 0.5) == [([0, 2], [1, 3]), ([1], [0]), ([2, 3], [0, 1]), ([0], [1])]


def test_each_expert_is_divided_by_itself_and_all_of_an_unused_one_is_masked() -> None:
    experts = torch.tensor([[5.0, 1.0, 4.0, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    ((kept, masked),) = divided_rows([experts], 0.5)
    assert kept.tolist() == [0, 2, 10, 11]
    assert sorted(masked.tolist()) == [1, 3, 4, 5, 6, 7, 8, 9]


def test_among_equal_scores_the_first_rows_are_kept() -> None:
    assert divided([[1.0] * 10], 0.7) == [([0, 1, 2], [3, 4, 5, 6, 7, 8, 9])]
    assert divided([[1.0, 2.0, 2.0, 2.0]], 0.5) == [([1, 2], [0, 3])]


def test_threshold_zero_masks_nothing() -> None:
    assert divided([[1.0] * 5], 0.0) == [([0, 1, 2, 3, 4], [])]


@given(rows=st.integers(1, 5000), percent=st.integers(0, 99))
def test_the_masked_share_is_the_threshold_rounded_down(rows: int, percent: int) -> None:
    assert rows_masked(rows, percent / 100) == int(Fraction(percent, 100) * rows)


# --- on a model ---------------------------------------------------------------------------------------------------


def toy(folder: Path, tuning: Tuning | None = None) -> Family:
    loaded = load_toy(folder, tuning)
    loaded.model.double()
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:  # fresh adapters start with B = 0, which would hide what B contributes
            torch.nn.init.normal_(parameter)
    return loaded


def context(loaded: Family, index: int = 1, **changes: Any) -> Context:
    values = {"task": None, "task_index": index, "seed": 5} | changes
    return Context(family=loaded, **values)


def batch(loaded: Family, seed: int, examples: int = 3) -> dict[str, torch.Tensor]:
    """Prompts and answers of different lengths, so that both are padded."""
    draw = np.random.default_rng(seed)

    def text(most: int) -> str:
        return " ".join(f"w{draw.integers(37)}" for _ in range(draw.integers(1, most)))

    encoded = loaded.encode([text(9) for _ in range(examples)], [text(5) for _ in range(examples)])
    rows = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
    return loaded.collator()(rows)


class Inputs:
    """Records the inputs of every linear layer, to compute outputs independently of the hooks under test."""

    def __init__(self, loaded: Family) -> None:
        self.seen: dict[str, list[np.ndarray]] = {}
        for name, module in linear_layers(loaded.model).items():
            module.register_forward_pre_hook(self._recorder(name))

    def _recorder(self, name: str) -> Any:
        def record(module: Any, inputs: Any) -> None:
            self.seen.setdefault(name, []).append(inputs[0].detach().numpy())

        return record


def positions(layer: str, one: dict[str, torch.Tensor], count_padding: bool) -> np.ndarray:
    """Which positions count, written down from the T5 paper rather than taken from the family."""
    source, target = one["attention_mask"].numpy() == 1, one["labels"].numpy() != -100
    cross_keys = "EncDecAttention" in layer and layer.split(".")[-1] in "kv"
    mask = source if layer.startswith("encoder") or cross_keys else target
    return np.ones_like(mask) if count_padding else mask


def magnitude(inputs: Inputs, layer: str, weight: Any, batches: list[Any], count_padding: bool) -> np.ndarray:
    """Mean over the step's tokens of |x Wᵀ|, for a function `weight` from inputs to outputs."""
    outputs = [
        np.abs(weight(x))[positions(layer, one, count_padding)]
        for x, one in zip(inputs.seen[layer], batches, strict=True)
    ]
    return np.concatenate(outputs).mean(axis=0)


def expected_rows(score: np.ndarray, threshold: float) -> set[int]:
    order = sorted(range(len(score)), key=lambda row: (-score[row], row))
    return set(order[len(score) - int(Fraction(str(threshold)) * len(score)) :])


def step(loaded: Family, strategy: MIGU, batches: list[dict[str, torch.Tensor]], where: Context) -> None:
    """Forward and backward of every micro-batch, with the hooks at their places; then the mask."""
    for one in batches:
        strategy.before_forward(where, one)
        loss = loaded.model(**one).loss
        strategy.after_forward(where, one)
        loss.backward()
    strategy.before_step(where)


def zero_rows(weight: torch.nn.Parameter) -> set[int]:
    assert weight.grad is not None
    return {row for row in range(len(weight)) if not weight.grad[row].any()}


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_full_tuning_masks_the_rows_of_an_independent_computation(
    toy_t5: Path, threshold: float, count_padding: bool, micro_batches: int
) -> None:
    loaded = toy(toy_t5)
    inputs = Inputs(loaded)
    batches = [batch(loaded, seed) for seed in range(micro_batches)]
    strategy = MIGU(MIGUOptions(name="migu", threshold=threshold, count_padding=count_padding))
    where = context(loaded)
    strategy.before_task(where)
    step(loaded, strategy, batches, where)

    layers = select_layers(loaded, ["attention", "feed_forward"])
    assert len(layers) == 2 * (4 + 3) + 2 * (8 + 3)
    for name, module in layers.items():
        weight = module.weight.detach().numpy()
        score = magnitude(inputs, name, lambda x, w=weight: x @ w.T, batches, count_padding)
        assert zero_rows(module.weight) == expected_rows(score, threshold), name
    share = sum(rows_masked(len(m.weight), threshold) for m in layers.values()) / sum(
        len(m.weight) for m in layers.values()
    )
    assert where.take_terms()["migu_masked_share"] == pytest.approx(share)


def test_padding_changes_the_mask(toy_t5: Path) -> None:
    """The control of the test above: `count_padding` makes a difference on these batches."""
    chosen = []
    for count_padding in (False, True):
        loaded = toy(toy_t5)
        strategy = MIGU(MIGUOptions(name="migu", count_padding=count_padding))
        where = context(loaded)
        strategy.before_task(where)
        step(loaded, strategy, [batch(loaded, 0)], where)
        chosen.append([zero_rows(m.weight) for m in select_layers(loaded, ["attention"]).values()])
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize("threshold", [0.25, 0.7])
def test_lora_masks_a_by_its_own_output_and_b_by_the_whole_layers(toy_t5: Path, threshold: float) -> None:
    loaded = toy(toy_t5, LORA)
    inputs = Inputs(loaded)
    batches = [batch(loaded, seed) for seed in (7, 8)]
    strategy = MIGU(MIGUOptions(name="migu", threshold=threshold))
    where = context(loaded)
    strategy.before_task(where)
    step(loaded, strategy, batches, where)

    checked = 0
    for name, module in select_layers(loaded, ["attention"]).items():
        if not hasattr(module, "lora_A"):
            continue
        w = module.base_layer.weight.detach().numpy()
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        an, bn = a.detach().numpy(), b.detach().numpy()
        score_a = magnitude(inputs, name, lambda x, an=an: x @ an.T, batches, False)
        score_b = magnitude(
            inputs,
            name,
            lambda x, w=w, an=an, bn=bn: x @ w.T + LORA.alpha / LORA.rank * (x @ an.T) @ bn.T,
            batches,
            False,
        )
        assert zero_rows(a) == expected_rows(score_a, threshold), name
        assert zero_rows(b) == expected_rows(score_b, threshold), name
        checked += 1
    assert checked == 2 * 2 + 2 * 4  # q and v of self-attention, and of cross-attention in the decoder


@pytest.mark.parametrize("count_padding", [False, True])
def test_the_identity_that_dora_sends_through_an_adapter_is_no_token(toy_t5: Path, count_padding: bool) -> None:
    loaded = toy(toy_t5, LORA.model_copy(update={"use_dora": True}))
    with torch.no_grad():  # what the layers are given is quiet beside the identity
        for name, parameter in loaded.model.named_parameters():
            parameter.mul_(0.01 if "layer_norm" in name else 1)
    inputs = Inputs(loaded)
    batches = [batch(loaded, 7)]
    strategy = MIGU(MIGUOptions(name="migu", threshold=0.5, count_padding=count_padding))
    strategy.check(loaded, 2)
    inputs.seen.clear()
    where = context(loaded)
    strategy.before_task(where)
    loaded.model.train()
    step(loaded, strategy, batches, where)
    layers = [(name, one) for name, one in select_layers(loaded, ["attention"]).items() if hasattr(one, "lora_A")]
    for name, module in layers:
        a = module.lora_A["default"].weight
        an = a.detach().numpy()
        score = magnitude(inputs, name, lambda x, an=an: x @ an.T, batches, count_padding)
        assert zero_rows(a) == expected_rows(score, 0.5), name
    assert layers


def adamw(loaded: Family) -> torch.optim.AdamW:
    return torch.optim.AdamW([p for p in loaded.model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)


@pytest.mark.parametrize("tuning", [FullTuning(), LORA], ids=["full", "lora"])
@pytest.mark.parametrize("mask", ["gradient", "update"])
def test_update_freezes_masked_rows_where_adamw_would_move_them(toy_t5: Path, tuning: Tuning, mask: Any) -> None:
    loaded = toy(toy_t5, tuning)
    strategy = MIGU(MIGUOptions(name="migu", threshold=0.7, mask=mask))
    optimizer = adamw(loaded)
    loaded.model(**batch(loaded, 1)).loss.backward()
    optimizer.step()  # gives every row a momentum
    optimizer.zero_grad()

    where = context(loaded)
    strategy.before_task(where)
    step(loaded, strategy, [batch(loaded, 2)], where)
    sites = row_sites(select_layers(loaded, ["attention", "feed_forward"]))
    masked = {site.name: sorted(zero_rows(site.weight)) for site in sites}
    before = {site.name: site.weight.detach().clone() for site in sites}
    optimizer.step()
    strategy.after_step(where)
    for site in sites:
        kept = [row for row in range(len(site.weight)) if row not in masked[site.name]]
        same = torch.equal(site.weight[masked[site.name]], before[site.name][masked[site.name]])
        assert same is (mask == "update")
        assert (site.weight[kept] != before[site.name][kept]).any(dim=1).all()


@pytest.mark.parametrize("mask", ["gradient", "update"])
def test_weights_that_lie_transposed_are_masked_along_their_output_units(
    toy_llama: Path, tmp_path: Path, mask: Any
) -> None:
    """GPT-2 computes x W + b with W of d_in × d_out: the units that MIGU chooses from are columns."""
    loaded = toy(Path(write_gpt2(tmp_path, toy_llama).name))
    inputs = Inputs(loaded)
    batches = [batch(loaded, seed) for seed in (1, 2)]
    strategy = MIGU(MIGUOptions(name="migu", threshold=0.7, mask=mask))
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=0.1, weight_decay=0.1)
    where = context(loaded)
    strategy.before_task(where)
    step(loaded, strategy, batches, where)
    layers = select_layers(loaded, ["attention", "feed_forward"])
    before = {name: (module.weight.detach().clone(), module.bias.detach().clone()) for name, module in layers.items()}
    optimizer.step()
    strategy.after_step(where)

    assert len(layers) == 2 * 4
    for name, module in layers.items():
        w, b = (part.numpy() for part in before[name])
        outputs = [
            np.abs(x @ w + b)[one["attention_mask"].numpy() == 1]
            for x, one in zip(inputs.seen[name], batches, strict=True)
        ]
        expected = expected_rows(np.concatenate(outputs).mean(axis=0), 0.7)
        gradient, moved = module.weight.grad, (module.weight != before[name][0]).any(dim=0)
        assert {unit for unit in range(w.shape[1]) if not gradient[:, unit].any()} == expected, name
        # Without a momentum AdamW moves masked units by weight decay only, and with `update` not even that.
        assert {unit for unit in range(w.shape[1]) if not moved[unit]} == (expected if mask == "update" else set())
        # A unit's bias belongs to its row: `update` freezes both, `gradient`, as published, masks the weight alone.
        still = {unit for unit in range(w.shape[1]) if module.bias[unit] == before[name][1][unit]}
        # (A key's bias has a gradient of zero up to rounding, which one unit or other may hit exactly.)
        assert still == expected if mask == "update" else len(still & expected) < len(expected) / 2


def test_random_masks_as_many_rows_anew_each_step_and_repeatably(toy_t5: Path) -> None:
    def rows(step_number: int, seed: int = 5) -> list[set[int]]:
        loaded = toy(toy_t5)
        strategy = MIGU(MIGUOptions(name="migu", threshold=0.7, source="random"))
        where = context(loaded, step=step_number, seed=seed)
        strategy.before_task(where)
        step(loaded, strategy, [batch(loaded, 0)], where)
        assert where.take_terms()["migu_masked_share"] == pytest.approx(0.7, abs=0.03)
        return [zero_rows(m.weight) for m in select_layers(loaded, ["attention"]).values()]

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)
    assert rows(1) != rows(1, seed=6)
    assert all(len(masked) == 11 for masked in rows(1))  # ⌊0.7 · 16⌋


CONTROLS = ("random", "fixed_random", "persistent_random", "smallest")


def test_every_control_masks_as_many_rows_of_each_layer(toy_t5: Path) -> None:
    counts = {
        source: [[len(site) for site in one] for one in rows_of_steps(toy_t5, source)]
        for source in ("magnitude", *CONTROLS)
    }
    loaded = toy(toy_t5)
    widths = [len(one.weight) for one in select_layers(loaded, ["attention", "feed_forward"]).values()]
    assert counts["magnitude"][0] == [rows_masked(width, 0.7) for width in widths]
    assert all(counts[source] == counts["magnitude"] for source in CONTROLS)


def test_controls_keep_their_rows_from_step_to_step_as_they_say(toy_t5: Path) -> None:
    """How many of a layer's rows are the same in two steps, and in two tasks: the controls differ in nothing else."""
    steps = {source: rows_of_steps(toy_t5, source) for source in ("magnitude", *CONTROLS)}
    shared = {
        source: [[len(a & b) for a, b in zip(rows[0], later, strict=True)] for later in rows[1:]]
        for source, rows in steps.items()
    }
    all_of_them = [[len(site) for site in steps["magnitude"][0]]] * 2
    assert shared["fixed_random"] == all_of_them
    assert shared["persistent_random"] == shared["magnitude"] != all_of_them
    assert steps["persistent_random"] != steps["magnitude"]
    assert sum(map(sum, shared["random"])) < sum(map(sum, shared["magnitude"]))


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_rows_are_held_for_as_many_steps_and_no_more(toy_t5: Path, micro_batches: int) -> None:
    """They are those of steps 0, 3 and 6 of a run that chooses in each step."""
    chosen = {hold: held_rows(toy_t5, hold, micro_batches) for hold in (1, 3)}
    assert chosen[3] == [chosen[1][3 * (number // 3)] for number in range(8)]
    assert all(one != other for one, other in itertools.pairwise(chosen[1]))


def held_rows(folder: Path, hold: int, micro_batches: int, broken: int | None = None) -> list[list[set[int]]]:
    """The rows masked, by layer, in eight steps of a task over other batches, in which no weight moves.

    Args:
        broken: the step in which no number is finite.
    """
    loaded = load_toy(folder)
    strategy = MIGU(MIGUOptions(name="migu", hold=hold))
    strategy.steps = Steps(micro_batches, 1, "rows are looked at in whole gradients")
    strategy.before_task(context(loaded))
    found = []
    embeddings = loaded.model.get_input_embeddings().weight
    own = embeddings.detach().clone()
    for number in range(8):
        with torch.no_grad():
            embeddings.copy_(own * (torch.nan if number == broken else 1))
        step(
            loaded,
            strategy,
            [batch(loaded, 10 * number + one) for one in range(micro_batches)],
            context(loaded, step=number),
        )
        found.append([zero_rows(site.weight) for site in strategy._sites])
        loaded.model.zero_grad()
    strategy.after_task(context(loaded))
    return found


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_rows_of_a_step_that_is_not_finite_are_not_held(toy_t5: Path, micro_batches: int) -> None:
    """Such a step is left out (`on_nan: skip`); the next one chooses, and its rows are held until the next are due."""
    always = held_rows(toy_t5, 1, micro_batches)
    found = held_rows(toy_t5, 3, micro_batches, broken=3)
    assert found[4:] == [always[4], always[4], always[6], always[6]]


def test_held_rows_need_rows_that_change() -> None:
    with pytest.raises(ValueError, match="hold: has no effect with source: fixed_random"):
        MIGUOptions(name="migu", hold=2, source="fixed_random")


def test_smallest_updates_the_rows_that_magnitude_masks_first(toy_t5: Path) -> None:
    largest, smallest = rows_of_steps(toy_t5, "magnitude")[0], rows_of_steps(toy_t5, "smallest")[0]
    for quiet, loud in zip(smallest, largest, strict=True):  # the masked ones of each are over a half of the rows
        assert quiet | loud == set(range(len(quiet | loud)))


def rows_of_steps(folder: Path, source: Any) -> list[list[set[int]]]:
    """The rows masked, by layer, in two steps of a task and one of the next."""
    loaded = toy(folder)
    strategy = MIGU(MIGUOptions(name="migu", threshold=0.7, source=source))
    found = []
    for index, number in ((1, 1), (1, 2), (2, 1)):
        where = context(loaded, index=index, step=number)
        strategy.before_task(where)
        with torch.no_grad():
            one = batch(loaded, 10 * index + number)
            strategy.before_forward(where, one)
            loaded.model(**one)
            strategy.after_forward(where, one)
        for parameter in loaded.model.parameters():  # no gradient is zero but by the mask
            parameter.grad = torch.ones_like(parameter)
        strategy.before_step(where)
        found.append([zero_rows(site.weight) for site in strategy._sites])
        strategy.after_task(where)
    return found


def test_first_task_is_left_alone_unless_asked(toy_t5: Path) -> None:
    for first_task, masks in (("unmasked", False), ("masked", True)):
        loaded = toy(toy_t5)
        strategy = MIGU(MIGUOptions(name="migu", threshold=0.7, first_task=first_task))
        where = context(loaded, index=0)
        strategy.before_task(where)
        step(loaded, strategy, [batch(loaded, 0)], where)
        weight = loaded.model.encoder.block[0].layer[0].SelfAttention.v.weight
        assert bool(zero_rows(weight)) is masks


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_whoever_hooks_on_a_weight_is_given_its_whole_gradient(toy_t5: Path, early: bool, kind: str) -> None:
    masked, given = {}, []

    def see(one: torch.Tensor) -> None:
        given.append(one if kind == "register_hook" else one.grad.clone())

    for hooked in (False, True):
        loaded = load_toy(toy_t5)
        strategy = MIGU(MIGUOptions(name="migu"))
        strategy.steps = Steps(1, 1)
        weight = linear_layers(loaded.model)["encoder.block.0.layer.0.SelfAttention.q"].weight
        where = context(loaded)
        if hooked and early:
            getattr(weight, kind)(see)
        strategy.before_task(where)
        if hooked and not early:
            getattr(weight, kind)(see)
        step(loaded, strategy, [batch(loaded, 7)], where)
        rows = where.row_gradients.pop(weight, None)
        masked[hooked] = weight.grad if rows is None else torch.zeros_like(weight).index_copy_(0, rows.rows, rows.grad)
        strategy.after_task(where)
    torch.testing.assert_close(masked[True], masked[False])
    assert [one.shape for one in given] == [weight.shape]
    assert given[0].any(dim=1).all()


def test_hooks_are_gone_after_the_task(toy_t5: Path) -> None:
    loaded = toy(toy_t5)
    strategy = MIGU(MIGUOptions(name="migu"))

    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in loaded.model.modules())

    before = hooks()
    strategy.before_task(context(loaded))
    assert hooks() > before
    strategy.after_task(context(loaded))
    assert hooks() == before


def test_the_mask_is_over_all_processes(toy_t5: Path) -> None:
    """Two processes with a half of the batch each choose what one process with the whole batch chooses."""
    batches = [batch(toy(toy_t5), seed) for seed in (11, 12)]

    def rows(own: list[dict[str, torch.Tensor]], others: list[dict[str, torch.Tensor]]) -> list[set[int]]:
        loaded = toy(toy_t5)
        strategy = MIGU(MIGUOptions(name="migu"))
        other_sums: list[torch.Tensor] = []
        if others:  # what the other process would send
            helper, remote = MIGU(MIGUOptions(name="migu")), context(toy(toy_t5))
            remote.sum_over_processes = lambda sums: other_sums.append(sums) or sums
            helper.before_task(remote)
            step(remote.family, helper, others, remote)
        where = context(loaded)
        where.sum_over_processes = lambda sums: sums + sum(other_sums)
        strategy.before_task(where)
        step(loaded, strategy, own, where)
        return [zero_rows(m.weight) for m in select_layers(loaded, ["feed_forward"]).values()]

    whole = rows(batches, [])
    assert rows(batches[:1], batches[1:]) == whole
    assert rows(batches[1:], batches[:1]) == whole
    assert rows(batches[:1], []) != whole  # the control


def check(loaded: Family, **options: Any) -> None:
    MIGU(MIGUOptions(name="migu", **options)).check(loaded, 2)


def test_layers_that_fit_nothing_are_an_error_that_names_the_layers(toy_t5: Path) -> None:
    found = "k, lm_head, o, q, v, wi_0, wi_1, wo"
    with pytest.raises(ModelError, match=rf"^strategies\.migu\.layers: 'query' fits no linear layer .* found: {found}"):
        check(toy(toy_t5), layers=["query"])


def test_layers_without_an_adapter_are_an_error(toy_t5: Path) -> None:
    with pytest.raises(StrategyError, match="none of these layers is trained"):
        check(toy(toy_t5, LORA), layers=["feed_forward"])


def test_a_threshold_below_one_row_of_every_layer_is_an_error(toy_t5: Path) -> None:
    """The toy's adapters have rank 4, and the largest of their layers 16 rows."""
    loaded = toy(toy_t5, LORA)
    with pytest.raises(
        StrategyError, match=r"^strategies\.migu\.threshold: 0\.06 of 16 rows, .* nothing would be masked"
    ):
        check(loaded, threshold=0.06)
    check(loaded, threshold=1 / 16)


def test_a_step_without_a_recorded_output_is_an_error(toy_t5: Path) -> None:
    loaded = toy(toy_t5)
    strategy = MIGU(MIGUOptions(name="migu"))
    strategy.before_task(context(loaded))
    with pytest.raises(StrategyError, match="no layer's output was recorded"):
        strategy.before_step(context(loaded))


def test_a_weight_that_is_trained_without_its_layer_being_called_is_refused(toy_t5: Path) -> None:
    """As fused kernels use Mamba's `out_proj`; a penalty on a layer that no input reached is no reason."""
    loaded, where = toy(toy_t5), context(toy(toy_t5))
    where.family = loaded
    name = "encoder.block.0.layer.1.DenseReluDense"
    inside, one = loaded.model.get_submodule(name), batch(loaded, 1)
    strategy = MIGU(MIGUOptions(name="migu"))
    strategy.before_task(where)
    called = inside.forward
    inside.forward = lambda states: states  # nothing of it is used
    unused = [layer.weight for layer in inside.children() if isinstance(layer, torch.nn.Linear)]
    for weight in unused:
        weight.grad = torch.ones_like(weight)
    step(loaded, strategy, [one], where)
    inside.forward = lambda states: called(states) + torch.nn.functional.linear(states, inside.wi_0.weight[:16])
    step(loaded, strategy, [one], where)
    inside.forward = lambda states: torch.nn.functional.linear(states, inside.wi_0.weight[:16])
    with pytest.raises(ModelError, match=rf"^strategies\.migu\.layers: of this .*{name}\.wi_0 is trained without"):
        strategy.check(loaded, 2)
    with pytest.raises(StrategyError, match=rf"^strategies\.migu\.layers: layer {name}\.wi_0 is trained without"):
        step(loaded, strategy, [one], where)

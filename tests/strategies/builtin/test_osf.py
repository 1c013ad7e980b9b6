"""OSF's promises about the weights, against an independent decomposition by numpy in float64."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open

from clkit.errors import StrategyError
from clkit.models.family import Family
from clkit.models.layers import select_layers
from clkit.models.loading import load_model, save_model
from clkit.models.objective import Classification
from clkit.models.sections import FullTuning, ModelSection
from clkit.strategies.builtin.osf import OSF, OSFOptions
from clkit.strategies.contract import Context
from clkit.strategies.registry import check_composition
from tests.models.test_layers import write_gpt2
from tests.strategies.loaded import load_toy
from tests.toy import toy_recipe

Weights = dict[str, torch.Tensor]
DEFAULT_LAYERS = ["attention", "feed_forward"]


def toy(folder: Path, freeze: list[str] | None = None) -> Family:
    return load_toy(folder, FullTuning(freeze=freeze or []))


def context(loaded: Family, index: int = 1) -> Context:
    values: Any = {"task": SimpleNamespace(name="second")}
    return Context(family=loaded, task_index=index, seed=5, **values)


def strategy(**options: Any) -> OSF:
    return OSF(OSFOptions(name="osf", **options))


def batch(loaded: Family, seed: int) -> dict[str, torch.Tensor]:
    draw = np.random.default_rng(seed)
    texts = [" ".join(f"w{draw.integers(37)}" for _ in range(3)) for _ in range(8)]
    encoded = loaded.encode(texts[:4], texts[4:])
    rows = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
    return loaded.collator()(rows)


def weights(loaded: Family) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}


def steps(loaded: Family, osf: OSF, where: Context, optimizer: type[torch.optim.Optimizer], count: int = 6) -> None:
    trained = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    made = optimizer(trained, lr=1.0 if optimizer is torch.optim.SGD else 1e-2)  # type: ignore[call-arg]
    for seed in range(count):
        loaded.model(**batch(loaded, seed)).loss.backward()
        osf.before_step(where)
        made.step()
        osf.after_step(where)
        made.zero_grad()


def learn(loaded: Family, osf: OSF, index: int = 1, optimizer: type[torch.optim.Optimizer] | None = None) -> None:
    where = context(loaded, index)
    osf.before_task(where)
    steps(loaded, osf, where, optimizer or torch.optim.AdamW)
    osf.after_task(where)


def layer_names(loaded: Family) -> list[str]:
    return [f"{name}.weight" for name in select_layers(loaded, DEFAULT_LAYERS)]


def movement(before: torch.Tensor, after: torch.Tensor, share: float) -> tuple[float, float]:
    """‖U_highᵀ ΔW‖ and ‖ΔW V_high‖ as shares of ‖ΔW‖, for the directions of the weight before the task."""
    old = before.numpy().astype(np.float64)
    change = after.numpy().astype(np.float64) - old
    u, _, vt = np.linalg.svd(old, full_matrices=False)
    high = int(share * min(old.shape))
    norm = np.linalg.norm(change)
    assert high >= 1
    assert norm > 1e-3 * np.linalg.norm(old)
    return float(np.linalg.norm(u[:, :high].T @ change) / norm), float(np.linalg.norm(change @ vt[:high].T) / norm)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize(
    ("projection", "optimizer", "kept"),
    [("update", "AdamW", True), ("gradient", "SGD", True), ("gradient", "AdamW", False)],
)
def test_a_task_does_not_move_the_frozen_directions(
    toy_t5: Path, share: float, projection: str, optimizer: str, kept: bool
) -> None:
    """With `gradient` this holds for SGD alone: AdamW rescales elements, which is why `update` is the default."""
    loaded = toy(toy_t5)
    before = weights(loaded)
    learn(loaded, strategy(preserved=share, projection=projection), optimizer=getattr(torch.optim, optimizer))
    after = weights(loaded)
    names = layer_names(loaded)
    shapes = {tuple(after[name].shape) for name in names}
    assert {rows > columns for rows, columns in shapes} == {
        True,
        False,
    }  # tall and wide: peft projects them differently
    worst = max(max(movement(before[name], after[name], share)) for name in names)
    assert (worst < 1e-4) if kept else (worst > 1e-2)


def test_the_frozen_triples_stay_singular_triples(toy_t5: Path) -> None:
    """So an input along a frozen direction gives the output that it gave before the task."""
    loaded = toy(toy_t5)
    before = weights(loaded)
    learn(loaded, strategy())
    after = weights(loaded)
    for name in layer_names(loaded):
        old, new = before[name].numpy().astype(np.float64), after[name].numpy().astype(np.float64)
        u, s, vt = np.linalg.svd(old, full_matrices=False)
        high = min(old.shape) // 2
        np.testing.assert_allclose(new @ vt[:high].T, u[:, :high] * s[:high], atol=1e-5 * s[0])
        np.testing.assert_allclose(u[:, :high].T @ new, s[:high, None] * vt[:high], atol=1e-5 * s[0])


@pytest.mark.parametrize("end", ["merge_and_unload", "unload"])
def test_the_weights_after_a_task_are_the_trained_ones(toy_t5: Path, end: str) -> None:
    """The trap of peft's own example: `unload` gives back the weights from before the task."""
    loaded = toy(toy_t5)
    before = weights(loaded)
    osf, where = strategy(), context(loaded)
    osf.before_task(where)
    steps(loaded, osf, where, torch.optim.AdamW)
    expected = {}
    for name, old in before.items():
        module = dict(loaded.model.named_modules()).get(name.removesuffix(".weight"))
        if module is not None and hasattr(module, "osf_svd_params"):
            low = module.osf_svd_params["default"]
            u, s, vt = np.linalg.svd(old.numpy().astype(np.float64), full_matrices=False)
            high = min(old.shape) // 2
            trained = [low[part].detach().numpy().astype(np.float64) for part in ("U_low", "S_low", "V_low")]
            expected[name] = u[:, :high] * s[:high] @ vt[:high] + trained[0] * trained[1] @ trained[2]
    one = batch(loaded, 9)
    logits = loaded.model(**one).logits.detach()
    if end == "merge_and_unload":
        osf.after_task(where)
    else:
        osf._tuner.unload()  # type: ignore[union-attr]
    after = weights(loaded)

    assert sorted(expected) == sorted(layer_names(loaded))
    kept = [np.allclose(after[name].numpy(), expected[name], atol=1e-5) for name in expected]
    lost = [torch.equal(after[name], before[name]) for name in expected]
    assert (all(kept), any(kept)) == ((True, True) if end == "merge_and_unload" else (False, False))
    assert (all(lost), any(lost)) == ((True, True) if end == "unload" else (False, False))
    same = torch.allclose(loaded.model(**one).logits, logits, atol=1e-4)
    assert same is (end == "merge_and_unload")


def test_nothing_but_the_decomposed_layers_is_trained(toy_t5: Path) -> None:
    loaded = toy(toy_t5)
    before = weights(loaded)
    learn(loaded, strategy(layers=["feed_forward", "decoder.*.v"]))
    after = weights(loaded)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {
        name
        for name in before
        if "DenseReluDense" in name or (name.startswith("decoder") and name.endswith("Attention.v.weight"))
    }


def test_a_head_that_began_untrained_is_trained_with_the_decomposed_layers(toy_roberta: Path) -> None:
    labels = {"first": ["w1", "w2"], "second": ["w3", "w4"]}
    loaded = load_model(
        ModelSection(name=str(toy_roberta)), FullTuning(), (), Classification(kind="classification"), labels
    )
    before = weights(loaded)
    osf, where = strategy(), context(loaded)
    osf.before_task(where)
    tokens = {"input_ids": torch.tensor([[40, 5, 1], [40, 6, 1]]), "labels": torch.tensor([0, 1])}
    loaded.model(**tokens).loss.backward()
    made = torch.optim.AdamW([one for one in loaded.model.parameters() if one.requires_grad], lr=1e-2)
    made.step()
    osf.after_step(where)
    osf.after_task(where)
    after = weights(loaded)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    head = {name for name in before if name.startswith("classifier.")}
    assert head
    assert moved == head | set(layer_names(loaded))


def test_between_tasks_the_model_is_the_plain_one(toy_t5: Path, tmp_path: Path) -> None:
    """The same objects under the same names, trained and frozen as before, and saved as a plain model."""
    loaded = toy(toy_t5, freeze=["norms", "encoder.block.0.*.q.weight"])
    model, modules = loaded.model, dict(loaded.model.named_modules())
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    frozen = model.encoder.block[0].layer[0].SelfAttention.q.weight.clone()
    assert 0 < sum(trained.values()) < len(trained)
    learn(loaded, strategy())
    assert loaded.model is model
    assert dict(model.named_modules()) == modules
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained
    assert not hasattr(model, "peft_config")
    assert torch.equal(model.encoder.block[0].layer[0].SelfAttention.q.weight, frozen)

    save_model(loaded, tmp_path)
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    with (
        safe_open(tmp_path / "model" / "model.safetensors", "pt") as saved,
        safe_open(toy_t5 / "model.safetensors", "pt") as original,
    ):
        assert sorted(saved.keys()) == sorted(original.keys())
    again = load_model(ModelSection(name=str(toy_t5)), FullTuning(), [tmp_path])
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(loaded).items())


def test_the_next_task_starts_from_the_merged_weights(toy_t5: Path) -> None:
    """It freezes the directions of the weights after the second task, not of those before it."""
    loaded = toy(toy_t5)
    osf = strategy(preserved=0.25, growth=0.25)
    start = weights(loaded)
    learn(loaded, osf, 1)
    first = weights(loaded)
    where = context(loaded, 2)
    osf.before_task(where)
    one = batch(loaded, 9)
    plain = toy(toy_t5)
    plain.model.load_state_dict(first, strict=False)  # tied weights stand once
    torch.testing.assert_close(loaded.model(**one).logits, plain.model(**one).logits, atol=1e-5, rtol=1e-5)
    steps(loaded, osf, where, torch.optim.AdamW)
    assert where.take_terms()["osf_preserved_share"] == pytest.approx(0.5)
    osf.after_task(where)
    second = weights(loaded)
    for name in layer_names(loaded):
        assert max(movement(first[name], second[name], 0.5)) < 1e-4
    assert max(max(movement(start[name], second[name], 0.5)) for name in layer_names(loaded)) > 1e-2


def test_the_first_task_is_left_alone_unless_asked(toy_t5: Path) -> None:
    for first_task, protects in (("unprotected", False), ("protected", True)):
        loaded = toy(toy_t5)
        names = list(weights(loaded))
        strategy(first_task=first_task).before_task(context(loaded, 0))
        assert (list(weights(loaded)) != names) is protects


def test_the_share_grows_with_each_protected_task() -> None:
    def shares(**options: Any) -> list[float | None]:
        found = [OSFOptions(name="osf", **options).share(index) for index in range(4)]
        return [None if share is None else round(share, 6) for share in found]

    assert shares() == [None, 0.5, 0.5, 0.5]
    assert shares(preserved=0.25, growth=0.25) == [None, 0.25, 0.5, 0.75]
    assert shares(preserved=0.2, growth=0.2, first_task="protected") == [0.2, 0.4, 0.6, 0.8]


def test_a_share_that_leaves_nothing_to_train_is_refused_with_the_recipe(tmp_path: Path, toy_t5: Path) -> None:
    entry = {"name": "osf", "preserved": 0.6, "growth": 0.4}
    toy_recipe(tmp_path, toy_t5, strategies=[entry])  # one protected task
    with pytest.raises(ValidationError, match=r"strategies\.osf\.growth: 0\.6 \+ 0\.4 .* in task 2 \('second'\)"):
        toy_recipe(tmp_path, toy_t5, strategies=[entry | {"first_task": "protected"}])


@pytest.mark.parametrize("other", ["migu", "lora"])
def test_what_it_cannot_work_with_is_refused(other: str) -> None:
    from clkit.strategies.migu_options import MIGUOptions

    entries = [OSFOptions(name="osf"), *([MIGUOptions(name="migu")] if other == "migu" else [])]
    with pytest.raises(ValueError, match=r"conflicts with 'migu': OSF trains" if other == "migu" else "lora"):
        check_composition(entries, "full" if other == "migu" else other)


def check(osf: OSF, loaded: Family, tasks: int = 2) -> None:
    osf.check(loaded, tasks)


def test_layers_that_cannot_be_decomposed_are_an_error_before_any_task(toy_t5: Path) -> None:
    with pytest.raises(StrategyError, match="the weight of 'lm_head' is tied"):
        check(strategy(layers=["lm_head"]), toy(toy_t5))
    with pytest.raises(StrategyError, match=r"none of these layers is trained \(attention\)"):
        check(strategy(layers=["attention"]), toy(toy_t5, freeze=["attention"]))
    with pytest.raises(StrategyError, match=r"0\.05 of the 16 directions of 'encoder.* is less than one"):
        check(strategy(preserved=0.05), toy(toy_t5))
    check(strategy(preserved=0.05), toy(toy_t5), tasks=1)  # which nothing is protected in
    check(strategy(), toy(toy_t5))


def test_weights_that_lie_transposed_are_refused_before_the_first_task(toy_llama: Path, tmp_path: Path) -> None:
    loaded = toy(Path(write_gpt2(tmp_path, toy_llama).name))
    with pytest.raises(StrategyError, match=r"^strategies\.osf: 'transformer\.h\.0\.attn\.c_attn' is a Conv1D, which"):
        strategy().memory(loaded, 2)  # asked for before training
    with pytest.raises(StrategyError, match="is a Conv1D"):
        check(strategy(), loaded)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_memory_is_what_the_decomposition_adds(toy_t5: Path, share: float) -> None:
    def held(loaded: Family) -> int:
        return sum(tensor.nbytes for tensor in [*loaded.model.parameters(), *loaded.model.buffers()])

    loaded = toy(toy_t5, freeze=["encoder.block.0.*"])
    osf = strategy(preserved=share)
    told, plain = osf.memory(loaded, 2), held(loaded)
    assert osf.memory(loaded, 1) == 0
    osf.before_task(context(loaded))
    assert held(loaded) - plain == told > 0
    osf.after_task(context(loaded))
    assert held(loaded) == plain

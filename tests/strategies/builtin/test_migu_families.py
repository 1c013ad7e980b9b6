"""MIGU on families whose layers have names or ways of their own: magnitudes computed from the layers' inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from clkit.errors import ModelError, StrategyError
from clkit.models.families.classifier import Classifier
from clkit.models.family import Family, summed_cross_entropy
from clkit.models.layers import row_sites, select_layers
from clkit.models.objective import Classification
from clkit.strategies.builtin.migu import MIGU, MIGUOptions
from clkit.strategies.contract import Steps
from tests.models.test_encoder import CONFIGS
from tests.models.test_padding import seq2seq
from tests.strategies.builtin.test_migu import context, expected_rows, zero_rows

ENCODERS, SEQ2SEQ = ("albert", "mpnet", "nomic_bert", "deberta_v3"), ("bart", "t5gemma")
CROSS = ("encoder_attn", "cross_attn")


def make(kind: str, toy_roberta: Path, toy_t5: Path, dtype: torch.dtype) -> Family:
    if kind in SEQ2SEQ:
        family: Family = seq2seq(kind, toy_t5)
    else:
        family = encoder(kind, toy_roberta)
    family.model.to(dtype)
    return family


def encoder(kind: str, tokenizer: Path, **changes: Any) -> Classifier:
    torch.manual_seed(0)
    config = type(CONFIGS[kind]).from_dict({**CONFIGS[kind].to_dict(), "vocab_size": 50, "num_labels": 2, **changes})
    model = AutoModelForSequenceClassification.from_config(config).eval()
    family = Classifier(
        model, AutoTokenizer.from_pretrained(tokenizer), Classification(kind="classification"), {"a": ("w1", "w2")}
    )
    family.see(["a"])
    return family


def magnitudes(family: Family, batch: Any) -> dict[str, np.ndarray]:
    """Σ over tokens of |x Wᵀ + b| by layer, from the inputs that have a position per token of the batch."""
    source, sums = batch["attention_mask"].bool(), {}
    target = batch["labels"] != -100

    def recorder(name: str) -> Any:
        def record(layer: Any, inputs: Any) -> None:
            from_source = name in encoders or (
                any(f".{part}." in name for part in CROSS) and name.endswith(("k_proj", "v_proj"))
            )
            counted = source if from_source else target
            if inputs[0].shape[:2] == counted.shape:  # else DeBERTa's relative positions
                outputs = inputs[0][counted] @ layer.weight.T + (0 if layer.bias is None else layer.bias)
                sums[name] = sums.get(name, 0) + outputs.detach().abs().sum(dim=0).numpy()

        return record

    layers = select_layers(family, ["attention", "feed_forward"])
    encoders = {name for name in layers if isinstance(family, Classifier) or ".encoder." in name}
    hooks = [layer.register_forward_pre_hook(recorder(name)) for name, layer in layers.items()]
    with torch.no_grad():
        family.model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
    for hook in hooks:
        hook.remove()
    return sums


def backward(family: Family, batch: Any, strategy: MIGU | None = None) -> None:
    where = context(family)
    if strategy is not None:
        strategy.before_task(where)
        strategy.before_forward(where, batch)
    outputs = family.model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
    if strategy is not None:
        strategy.after_forward(where, batch)
    summed_cross_entropy(family.logits(outputs, batch["labels"]), batch["labels"]).backward()
    if strategy is not None:
        strategy.before_step(where)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["rows", "whole"])
@pytest.mark.parametrize("kind", [*ENCODERS, *SEQ2SEQ])
def test_rows_are_those_of_an_independent_computation(
    kind: str, dtype: torch.dtype, toy_roberta: Path, toy_t5: Path
) -> None:
    """Gradients of chosen rows (float32) and whole ones; with `update` the masked rows do not move."""
    family = make(kind, toy_roberta, toy_t5, dtype)
    batch = family.probe()
    sites = row_sites(select_layers(family, ["attention", "feed_forward"]))
    strategy = MIGU(MIGUOptions(name="migu", mask="update"))
    strategy.steps = Steps(micro_batches=1, processes=1, whole_gradients="the optimizer of this test needs them")
    strategy.check(family, 2)
    (said,) = (one for one in strategy.remarks(family, 2) if one.startswith("computes"))
    assert said.startswith("computes gradients of kept rows only" if dtype == torch.float32 else "computes whole")
    optimizer = torch.optim.AdamW(family.model.parameters(), lr=0.01)
    backward(family, batch)
    optimizer.step()  # gives every row a momentum
    optimizer.zero_grad()
    sums = magnitudes(family, batch)
    assert {site.name for site in sites} == set(sums)
    masked = {name: expected_rows(one, 0.7) for name, one in sums.items()}
    backward(family, batch, strategy)
    assert {site.name: zero_rows(site.weight) for site in sites} == masked
    before = {site.name: site.weight.detach().clone() for site in sites}
    optimizer.step()
    strategy.after_step(context(family))
    for site in sites:
        still = (site.weight == before[site.name]).all(dim=1).nonzero().flatten()
        assert set(still.tolist()) == masked[site.name], site.name


def test_layers_over_relative_positions_alone_have_no_magnitude(toy_roberta: Path) -> None:
    family = encoder("deberta_v3", toy_roberta, share_att_key=False)
    with pytest.raises(
        StrategyError, match=r"leave out 2\d% .* \(deberta\.encoder\.layer\.\*\.attention\.self\.pos_key"
    ):
        MIGU(MIGUOptions(name="migu")).check(family, 2)
    with pytest.raises(ModelError, match=r"pos_key_proj gives an output of 1 × 10 positions where the batch"):
        MIGU(MIGUOptions(name="migu", layers=["*_proj"])).check(family, 2)
    MIGU(MIGUOptions(name="migu", partial=True)).check(family, 2)

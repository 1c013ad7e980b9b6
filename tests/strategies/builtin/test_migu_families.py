"""MIGU on families whose layers have names or ways of their own: magnitudes computed from the layers' inputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from clkit.errors import ModelError, StrategyError
from clkit.models.experts import ExpertWeight
from clkit.models.families.classifier import Classifier
from clkit.models.families.decoder import Decoder
from clkit.models.family import Family, summed_cross_entropy
from clkit.models.layers import ranked_layers, row_sites, select_layers, select_ranked, trained_parameters
from clkit.models.loading import load_model
from clkit.models.magnitudes import MagnitudeCollector
from clkit.models.objective import Classification, TextToText
from clkit.models.registry import family_of
from clkit.models.sections import FullTuning, ModelSection
from clkit.strategies.builtin.migu import MIGU
from clkit.strategies.contract import Steps
from clkit.strategies.migu_options import MIGUOptions
from tests.models.test_encoder import CONFIGS
from tests.strategies.builtin.test_migu import context, expected_rows, zero_rows
from tests.strategies.loaded import load_toy
from tests.test_fuzzing_models import EXPERTS, SIZES
from tools.make_architectures import ARCHITECTURES, LABELS, OBJECTIVES, configuration, fits, write_configuration

#: Layers of a decoder that read the encoder's output.
OF_SOURCE = re.compile(r"(encoder_attn|cross_attn|EncDecAttention)\.(k|v)(_proj)?$")
#: Of which whole gradients are tried too.
WHOLE = ("T5", "Llama, SmolLM2", "GPT-2", "ALBERT")


def make(name: str, folder: Path, dtype: torch.dtype) -> Family:
    """A random model of an architecture, loaded as a recipe's is."""
    write_configuration(name, folder)
    torch.manual_seed(0)
    objective = next(one for one in OBJECTIVES if fits(configuration(name), one))
    model = family_of(configuration(name), objective).auto_class.from_config(configuration(name))
    with torch.no_grad():  # else a random model hardly cares what it has read
        for parameter in model.parameters():
            parameter.mul_(3).add_(0.01)
    model.save_pretrained(folder)
    family = load_model(ModelSection(name=str(folder)), FullTuning(), objective=objective, labels=LABELS)
    family.see(LABELS)
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
    """Σ over tokens of |output| by layer, where an output has a position per token of the batch."""
    source, target, sums = batch["attention_mask"].bool(), batch["labels"] != -100, {}

    def recorder(name: str) -> Any:
        def record(layer: Any, inputs: Any, output: torch.Tensor) -> None:
            of_source = family.name != "seq2seq" or ".encoder." in f".{name}" or OF_SOURCE.search(name)
            counted = source if of_source else target
            if output.shape[:2] == counted.shape:  # else DeBERTa's relative positions
                sums[name] = sums.get(name, 0) + output[counted].detach().abs().sum(dim=0).numpy()

        return record

    layers = blocks(family)
    hooks = [layer.register_forward_hook(recorder(name)) for name, layer in layers.items()]
    with torch.no_grad():
        family.model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
    for hook in hooks:
        hook.remove()
    return sums


def blocks(family: Family) -> dict[str, torch.nn.Module]:
    """Every linear layer that stands in a numbered block, but for routers: no role of clkit's is asked."""
    return {
        name: layer
        for name, layer in family.model.named_modules()
        if isinstance(layer, torch.nn.Linear | Conv1D) and re.search(r"\.\d+\.(?!(.*\.)?gate$)", name)
    }


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


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in ARCHITECTURES), *((name, torch.float64) for name in WHOLE)],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_a_step_moves_just_the_rows_of_an_independent_computation(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Of every layer of every block and of none beside, with their biases; experts are left to the tests below."""
    family = make(name, tmp_path, dtype)
    batch = family.probe()
    chosen = select_ranked(family, ["attention", "feed_forward"], "layers")
    linear = {name: layer for name, layer in chosen.items() if not isinstance(layer, ExpertWeight)}
    sites = {site.name: site for site in row_sites(linear)}
    strategy = MIGU(MIGUOptions(name="migu", mask="update"))
    strategy.steps = Steps(micro_batches=1, processes=1, whole_gradients="the optimizer of this test needs them")
    strategy.check(family, 2)
    rows = dtype == torch.float32 and name not in ("GPT-2", "Falcon")  # whose layers are of kinds of their own
    assert any(one.startswith("computes gradients of kept") for one in strategy.remarks(family, 2)) is rows
    optimizer = torch.optim.AdamW(family.model.parameters(), lr=0.01)
    backward(family, batch)
    optimizer.step()  # gives every row a momentum
    optimizer.zero_grad()
    sums = magnitudes(family, batch)
    assert sites.keys() == sums.keys() == blocks(family).keys()
    masked = {name: expected_rows(one, 0.7) for name, one in sums.items()}
    before = {name: parameter.detach().clone() for name, parameter in family.model.named_parameters()}
    backward(family, batch, strategy)
    optimizer.step()
    strategy.after_step(context(family))
    fused = [one for one in ranked_layers(family.model).values() if isinstance(one, ExpertWeight)]
    experts = {id(weight) for one in fused for weight in (one.weight, one.bias)}
    for key, parameter in family.model.named_parameters():
        layer, _, kind = key.rpartition(".")
        still = parameter == before[key]
        if layer not in sites:
            assert id(parameter) in experts or parameter.grad is None or not still.all(), key
            continue
        along = sites[layer].by_row(still).all(dim=-1) if kind == "weight" else still
        assert set(along.nonzero().flatten().tolist()) == masked[layer], key


def test_layers_over_relative_positions_alone_have_no_magnitude(toy_roberta: Path) -> None:
    family = encoder("deberta_v3", toy_roberta, share_att_key=False)
    with pytest.raises(
        StrategyError, match=r"leave out 2\d% .* \(deberta\.encoder\.layer\.\*\.attention\.self\.pos_key"
    ):
        MIGU(MIGUOptions(name="migu")).check(family, 2)
    with pytest.raises(ModelError, match=r"pos_key_proj gives an output of 1 × 10 positions where the batch"):
        MIGU(MIGUOptions(name="migu", layers=["*_proj"])).check(family, 2)
    MIGU(MIGUOptions(name="migu", partial=True)).check(family, 2)


# --- fused experts ------------------------------------------------------------------------------------------------


MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "granitemoe", "olmoe", "ernie4_5_moe")


def mixture(kind: str, tokenizer: Path) -> Decoder:
    """Each token is sent to two of sixteen experts, so that some see none."""
    torch.manual_seed(0)
    sizes = SIZES | EXPERTS | dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 16)
    ids = {"vocab_size": 45, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 40}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**sizes, **ids)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return Decoder(model, AutoTokenizer.from_pretrained(tokenizer), TextToText())


def expert_magnitudes(family: Decoder, batch: Any) -> dict[str, torch.Tensor]:
    """Σ over the tokens sent to each expert of what its weights put out, experts × d_out, all of them computed."""
    counted, sums = batch["attention_mask"].bool().flatten(), {}

    def recorder(name: str) -> Any:
        def record(layer: Any, inputs: Any) -> None:
            states, chosen, _ = inputs
            sent = torch.stack([(chosen == expert).any(dim=1) & counted for expert in range(16)])
            turn = (lambda weight: weight) if layer.is_transposed else (lambda weight: weight.transpose(1, 2))
            biases = [layer.gate_up_proj_bias, layer.down_proj_bias] if layer.has_bias else [torch.zeros(16, 1)] * 2
            up = states @ turn(layer.gate_up_proj) + biases[0][:, None]
            down = layer._apply_gate(up) @ turn(layer.down_proj) + biases[1][:, None]
            for weight, output in (("gate_up_proj", up), ("down_proj", down)):
                sums[f"{name}.{weight}"] = (output.abs() * sent[..., None]).sum(dim=1).detach()

        return record

    experts = [(name, one) for name, one in family.model.named_modules() if name.endswith(".experts")]
    hooks = [one.register_forward_pre_hook(recorder(name)) for name, one in experts]
    with torch.no_grad():
        family.model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
    for hook in hooks:
        hook.remove()
    return sums


@pytest.mark.parametrize("mask", ["gradient", "update"])
@pytest.mark.parametrize("kind", MIXTURES)
def test_rows_of_fused_experts_are_those_of_each_for_the_tokens_sent_to_it(
    kind: str, mask: Any, toy_llama: Path
) -> None:
    family = mixture(kind, toy_llama)
    batch = family.probe()
    sums = expert_magnitudes(family, batch)
    unused = {name: ~one.any(dim=1) for name, one in sums.items()}
    assert all(none.any() and not none.all() for none in unused.values())
    strategy = MIGU(MIGUOptions(name="migu", mask=mask))
    strategy.check(family, 2)
    optimizer = torch.optim.AdamW(family.model.parameters(), lr=0.01)
    backward(family, batch)
    optimizer.step()  # gives the rows a momentum
    optimizer.zero_grad()
    sums = expert_magnitudes(family, batch)
    sites = {site.name: site for site in row_sites(select_ranked(family, ["feed_forward"], "k"))}
    backward(family, batch)
    whole = {name: site.by_row(site.weight.grad).clone() for name, site in sites.items()}
    optimizer.zero_grad()
    backward(family, batch, strategy)
    before = {name: site.by_row(site.weight).detach().clone() for name, site in sites.items()}
    biases = {name: site.bias.detach().clone() for name, site in sites.items() if site.bias is not None}
    assert biases or kind != "gpt_oss"
    masked = {}
    for name, one in sums.items():
        rows = [expected_rows(score.numpy(), 0.7) if score.any() else set(range(len(score))) for score in one]
        masked[name] = torch.tensor([[unit in own for unit in range(one.shape[1])] for own in rows])
        expected = whole[name].masked_fill(masked[name][..., None], 0)
        assert expected.any()
        torch.testing.assert_close(sites[name].by_row(sites[name].weight.grad), expected, rtol=1e-4, atol=1e-5)
    optimizer.step()
    strategy.after_step(context(family))
    for name, hidden in masked.items():
        moved = (sites[name].by_row(sites[name].weight) != before[name]).any(dim=-1)
        assert torch.equal(moved, ~hidden if mask == "update" else torch.ones_like(hidden)), name
        if name in biases and mask == "update":
            assert torch.equal(sites[name].bias == biases[name], hidden), name


@pytest.mark.parametrize("kind", MIXTURES)
def test_experts_answer_the_same_while_they_are_watched(kind: str, toy_llama: Path) -> None:
    family = mixture(kind, toy_llama)
    batch = family.probe()
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    outputs, gradients = [], []
    for watched in (False, True):
        collector = MagnitudeCollector(select_ranked(family, ["*"], "k") if watched else {}, family.token_mask)
        logits = family.model(**inputs).logits
        gradients.append(torch.autograd.grad(logits.square().sum(), [*trained_parameters(family.model).values()]))
        outputs.append(logits)
        collector.remove()
    assert not any("forward" in vars(module) for module in family.model.modules())
    torch.testing.assert_close(*outputs)
    for plain, observed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, observed, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("source", ["random", "fixed_random", "persistent_random", "smallest"])
def test_controls_mask_as_many_rows_of_each_expert(source: Any, toy_llama: Path) -> None:
    family = mixture("gpt_oss", toy_llama)
    strategy = MIGU(MIGUOptions(name="migu", source=source, threshold=0.5))
    backward(family, family.probe(), strategy)
    for site in row_sites(select_ranked(family, ["*experts*"], "k")):
        kept = site.by_row(site.weight.grad).any(dim=-1).sum(dim=-1)
        assert set(kept.tolist()) == {0, site.shape[-1] // 2}, site.name


def test_experts_that_a_fused_kernel_computes_are_refused(toy_llama: Path) -> None:
    family = mixture("mixtral", toy_llama)
    strategy = MIGU(MIGUOptions(name="migu"))
    strategy.steps = Steps(micro_batches=1, processes=1, fused=True)
    with pytest.raises(StrategyError, match=r"training\.liger computes the experts of this model in one kernel"):
        strategy.check(family, 2)
    strategy = MIGU(MIGUOptions(name="migu", layers=["attention"]))
    strategy.steps = Steps(micro_batches=1, processes=1, fused=True)
    strategy.check(family, 2)


def test_a_compiled_backward_pass_computes_whole_gradients(toy_t5: Path) -> None:
    family = load_toy(toy_t5)
    strategy = MIGU(MIGUOptions(name="migu"))
    strategy.steps = Steps(micro_batches=1, processes=1, compiled=True)
    assert "computes whole gradients and masks them: the backward pass is compiled before rows are known" in [
        *strategy.remarks(family, 2)
    ]
    backward(family, family.probe(), strategy)
    for site in row_sites(select_layers(family, ["attention", "feed_forward"])):
        assert site.weight.grad is not None
        assert len(zero_rows(site.weight)) >= int(0.7 * site.rows)

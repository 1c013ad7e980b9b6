"""LoRA on fused experts: what peft adds to each expert's weight, kept, merged and exported; what it cannot have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from clkit.engine.sequence import train
from clkit.errors import ModelError, StrategyError
from clkit.models.adapters import merge_adapter
from clkit.models.exporting import summed
from clkit.models.family import Family
from clkit.models.loading import begin_task, load_model, save_model
from clkit.models.sections import AdapterTuning, IncrementalLoraTuning, LoraTuning, ModelSection
from clkit.strategies.builtin.migu import MIGU, MIGUOptions
from clkit.strategies.builtin.olora import OLoRA, OLoRAOptions
from tests.contract.settings import weights
from tests.models.test_adapters import close, learn
from tests.test_fuzzing_models import EXPERTS, SIZES
from tests.toy import toy_recipe

KINDS = ("mixtral", "gpt_oss")  # d_out × d_in as in all others, and transposed
TARGETS = ["q_proj", "*.experts.*_proj"]


def write(kind: str, folder: Path, tokenizer: Path) -> Path:
    torch.manual_seed(0)
    ids = {"vocab_size": 45, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 40}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SIZES, **EXPERTS, **ids))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, toy_llama: Path, tmp_path: Path) -> Path:
    return write(request.param, tmp_path / "model", toy_llama)


def tuning(method: str = "lora", **changes: Any) -> AdapterTuning:
    kind = {"lora": LoraTuning, "incremental_lora": IncrementalLoraTuning}[method]
    return kind.model_validate({"method": method, "rank": 2, "dropout": 0.0, "targets": TARGETS, **changes})


def load(folder: Path, *stages: Path, **changes: Any) -> Family:
    return load_model(ModelSection(name=str(folder)), tuning(**changes), stages)


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(3, 40, (4, 9), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        answer: torch.Tensor = model.eval()(input_ids=ids).logits
    return answer


def test_each_expert_has_an_adapter_of_its_own(model: Path, tmp_path: Path) -> None:
    """The answer is that of a plain model whose every expert has W + α/r · B A, written out."""
    family = load(model, alpha=6.0)
    learn(family, 0)
    plain = AutoModelForCausalLM.from_pretrained(model)
    scale, adapted = 6.0 / 2, 0
    with torch.no_grad():
        for name, layer in plain.named_modules():
            if not name.endswith(("q_proj", ".experts")):
                continue
            wrapper: Any = family.base.get_submodule(name)
            if name.endswith("q_proj"):
                layer.weight += scale * wrapper.lora_B["default"].weight @ wrapper.lora_A["default"].weight
            while name.endswith(".experts") and hasattr(wrapper, "base_layer"):
                a, b = wrapper.lora_A["default"].weight, wrapper.lora_B["default"].weight
                for expert in range(4):
                    change = scale * b.reshape(len(b), 2, 4)[..., expert] @ a.reshape(4, 2, -1)[expert]
                    getattr(layer, wrapper.parameter_name)[expert] += change.T if layer.is_transposed else change
                wrapper, adapted = wrapper.base_layer, adapted + 1
    assert adapted == 4
    assert close(logits(family.model), logits(plain))
    assert not close(logits(plain), logits(AutoModelForCausalLM.from_pretrained(model)))
    save_model(family, tmp_path / "stage")
    expected = logits(family.model)
    assert torch.equal(logits(load(model, tmp_path / "stage", alpha=6.0).model), expected)
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tmp_path / "stage" / "adapter")
    assert close(logits(stock), expected)
    merge_adapter(family)
    torch.testing.assert_close(logits(family.model), expected, rtol=1e-3, atol=1e-3)
    named = ModelSection(name=str(tmp_path / "stage" / "adapter"))  # as a model's name, it is merged
    torch.testing.assert_close(logits(load_model(named, tuning()).model), expected, rtol=1e-3, atol=1e-3)


def test_earlier_tasks_adapters_are_merged(model: Path, tmp_path: Path) -> None:
    family = load(model, method="incremental_lora")
    stages = [tmp_path / "0", tmp_path / "1"]
    for index, stage in enumerate(stages):
        before = logits(family.model)
        begin_task(family, tuning("incremental_lora"), index, seed=index)
        torch.testing.assert_close(logits(family.model), before, rtol=1e-3, atol=1e-3)
        learn(family, index)
        save_model(family, stage)
    assert torch.equal(logits(load(model, *stages, method="incremental_lora").model), logits(family.model))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dropout": 0.05}, r"^tuning\.dropout: '.*experts\.gate_up_proj' holds fused experts, .*; set it to 0, or"),
        ({"use_dora": True}, r"^tuning\.use_dora: .* set it to false"),
        ({"init": "pissa"}, r"^tuning\.init: .* set it to zero or gaussian"),
        ({"targets": ["experts.w1"]}, r"^tuning\.targets: 'experts\.w1' names no linear layer"),
    ],
)
def test_what_such_adapters_cannot_have_is_refused(
    changes: dict[str, Any], said: str, toy_llama: Path, tmp_path: Path
) -> None:
    folder = write("mixtral", tmp_path, toy_llama)
    for shapes_only in (False, True):  # validate has no weights
        with pytest.raises(ModelError, match=said):
            load_model(ModelSection(name=str(folder)), tuning(**changes), shapes_only=shapes_only)


def test_strategies_that_need_an_adapters_own_outputs_or_matrices_refuse_them(toy_llama: Path, tmp_path: Path) -> None:
    folder = write("mixtral", tmp_path, toy_llama)
    family = load(folder, method="incremental_lora")
    with pytest.raises(StrategyError, match=r"strategies\.olora: '.*experts' carries an adapter whose A is one matrix"):
        OLoRA(OLoRAOptions(name="olora")).check(family, 2)
    with pytest.raises(ModelError, match=r"'feed_forward' \('model\.layers\.0\.mlp\.experts.* is none\)"):
        MIGU(MIGUOptions(name="migu")).check(family, 2)
    MIGU(MIGUOptions(name="migu", layers=["attention"])).check(family, 2)
    config = family.model.peft_config["default"]
    assert summed([(config, {})]) == (config, {})
    with pytest.raises(ModelError, match="fused experts cannot be summed with others; export the model merged"):
        summed([(config, {}), (config, {})])


def test_a_run_trains_them_beside_ewc_lwf_and_replay(toy_llama: Path, tmp_path: Path) -> None:
    recipe = toy_recipe(
        tmp_path,
        write("mixtral", tmp_path / "model", toy_llama),
        tuning=tuning().model_dump(),
        strategies=[{"name": "lwf"}, {"name": "replay"}, {"name": "ewc", "examples": 4}],
        training={"epochs": 0.7},
        evaluation={"tasks": "final", "zero_shot": False},
    )
    before, first, second = weights(train(recipe, tmp_path / "run"), recipe)
    names = [name for name in second if ".experts." in name and "lora_B" in name]
    assert len(names) == 4
    for one, other in ((before, first), (first, second)):
        assert all(not torch.equal(one[name], other[name]) for name in names)

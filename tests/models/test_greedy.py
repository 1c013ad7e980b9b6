"""Answers do not depend on a checkpoint's generation_config.json, end in the end token, and survive the tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from clkit.errors import DataError, ModelError
from clkit.models.examples import refuse_unwritable_labels, unwritable
from clkit.models.loading import load_model, save_model
from clkit.models.magnitudes import MagnitudeCollector
from clkit.models.objective import Classification
from clkit.models.sections import FullTuning, ModelSection
from clkit.results.answers import AS_EVER
from clkit.tasks.task import Task
from tests.strategies.loaded import load_toy

#: Each changes what `generate` gives or returns, if it is heeded.
KEYS: list[dict[str, Any]] = [
    {"min_length": 30}, {"min_new_tokens": 9}, {"suppress_tokens": list(range(4, 30))}, {"eos_token_id": 7},
    {"no_repeat_ngram_size": 1}, {"return_dict_in_generate": True}, {"num_beams": 4, "num_return_sequences": 3},
    {"do_sample": True, "temperature": 9.0}, {"repetition_penalty": 5.0}, {"forced_eos_token_id": 5},
    {"bad_words_ids": [[9], [10], [11]]}, {"begin_suppress_tokens": [8, 9]}, {"output_scores": True}, {"max_length": 3},
]  # fmt: skip


@pytest.mark.parametrize("family", ["toy_t5", "toy_llama"])
def test_no_key_of_the_file_changes_an_answer(family: str, request: pytest.FixtureRequest) -> None:
    loaded = load_toy(request.getfixturevalue(family))
    prompts = ["w1 w2 w3", "w9"]
    expected = loaded.generate(prompts, 6)  # type: ignore[attr-defined]
    plain = loaded.model.generation_config
    for keys in KEYS:
        loaded.model.generation_config = type(plain)(**(plain.to_dict() | keys))
        given = loaded.generate(prompts, 6)  # type: ignore[attr-defined]
        assert given == expected, keys
        assert all(getattr(loaded.model.generation_config, key) == value for key, value in keys.items())


@pytest.mark.parametrize("family", ["toy_t5", "toy_llama", "toy_roberta"])
@pytest.mark.parametrize(
    "content", ['{"max_new_tokens": -3}', '{"num_return_sequences": 3}', "[1]", "{", "null", '"x"']
)
def test_no_file_stops_a_model_from_being_loaded(
    family: str, content: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Transformers refuses some of these, and would load nothing beside them."""
    toy = request.getfixturevalue(family)
    shutil.copytree(toy, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(content)
    objective = Classification(kind="classification") if family == "toy_roberta" else None
    section = ModelSection(name=str(tmp_path / "model"))
    loaded = load_model(section, FullTuning(), objective=objective, labels={"a": ("w1", "w2")})
    if family != "toy_roberta":
        assert any("is left out" in remark for remark in loaded.remarks) is (content != "{")
        expected = load_toy(toy).generate(["w1 w2 w3", "w9"], 6)  # type: ignore[attr-defined]
        assert loaded.generate(["w1 w2 w3", "w9"], 6) == expected  # type: ignore[attr-defined]
    save_model(loaded, tmp_path / "stage")
    load_model(section, FullTuning(), [tmp_path / "stage"], objective, {"a": ("w1", "w2")})


def test_labels_end_in_the_end_token_where_the_tokenizer_adds_none(toy_t5: Path) -> None:
    loaded = load_toy(toy_t5)
    family: Any = loaded
    ends = loaded.tokenizer.eos_token_id
    before = family.encode(["w1"], ["w2 w3"])["labels"]
    loaded.tokenizer._tokenizer.post_processor = type(loaded.tokenizer._tokenizer.post_processor)(
        single="$A", special_tokens=[]
    )
    after = family.encode(["w1"], ["w2 w3"])["labels"]
    assert after == before
    assert after[0][-1] == ends
    assert family.answer_tokens(["w2 w3"]) == [len(after[0])]


@pytest.mark.parametrize("family", ["toy_t5", "toy_llama"])
def test_a_label_that_the_tokenizer_cannot_spell_is_refused(family: str, request: pytest.FixtureRequest) -> None:
    loaded = load_toy(request.getfixturevalue(family))
    empty: Any = None
    fine = Task(name="t", group="t", instruction=None, labels=("w1", "w2 w3"), train=empty, test=empty)
    refuse_unwritable_labels(loaded, fine, AS_EVER)
    bad = Task(name="t", group="t", instruction=None, labels=("w1", "体育"), train=empty, test=empty)
    with pytest.raises(DataError, match=r"cannot spell the label '体育' \(U\+4F53 U\+80B2\)"):
        refuse_unwritable_labels(loaded, bad, AS_EVER)
    assert [answer for answer, _ in unwritable(loaded, ["w1", "体育 w1"], AS_EVER)] == ["体育 w1"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_magnitudes_under_autocast_are_summed_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 300)
    inputs = 40 * torch.randn(64, 50, 8)  # sums beyond float16's largest number
    mask = torch.rand(64, 50) < 0.7
    collector = MagnitudeCollector({"layer": layer}, lambda name, batch: batch["mask"])
    with torch.autocast("cpu", dtype=dtype), collector.collecting({"mask": mask}):
        output = layer(inputs)
    summed = collector.take()["layer"]
    expected = (output.detach().double().abs() * mask[..., None]).sum(dim=(0, 1))
    assert output.dtype == dtype
    assert summed.dtype == torch.float32
    assert torch.isfinite(summed).all()
    assert torch.equal(summed.argsort()[-90:].sort().values, expected.argsort()[-90:].sort().values)


def test_weights_that_are_not_finite_are_refused(toy_t5: Path, tmp_path: Path) -> None:
    loaded = load_toy(toy_t5)
    with torch.no_grad():
        loaded.model.encoder.block[0].layer[0].SelfAttention.q.weight[0, 0] = float("nan")
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"SelfAttention\.q\.weight' holds NaN"):
        load_model(ModelSection(name=str(tmp_path)), FullTuning())

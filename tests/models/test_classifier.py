"""Classification heads: the softmax by hand, rows that are closed, answers, which head is loaded and which is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from clkit.errors import ModelError
from clkit.models.classifying import row_names
from clkit.models.families.classifier import Classifier
from clkit.models.family import CLOSED, Family
from clkit.models.groups import parameter_groups
from clkit.models.loading import begin_task, load_model, save_model
from clkit.models.objective import Classification, Pretraining
from clkit.models.sections import FullTuning, IncrementalLoraTuning, LoraTuning, ModelSection, Tuning
from clkit.models.weights import Weights
from clkit.strategies.builtin.lwf import distillation
from clkit.tasks.task import Task
from clkit.training.loss import token_mean_loss
from tests.models.test_adapters import learn

LABELS = {"a": ("yes", "no"), "b": ("no", "maybe"), "c": ("left", "right", "yes")}
SHARED_ROWS = ["yes", "no", "maybe", "left", "right"]
PER_TASK_ROWS = ["a: yes", "a: no", "b: no", "b: maybe", "c: left", "c: right", "c: yes"]
TUNINGS: dict[str, Tuning] = {
    "full": FullTuning(),
    "lora": LoraTuning(method="lora", rank=2),
    "incremental_lora": IncrementalLoraTuning(method="incremental_lora", rank=2),
}


def objective(heads: str) -> Classification:
    return Classification(kind="classification", heads=heads)  # type: ignore[arg-type]


def load(
    folder: Path,
    heads: str = "shared",
    tuning: Tuning | None = None,
    stages: Sequence[Path] = (),
    labels: Mapping[str, Sequence[str]] = LABELS,
) -> Family:
    torch.manual_seed(5)
    return load_model(ModelSection(name=str(folder)), tuning or FullTuning(), stages, objective(heads), labels)


def task(name: str, labels: Sequence[str] | None = None) -> Task:
    none = Dataset.from_dict({"text": [], "answer": []})
    return Task(name=name, group=name, instruction=None, labels=list(labels or LABELS[name]), train=none, test=none)


def loss_by_hand(logits: torch.Tensor, examples: Sequence[tuple[int, Sequence[int]]]) -> float:
    """Σ_n log Σ_{open r} exp z_nr − z_n,gold, each example with its gold row and its open rows, in plain floats."""
    total = 0.0
    for row, (gold, rows) in zip(logits.tolist(), examples, strict=True):
        total += math.log(sum(math.exp(row[index]) for index in rows)) - row[gold]
    return total


# --- rows and the softmax over them -------------------------------------------------------------------------------


def test_shared_labels_of_one_text_have_one_row_and_others_have_their_own(toy_roberta: Path) -> None:
    assert row_names(objective("shared"), LABELS) == SHARED_ROWS
    assert row_names(objective("per_task"), LABELS) == PER_TASK_ROWS
    loaded = load(toy_roberta, "per_task")
    loaded.see(LABELS)
    assert loaded.model.config.id2label == dict(enumerate(PER_TASK_ROWS))


@pytest.mark.parametrize(
    ("heads", "seen", "pairs", "golds_and_open_rows"),
    [
        ("shared", ["a"], [("a", "no"), ("a", "yes")], [(1, [0, 1]), (0, [0, 1])]),
        ("shared", ["a", "b"], [("b", "maybe"), ("a", "yes")], [(2, [0, 1, 2]), (0, [0, 1, 2])]),
        ("shared", ["c"], [("c", "yes"), ("c", "right")], [(0, [0, 3, 4]), (4, [0, 3, 4])]),
        ("per_task", ["a"], [("a", "no"), ("a", "yes")], [(1, [0, 1]), (0, [0, 1])]),
        ("per_task", ["a", "b", "c"], [("b", "no"), ("c", "yes")], [(2, [2, 3]), (6, [4, 5, 6])]),
    ],
)
def test_the_loss_is_the_softmax_over_the_open_rows(
    toy_roberta: Path,
    heads: str,
    seen: list[str],
    pairs: list[tuple[str, str]],
    golds_and_open_rows: list[tuple[int, list[int]]],
) -> None:
    loaded = load(toy_roberta, heads)
    model = loaded.model.eval()
    loaded.see(LABELS)
    loaded.see(seen)
    encoded = loaded.encode(["w1 w2", "w3 w4 w5"], [label for _, label in pairs], [name for name, _ in pairs])
    rows = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
    batch = loaded.collator()(rows)
    labels = batch.pop("labels")
    assert labels.tolist() == [[gold] for gold, _ in golds_and_open_rows]
    outputs = model(**batch)
    logits = loaded.logits(outputs, labels)
    assert logits.shape == (2, 1, len(PER_TASK_ROWS if heads == "per_task" else SHARED_ROWS))
    loss = token_mean_loss(logits, labels) * 2
    assert loss.item() == pytest.approx(loss_by_hand(outputs["logits"], golds_and_open_rows), rel=1e-5)


def test_closed_rows_have_probability_zero_no_gradient_and_a_finite_divergence(toy_roberta: Path) -> None:
    loaded = load(toy_roberta)
    loaded.see(LABELS)
    head = loaded.model.classifier.out_proj
    loaded.see(["a", "b"])
    labels = torch.tensor([[0], [2]])
    outputs = loaded.model(input_ids=torch.tensor([[40, 5, 1], [40, 6, 1]]))
    logits = loaded.logits(outputs, labels)
    closed = [SHARED_ROWS.index(name) for name in ("left", "right")]
    assert (logits[..., closed] == CLOSED).all()
    assert (logits.softmax(dim=-1)[..., closed] == 0).all()
    token_mean_loss(logits, labels).backward()
    for gradient in (head.weight.grad, head.bias.grad):
        assert not gradient[closed].any()
        assert all(row.any() for row in gradient[[0, 1, 2]])
    other = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    student, teacher = logits[:, 0], loaded.logits({"logits": other}, labels)[:, 0]
    expected = distillation(student[:, :3], teacher[:, :3], 2.0)
    torch.testing.assert_close(distillation(student, teacher, 2.0), expected)
    assert expected.isfinite()
    assert expected > 0


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "seen", "tested", "answer"),
    [
        ("shared", [], "a", "no"),  # zero-shot: the task's own labels
        ("shared", ["b"], "b", "maybe"),
        ("shared", ["a"], "b", "maybe"),  # those seen and its own
        ("shared", ["a", "c"], "a", "right"),  # a label of another task that was seen
        ("per_task", ["a", "c"], "a", "no"),  # the task is known
        ("per_task", [], "b", "maybe"),
        ("per_task", ["a"], "c", "yes"),
    ],
)
def test_an_answer_is_the_best_of_the_open_labels(
    toy_roberta: Path, heads: str, seen: list[str], tested: str, answer: str
) -> None:
    loaded = load(toy_roberta, heads)
    loaded.see(LABELS)
    # Later rows are larger: of each set of open rows the last is best.
    head = loaded.model.classifier.out_proj
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.arange(float(len(head.bias)))
    loaded.see(seen)
    given = loaded.answer(["w1", "w2 w3"], task(tested))
    assert given == [answer, answer]


@pytest.mark.parametrize(("heads", "row"), [("shared", "up"), ("per_task", "a: up")])
def test_a_label_without_a_row_is_refused(toy_roberta: Path, heads: str, row: str) -> None:
    loaded = load(toy_roberta, heads)
    with pytest.raises(ModelError, match=f"^task 'a': the model's head has no row for '{row}', so it cannot answer it"):
        loaded.answer(["w1"], task("a", ["yes", "up"]))


# --- which head is loaded, and which is drawn ---------------------------------------------------------------------


def test_a_new_head_is_drawn_from_the_seed_and_all_else_is_pre_trained(toy_roberta: Path) -> None:
    one, same = load(toy_roberta), load(toy_roberta)
    assert one.remarks == ("one head over the labels of all tasks seen", "head drawn at random")
    pre_trained = AutoModelForMaskedLM.from_pretrained(toy_roberta).roberta.state_dict()
    assert all(torch.equal(pre_trained[name], value) for name, value in one.model.roberta.state_dict().items())
    weights = [loaded.model.classifier.out_proj.weight for loaded in (one, same)]
    assert torch.equal(*weights)
    assert 0.01 < weights[0].std() < 0.04  # transformers' initializer_range: 0.02


def test_a_saved_stage_has_its_head_and_must_have_all_of_it(toy_roberta: Path, tmp_path: Path) -> None:
    loaded = load(toy_roberta, "per_task")
    learn(loaded, 0)
    save_model(loaded, tmp_path)
    again = load(toy_roberta, "per_task", stages=[tmp_path])
    assert again.remarks == ("one head per task: the task is known at test time",)
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in loaded.model.state_dict().items())
    weights = load_file(tmp_path / "model" / "model.safetensors")
    del weights["classifier.out_proj.bias"]
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"its weights are incomplete: no 'classifier.out_proj.bias'"):
        load(toy_roberta, "per_task", stages=[tmp_path])


@pytest.mark.parametrize("labels", [{"z": ("up", "down")}, {"z": ("p", "q", "r", "s", "t")}], ids=["fewer", "as many"])
def test_the_head_of_another_classifier_is_not_used(
    toy_roberta: Path, tmp_path: Path, labels: Mapping[str, Sequence[str]]
) -> None:
    earlier = load(toy_roberta)
    learn(earlier, 0)
    save_model(earlier, tmp_path)
    ours = load(tmp_path / "model", labels=labels)
    assert ours.remarks[-1] == "head drawn at random"
    for name, value in ours.model.state_dict().items():
        if name.startswith("roberta."):
            assert torch.equal(value, earlier.model.state_dict()[name])
    fresh = ours.model.classifier
    assert fresh.out_proj.weight.std() < 0.05 < earlier.model.classifier.out_proj.weight.std()
    assert fresh.dense.weight.std() < 0.05 < earlier.model.classifier.dense.weight.std()
    assert not fresh.dense.bias.any()


def test_an_encoder_without_all_its_weights_is_refused(toy_roberta: Path, tmp_path: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(toy_roberta)
    state = model.state_dict()
    del state["roberta.encoder.layer.1.output.dense.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    tokenizer: Any = None
    with pytest.raises(ValueError, match=r"incomplete: no 'roberta.encoder.layer.1.output.dense.weight'"):
        Classifier.load(Weights(str(tmp_path), {}), tokenizer, objective("shared"), LABELS)


def test_a_stage_of_pre_training_becomes_a_classifier(toy_roberta: Path, tmp_path: Path) -> None:
    section = ModelSection(name=str(toy_roberta))
    pre_training = load_model(section, FullTuning(), (), Pretraining(kind="pretraining", block_tokens=32))
    learn(pre_training, 0)
    save_model(pre_training, tmp_path)
    ours = load(tmp_path / "model").model.roberta.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in pre_training.model.roberta.state_dict().items())


# --- adapters, groups ---------------------------------------------------------------------------------------------


def logits(loaded: Family) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = loaded.model.eval()(input_ids=torch.tensor([[40, 5, 7, 1], [40, 6, 9, 1]])).logits
    return answer


@pytest.mark.parametrize("tuning", TUNINGS.values(), ids=TUNINGS)
def test_the_trained_head_survives_saving_loading_and_merging(
    toy_roberta: Path, tmp_path: Path, tuning: Tuning
) -> None:
    loaded = load(toy_roberta, tuning=tuning)
    stages: list[Path] = []
    for index in range(3):
        before = logits(loaded)
        begin_task(loaded, tuning, index, seed=index)
        torch.testing.assert_close(logits(loaded), before, rtol=1e-5, atol=1e-5)  # merged, with its head
        trained = {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}
        assert any("classifier" in name and "out_proj.weight" in name for name in trained)
        learn(loaded, index)
        stages.append(tmp_path / str(index))
        save_model(loaded, stages[-1])
        again = load(toy_roberta, tuning=tuning, stages=stages)
        torch.testing.assert_close(logits(again), logits(loaded), rtol=1e-5, atol=1e-5)
        assert {name for name, parameter in again.model.named_parameters() if parameter.requires_grad} == trained
        assert not torch.allclose(logits(loaded), before, atol=1e-2)


def test_merging_gives_an_ordinary_classifier(toy_roberta: Path, tmp_path: Path) -> None:
    loaded = load(toy_roberta, tuning=TUNINGS["lora"])
    learn(loaded, 0)
    before = logits(loaded)
    loaded.model.merge_and_unload().save_pretrained(tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(stock(input_ids=torch.tensor([[40, 5, 7, 1], [40, 6, 9, 1]])).logits, before)


def test_parameters_have_the_groups_of_an_encoder(toy_roberta: Path) -> None:
    loaded = load(toy_roberta)
    groups = parameter_groups(loaded)
    assert {name: len(names) for name, names in groups.items()} == {
        "embeddings": 3,  # words, positions, token types
        "norms": 2 * (1 + 2 * 2),
        "attention": 2 * 2 * 4,
        "feed_forward": 2 * 2 * 2,
        "head": 2 * 2,
    }

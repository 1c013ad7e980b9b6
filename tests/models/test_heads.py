"""Rows of a classifier's head: drawn one by one, added when their task begins, and taken along."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from clkit.models.family import Family
from clkit.models.loading import save_model
from clkit.models.sections import Tuning
from tests.models.test_classifier import LABELS, PER_TASK_ROWS, SHARED_ROWS, TUNINGS, load, task


def rows(loaded: Family) -> dict[str, torch.Tensor]:
    """Weight and bias of each row in use, by the row's name."""
    head = loaded.base.get_submodule("classifier")
    last = getattr(head, "modules_to_save", {"default": head})["default"].out_proj
    names = loaded.base.config.id2label.values()
    assert last.out_features == len(last.weight) == len(last.bias) == len(names)
    joined = torch.cat([last.weight, last.bias[:, None]], dim=1).detach()
    return dict(zip(names, joined.clone(), strict=True))


@pytest.mark.parametrize("tuning", TUNINGS.values(), ids=TUNINGS)
@pytest.mark.parametrize(("heads", "names"), [("shared", SHARED_ROWS), ("per_task", PER_TASK_ROWS)])
def test_a_head_that_grows_is_the_head_that_knew_all_labels(
    toy_roberta: Path, tuning: Tuning, heads: str, names: list[str]
) -> None:
    at_once, grown = load(toy_roberta, heads, tuning), load(toy_roberta, heads, tuning, labels={"a": LABELS["a"]})
    assert list(rows(grown)) == names[:2] == list(rows(at_once))
    at_once.see(LABELS)
    drawn = rows(at_once)
    assert list(drawn) == names
    torch.manual_seed(5)
    torch.rand(7)  # what was drawn in between does not matter
    later = load(toy_roberta, heads, tuning)
    for number in range(1, 4):
        later.see([*LABELS][:number])
    for known in (grown, later):
        assert all(torch.equal(row, drawn[name]) for name, row in rows(known).items())
    assert len({tuple(row.tolist()) for row in drawn.values()}) == len(names)


@pytest.mark.parametrize("tuning", [TUNINGS["full"], TUNINGS["lora"]], ids=["full", "lora"])
def test_a_saved_head_grows_by_the_labels_that_came_later(toy_roberta: Path, tmp_path: Path, tuning: Tuning) -> None:
    earlier = load(toy_roberta, tuning=tuning, labels={"a": LABELS["a"]})
    with torch.no_grad():
        for name, parameter in earlier.model.named_parameters():
            if "classifier" in name:
                parameter.add_(1.0)
    save_model(earlier, tmp_path)
    again = load(toy_roberta, tuning=tuning, stages=[tmp_path])
    learned = rows(earlier)
    assert all(torch.equal(row, learned[name]) for name, row in rows(again).items())
    again.see(["a", "b"])
    assert list(rows(again)) == SHARED_ROWS[:3]
    assert all(torch.equal(rows(again)[name], row) for name, row in learned.items())


def test_a_test_of_a_task_to_come_leaves_no_row_behind(toy_roberta: Path) -> None:
    loaded = load(toy_roberta)
    before = dict(loaded.model.named_parameters())
    assert set(loaded.answer(["w1", "w2 w3"], task("c"))) <= set(LABELS["c"])
    after = dict(loaded.model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    answered = load(toy_roberta)
    answered.see(LABELS)
    answered.see([])
    assert answered.answer(["w1", "w2 w3"], task("c")) == loaded.answer(["w1", "w2 w3"], task("c"))


def test_a_classifier_for_the_first_tasks_labels_keeps_its_head(toy_roberta: Path, tmp_path: Path) -> None:
    own = {0: "yes", 1: "no"}
    stock = AutoModelForSequenceClassification.from_pretrained(toy_roberta, id2label=own, num_labels=2)
    stock.save_pretrained(tmp_path)
    load(toy_roberta).tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert "head drawn at random" not in loaded.remarks
    loaded.see(["a", "b"])
    assert torch.equal(loaded.model.classifier.out_proj.weight[:2], stock.classifier.out_proj.weight)

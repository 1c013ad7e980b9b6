"""Masked tokens: which are masked and how, the loss by hand, the head, adapters beside it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer, RobertaModel

from clkit.errors import ModelError
from clkit.models.families.masked_tokens import choose
from clkit.models.family import IGNORED, Family
from clkit.models.loading import begin_task, load_model, save_model
from clkit.models.objective import Pretraining
from clkit.models.sections import FullTuning, IncrementalLoraTuning, LoraTuning, ModelSection, Tuning
from clkit.testing.examiner import negative_log_likelihoods
from clkit.training.loss import token_mean_loss
from tests.models.test_adapters import learn

BEGIN, END, MASK, PAD = 40, 1, 41, 0
SPECIAL = {BEGIN, END, MASK, PAD, 2}
TUNINGS: dict[str, Tuning] = {
    "lora": LoraTuning(method="lora", rank=2),
    "incremental_lora": IncrementalLoraTuning(method="incremental_lora", rank=2),
}


def load(folder: Path, tuning: Tuning | None = None, stages: Sequence[Path] = (), **options: Any) -> Family:
    torch.manual_seed(5)
    objective = Pretraining(kind="pretraining", **{"block_tokens": 64, **options})
    return load_model(ModelSection(name=str(folder)), tuning or FullTuning(), stages, objective)


@pytest.fixture(scope="module")
def headless(toy_roberta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy as its encoder alone, as MiniLM is distributed."""
    folder = tmp_path_factory.mktemp("headless")
    RobertaModel.from_pretrained(toy_roberta, add_pooling_layer=False).save_pretrained(folder)
    AutoTokenizer.from_pretrained(toy_roberta).save_pretrained(folder)
    return folder


def texts(count: int, words: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randrange(37)}" for _ in range(words)) for _ in range(count)]


def encoded(loaded: Family, answers: Sequence[str]) -> list[dict[str, Any]]:
    columns = loaded.encode([""] * len(answers), answers)
    return [{"input_ids": ids} for ids in columns["input_ids"]]


# --- what is masked -----------------------------------------------------------------------------------------------


def test_a_share_of_the_ordinary_tokens_is_masked_and_eight_in_ten_become_the_mask(toy_roberta: Path) -> None:
    loaded = load(toy_roberta, masked_share=0.3)
    examples = encoded(loaded, [*texts(400, 60), *texts(100, 20, seed=1)])
    batch = loaded.collator()(examples)
    original = loaded.pad([example["input_ids"] for example in examples])
    ids, labels, mask = batch["input_ids"], batch["labels"], original["attention_mask"].bool()
    assert torch.equal(batch["attention_mask"], original["attention_mask"])
    due = labels != IGNORED
    ordinary = torch.tensor([[token not in SPECIAL for token in row] for row in original["input_ids"].tolist()])
    assert not (due & ~ordinary).any()
    assert torch.equal(labels[due], original["input_ids"][due])
    assert torch.equal(ids[~due], original["input_ids"][~due])
    assert (~mask & due).sum() == 0

    def share(part: torch.Tensor, whole: torch.Tensor) -> float:
        return float(part.sum() / whole.sum())

    masked = due & (ids == MASK)
    kept = due & (ids == labels)
    # Five standard deviations of the binomial; a random token is the old one in 1 of 42 cases, and the mask in another.
    assert share(due, ordinary) == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / 26_000) ** 0.5)
    assert share(masked, due) == pytest.approx(0.8 + 0.1 / 42, abs=5 * (0.8 * 0.2 / 7_800) ** 0.5)
    assert share(kept, due) == pytest.approx(0.1 + 0.1 / 42, abs=5 * (0.1 * 0.9 / 7_800) ** 0.5)


def test_the_share_is_fifteen_percent_unless_the_recipe_says_otherwise(toy_roberta: Path) -> None:
    loaded = load(toy_roberta)
    batch = loaded.collator()(encoded(loaded, texts(400, 60)))
    assert float((batch["labels"] != IGNORED).sum()) / (400 * 60) == pytest.approx(0.15, abs=0.012)


def test_of_every_text_one_token_at_least_is_masked_each_equally_often() -> None:
    possible = torch.tensor([[False, True, True, False, True, False]]).repeat(6000, 1)
    chosen = choose(possible, 1e-9, torch.Generator().manual_seed(3))
    assert chosen.sum(dim=1).tolist() == [1] * 6000
    assert not (chosen & ~possible).any()
    counts = chosen.sum(dim=0)[[1, 2, 4]].tolist()
    assert all(abs(count - 2000) < 5 * (6000 * 2 / 9) ** 0.5 for count in counts)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    assert not choose(nothing, 0.5, torch.Generator()).any()  # a text of special tokens only
    assert choose(possible, 1 - 1e-9, torch.Generator().manual_seed(3)).equal(possible)


def test_a_batch_follows_from_its_examples_and_other_neighbours_give_other_masks(toy_roberta: Path) -> None:
    loaded = load(toy_roberta)
    examples = encoded(loaded, texts(9, 40))
    collate = loaded.collator()
    first = collate(examples[:8])
    state = torch.get_rng_state()
    torch.manual_seed(77)
    later = load(toy_roberta).collator()
    for again in (collate(examples[:8]), later(examples[:8])):
        assert all(torch.equal(first[name], again[name]) for name in first)
    torch.set_rng_state(state)
    collate(examples)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from what training draws from
    other = collate([*examples[:7], examples[8]])  # the same places, and another neighbour
    assert not torch.equal(first["labels"][:7], other["labels"][:7])


def test_the_measured_loss_is_minus_log_p_of_the_masked_tokens(toy_roberta: Path) -> None:
    loaded = load(toy_roberta)
    model = loaded.model.eval()
    batch = loaded.collator()(encoded(loaded, [*texts(3, 30), *texts(2, 9)]))
    measured = negative_log_likelihoods(loaded, batch)
    with torch.no_grad():
        logits = model(batch["input_ids"], batch["attention_mask"]).logits.double()
    total = tokens = 0.0
    for row, (nll, count) in enumerate(measured):
        places = [place for place, label in enumerate(batch["labels"][row].tolist()) if label != IGNORED]
        probabilities = logits[row].exp() / logits[row].exp().sum(dim=1, keepdim=True)
        by_hand = -sum(float(probabilities[place, batch["labels"][row, place]].log()) for place in places)
        assert (nll, count) == (pytest.approx(by_hand, rel=1e-5), len(places))
        total, tokens = total + by_hand, tokens + len(places)
    trained = token_mean_loss(
        loaded.logits(model(batch["input_ids"], batch["attention_mask"]), batch["labels"]), batch["labels"]
    )
    assert trained.item() == pytest.approx(total / tokens, rel=1e-5)


# --- the head -----------------------------------------------------------------------------------------------------


def test_a_pre_trained_head_is_read_and_must_be_whole(toy_roberta: Path, tmp_path: Path) -> None:
    loaded = load(toy_roberta)
    assert (loaded.remarks, loaded.trained_whole) == ((), ())
    stock = AutoModelForMaskedLM.from_pretrained(toy_roberta).state_dict()
    assert all(torch.equal(stock[name], value) for name, value in loaded.model.state_dict().items())
    save_model(loaded, tmp_path)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    del weights["lm_head.dense.weight"]
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"its weights are incomplete: no 'lm_head.dense.weight'"):
        load(toy_roberta, stages=[tmp_path])


def test_a_model_without_a_head_gets_one_that_is_drawn_from_the_seed(headless: Path) -> None:
    loaded, same = load(headless), load(headless)
    assert loaded.remarks == ("head drawn at random",)
    assert torch.equal(loaded.model.lm_head.dense.weight, same.model.lm_head.dense.weight)
    assert loaded.model.lm_head.dense.weight.any()
    assert not loaded.model.lm_head.bias.any()
    assert loaded.model.lm_head.decoder.weight is loaded.model.get_input_embeddings().weight


@pytest.mark.parametrize("tuning", TUNINGS.values(), ids=TUNINGS)
def test_beside_adapters_a_new_head_is_trained_saved_and_merged_and_stays_tied(
    headless: Path, tmp_path: Path, tuning: Tuning
) -> None:
    def logits(loaded: Family) -> torch.Tensor:
        with torch.no_grad():
            answer: torch.Tensor = loaded.model.eval()(input_ids=torch.tensor([[40, 5, 41, 7, 1]])).logits
        return answer

    loaded = load(headless, tuning)
    stages: list[Path] = []
    for index in range(3):
        before = logits(loaded)
        begin_task(loaded, tuning, index, seed=index)
        torch.testing.assert_close(logits(loaded), before, rtol=1e-4, atol=1e-4)
        trained = [name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad]
        assert sum("lm_head.dense" in name for name in trained) == sum("lm_head.layer_norm" in name for name in trained)
        assert sum("lm_head" in name for name in trained) == 4  # weight and bias of both
        learn(loaded, index)
        base = loaded.model.get_base_model()
        assert base.lm_head.decoder.weight is base.get_input_embeddings().weight
        stages.append(tmp_path / str(index))
        save_model(loaded, stages[-1])
        again = load(headless, tuning, stages)
        assert isinstance(again.model, PeftModel)
        torch.testing.assert_close(logits(again), logits(loaded), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(logits(loaded), before, atol=1e-2)


# --- what does not work -------------------------------------------------------------------------------------------


def test_spans_and_answers_are_refused(toy_roberta: Path) -> None:
    with pytest.raises(ModelError, match=r"objective.span_length: an encoder masks single tokens, only T5 spans"):
        load(toy_roberta, span_length=3.0)
    loaded = load(toy_roberta)
    with pytest.raises(ModelError, match=r"pretraining has no answers; set evaluation.metric to perplexity or loss"):
        loaded.answer(["w1"], None)  # type: ignore[arg-type]


def test_a_tokenizer_without_a_mask_is_refused(toy_roberta: Path) -> None:
    loaded = load(toy_roberta)
    loaded.tokenizer.mask_token = None
    with pytest.raises(ModelError, match="the tokenizer has no mask token"):
        loaded.collator()

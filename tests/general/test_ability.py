"""General ability: the losses by hand, what is measured when, and that training is the same with and without it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import clkit.general.ability as module
from clkit.engine.sequence import train
from clkit.errors import ClkitError, DataError, InterruptionError, ModelError
from clkit.events import Listener
from clkit.general.ability import BLOCK_TOKENS, General, refuse_unmeasurable
from clkit.general.section import GeneralSection
from clkit.models.family import Family
from clkit.models.loading import load_model
from clkit.models.objective import Pretraining
from clkit.models.sections import FullTuning, ModelSection
from clkit.recipe.inputs import missing_inputs
from clkit.recipe.recipe import Recipe
from clkit.run.doctor import examine, is_whole
from clkit.run.folder import RunFolder
from clkit.tasks.blocks import blocks
from clkit.tasks.sources.prose import built_in_prose
from tests.toy import toy_recipe

TEXTS = {"texts": "builtin"}
#: The decoder and encoder read plain text; a T5 without sentinels stays with prompts and answers.
PLAIN = {"objective": {"kind": "pretraining"}, "prompt": {"max_tokens": 512}}
ONE_EPOCH = {"epochs": 1.0}


def load(folder: Path) -> Family:
    return load_model(ModelSection(name=str(folder)), FullTuning(), objective=Pretraining(kind="pretraining"))


def general(**section: Any) -> General:
    return General(GeneralSection(**(section or TEXTS)), batch_size=64)


def loss_of(loaded: Family, text: str, folder: Path, batch_size: int = 64) -> float:
    file = folder / "text.txt"
    file.write_text(text, "utf-8")
    measured = General(GeneralSection(texts=str(file)), batch_size).measure(loaded, Listener())
    assert list(measured) == ["held_out_loss"]
    assert measured["held_out_loss"] is not None
    return measured["held_out_loss"]


def words(number: int) -> str:
    draw = random.Random(number)
    return " ".join(f"w{draw.randrange(37)}" for _ in range(number))


class TestHeldOutLoss:
    def test_of_a_decoder_is_that_of_the_next_token(self, tmp_path: Path, flat_llama: Path) -> None:
        loaded = load(flat_llama)
        text = words(3 * BLOCK_TOKENS)
        nll, tokens = 0.0, 0
        for block in blocks([text], loaded.tokenizer, BLOCK_TOKENS):
            ids = loaded.tokenizer(block, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logits = loaded.model(ids).logits.double()
            nll -= logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).sum().item()
            tokens += ids.shape[1] - 1
        assert tokens > 3 * BLOCK_TOKENS - 10
        assert loss_of(loaded, text, tmp_path) == pytest.approx(nll / tokens, rel=1e-5)
        assert loss_of(loaded, text, tmp_path, batch_size=1) == pytest.approx(nll / tokens, rel=1e-5)

    def test_of_an_encoder_is_that_of_masked_tokens(self, tmp_path: Path, toy_roberta: Path) -> None:
        loaded = load(toy_roberta)
        text = words(1000)
        collate = loaded.collator()
        encoded = loaded.encode([""], blocks([text], loaded.tokenizer, BLOCK_TOKENS))
        batch = collate([{"input_ids": ids} for ids in encoded["input_ids"]])
        with torch.no_grad():
            expected = loaded.model.eval()(**batch).loss.item()  # transformers' own, a mean over the masked tokens
        assert loss_of(loaded, text, tmp_path) == pytest.approx(expected, rel=1e-5)

    def test_of_a_t5_is_that_of_masked_spans(self, tmp_path: Path, t5_tiny: Path) -> None:
        loaded = load(t5_tiny)
        text = built_in_prose()[:2000]
        collate = loaded.collator()
        encoded = loaded.encode([""], blocks([text], loaded.tokenizer, BLOCK_TOKENS))
        batch = collate([{"input_ids": ids} for ids in encoded["input_ids"]])
        with torch.no_grad():
            expected = loaded.model.eval()(**batch).loss.item()
        assert loss_of(loaded, text, tmp_path) == pytest.approx(expected, rel=1e-4)
        # Whatever the recipe's objective is: the one of pre-training is measured.
        answering = load_model(ModelSection(name=str(t5_tiny)), FullTuning())
        assert loss_of(answering, text, tmp_path) == pytest.approx(expected, rel=1e-4)

    def test_of_a_t5_without_sentinels_is_that_of_each_second_half(self, tmp_path: Path, flat_t5: Path) -> None:
        loaded = load_model(ModelSection(name=str(flat_t5)), FullTuning())
        text = words(500)
        nll, tokens = 0.0, 0
        for block in blocks([text], loaded.tokenizer, BLOCK_TOKENS):
            cut = block.index(" ", len(block) // 2)
            source, labels = (
                loaded.tokenizer(half, return_tensors="pt")["input_ids"] for half in (block[:cut], block[cut:])
            )
            with torch.no_grad():
                logits = loaded.model.eval()(input_ids=source, labels=labels).logits
            nll += functional.cross_entropy(logits[0], labels[0], reduction="sum").item()
            tokens += labels.shape[1]
        assert loss_of(loaded, text, tmp_path) == pytest.approx(nll / tokens, rel=1e-5)

    def test_is_null_where_the_model_is_ruined(self, flat_llama: Path) -> None:
        loaded = load(flat_llama)
        torch.nn.init.constant_(loaded.model.get_input_embeddings().weight, math.nan)
        assert general().measure(loaded, Listener()) == {"held_out_loss": None}

    def test_is_null_where_the_tokenizer_knows_no_word(self, toy_roberta: Path) -> None:
        assert general().measure(load(toy_roberta), Listener()) == {"held_out_loss": None}  # unknown words all of them

    def test_shows_its_progress_and_can_be_stopped(self, flat_llama: Path) -> None:
        heard: list[Any] = []

        class Heard(Listener):
            def evaluating(self, task: str, examples: int) -> None:
                heard.append((task, examples))

            def answered(self, examples: int) -> None:
                heard.append(examples)

        def stop() -> None:
            raise InterruptionError("SIGTERM")

        loaded = load(flat_llama)
        general().measure(loaded, Heard())
        (name, total), *parts = heard
        assert name == "held-out text"
        assert sum(parts) == total > 1
        with pytest.raises(InterruptionError):
            general().measure(loaded, Listener(), stop)

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        file = tmp_path / "text.txt"
        for content, reason in ((b"", "empty"), (b"caf\xe9", "not UTF-8")):
            file.write_bytes(content)
            with pytest.raises(DataError, match=reason) as refused:
                general(texts=str(file))
            assert str(refused.value).startswith(f"general.texts: {file}")
        with pytest.raises(DataError, match="no such file"):
            general(texts=str(tmp_path / "none.txt"))


def test_the_built_in_text_is_plain_english_prose() -> None:
    text = built_in_prose()
    assert text.isascii()
    assert 6_000 < len(text) < 10_000
    assert len(text.split()) > 1_200


def test_a_model_comes_back_as_it_was(toy_roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(toy_roberta)
    loaded.model.train()
    loaded.model.roberta.encoder.layer[1].eval()
    next(loaded.model.parameters()).requires_grad_(False)
    modes = {name: part.training for name, part in loaded.model.named_modules()}
    parameters = {
        name: (id(one), one.detach().clone(), one.requires_grad) for name, one in loaded.model.named_parameters()
    }
    config = loaded.model.config.to_json_string()

    measure = module.negative_log_likelihoods

    def drawing(*arguments: Any) -> Any:
        random.random(), np.random.rand(), torch.rand(1)
        return measure(*arguments)

    monkeypatch.setattr(module, "negative_log_likelihoods", drawing)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    general().measure(loaded, Listener())
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())
    assert modes == {name: part.training for name, part in loaded.model.named_modules()}
    assert config == loaded.model.config.to_json_string()
    for name, one in loaded.model.named_parameters():
        identity, value, trained = parameters[name]
        assert id(one) == identity
        assert torch.equal(one, value)
        assert one.requires_grad is trained


def trained_weights(run: RunFolder, recipe: Recipe) -> dict[str, torch.Tensor]:
    folders = [stage.folder for stage in run.stages() if stage.index > 0]
    return dict(load_model(recipe.model, recipe.tuning, folders, recipe.objective).model.named_parameters())


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("dropout_t5", {}),
        ("dropout_t5", {"tuning": {"method": "lora", "rank": 2, "dropout": 0.3}}),
        ("flat_llama", {}),
        ("toy_roberta", {"objective": {"kind": "pretraining", "block_tokens": 32}, "prompt": {"max_tokens": 512}}),
    ],
    ids=["t5", "t5-lora", "llama", "roberta"],
)
def test_training_is_the_same_with_and_without(
    tmp_path: Path, request: pytest.FixtureRequest, model: str, changes: dict[str, Any]
) -> None:
    folder = request.getfixturevalue(model)
    text = tmp_path / "text.txt"
    text.write_text(words(1000), "utf-8")
    plain = toy_recipe(tmp_path, folder, training=ONE_EPOCH, **changes)
    measured = toy_recipe(tmp_path, folder, training=ONE_EPOCH, general={"texts": str(text)}, **changes)
    without, with_general = train(plain, tmp_path / "without"), train(measured, tmp_path / "with")
    assert (without.path / "matrix.json").read_bytes() == (with_general.path / "matrix.json").read_bytes()
    a, b = trained_weights(without, plain), trained_weights(with_general, measured)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    losses = [stage.payload["general"]["held_out_loss"] for stage in with_general.stages()]
    assert len(set(losses)) == 3  # each stage has another model
    assert not any("general" in stage.payload for stage in without.stages())


@pytest.mark.parametrize(
    ("when", "zero_shot", "stages"),
    [("all", True, [0, 1, 2]), ("ends", False, [0, 2]), ("final", True, [2]), ("final", False, [2])],
)
def test_what_is_measured_when(tmp_path: Path, flat_t5: Path, when: str, zero_shot: bool, stages: list[int]) -> None:
    changes: dict[str, Any] = {"general": {"when": when, **TEXTS}, "evaluation": {"zero_shot": zero_shot}}
    run = train(toy_recipe(tmp_path, flat_t5, training=ONE_EPOCH, **changes), tmp_path / "run")
    assert [stage.index for stage in run.stages() if "general" in stage.payload] == stages
    assert (run.read_matrix().zero_shot is None) is not zero_shot
    recovered = run.scores()
    assert recovered.damage == []
    assert recovered.matrix == run.read_matrix()
    assert is_whole(list(examine(run.path)))


@pytest.mark.parametrize(("protocol", "stages"), [("multi_task", [0, 1]), ("per_task", [0, 1, 2]), ("zero_shot", [0])])
def test_baselines_are_measured_too(tmp_path: Path, flat_t5: Path, protocol: str, stages: list[int]) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, training=ONE_EPOCH, general=TEXTS, protocol=protocol)
    run = train(recipe, tmp_path / "run")
    assert [stage.index for stage in run.stages() if "general" in stage.payload] == stages


@pytest.mark.parametrize("zero_shot", [True, False])
def test_resuming_neither_repeats_nor_loses_it(
    tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch, zero_shot: bool
) -> None:
    recipe = toy_recipe(tmp_path, flat_t5, training=ONE_EPOCH, general=TEXTS, evaluation={"zero_shot": zero_shot})
    whole = train(recipe, tmp_path / "whole")
    measure = General.measure
    calls: list[int] = []

    def failing(self: General, *arguments: Any) -> dict[str, float | None]:
        calls.append(len(calls))
        if len(calls) == 3:
            raise ClkitError("power failure")
        return measure(self, *arguments)

    monkeypatch.setattr(General, "measure", failing)
    with pytest.raises(ClkitError, match="power failure"):
        train(recipe, tmp_path / "stopped")
    run = train(recipe, tmp_path / "stopped", resume=True)  # the last task is trained, and is only measured now
    assert len(calls) == 4
    for mine, other in zip(run.stages(), whole.stages(), strict=True):
        assert mine.payload["general"] == other.payload["general"]
    evaluated = [line["stage"] for line in run.log.read() if line["event"] == "evaluated"]
    assert evaluated == ["zero-shot", "first", "second"]
    assert (run.path / "matrix.json").read_bytes() == (whole.path / "matrix.json").read_bytes()


def refused(**changes: Any) -> str:
    values = {
        "name": "x",
        "model": {"name": "embedded:tiny-t5"},
        "benchmark": {"name": "sample"},
        **changes,
    }
    with pytest.raises(ValueError, match="general") as error:
        Recipe.model_validate(values)
    (problem,) = error.value.errors()  # type: ignore[attr-defined]
    return str(problem["msg"])


class TestRefusals:
    def test_nothing_to_measure(self) -> None:
        assert "measures nothing; give texts, lm_eval or both" in refused(general={"when": "all"})

    def test_a_classifier(self) -> None:
        said = refused(general=TEXTS, objective={"kind": "classification"})
        assert said.startswith("general: with objective.kind: classification the model has a head for labels")

    def test_protocols(self) -> None:
        said = refused(general={**TEXTS, "when": "ends"}, protocol="per_task")
        assert said.startswith("general.when: 'ends' does not fit protocol: per_task")
        said = refused(general={**TEXTS, "when": "final"}, protocol="zero_shot")
        assert said.startswith("general.when: 'final' does not fit protocol: zero_shot")

    def test_lm_eval_of_an_encoder_before_anything_is_written(
        self, tmp_path: Path, toy_roberta: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "load_lm_eval_tasks", lambda section: "tasks")
        recipe = toy_recipe(tmp_path, toy_roberta, general={"lm_eval": {"tasks": ["hellaswag"]}}, **PLAIN)
        with pytest.raises(ModelError, match=r"^general\.lm_eval: .* encoder models do not; use general\.texts"):
            train(recipe, tmp_path / "run")
        assert not (tmp_path / "run" / "recipe.yaml").exists()

    def test_an_encoder_without_a_mask_token(self, toy_roberta: Path) -> None:
        loaded = load(toy_roberta)
        loaded.tokenizer.mask_token = None
        with pytest.raises(ModelError, match=r"^general\.texts: the tokenizer has no mask token"):
            refuse_unmeasurable(GeneralSection(**TEXTS), loaded)

    def test_a_missing_file_is_found_by_validate(self, tmp_path: Path, flat_t5: Path) -> None:
        recipe = toy_recipe(tmp_path, flat_t5, general={"texts": str(tmp_path / "none.txt")})
        assert missing_inputs(recipe) == [f"general.texts: no file '{tmp_path}/none.txt'"]
        assert missing_inputs(toy_recipe(tmp_path, flat_t5, general=TEXTS)) == []


def test_paths_start_from_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: quickstart\ngeneral: {texts: own.txt}\n")
    loaded = Recipe.load(tmp_path / "mine.yaml").general
    assert loaded is not None
    assert loaded.texts == str(tmp_path / "own.txt")
    overridden = Recipe.load("quickstart", ["general.texts=builtin"]).general
    assert json.loads(overridden.model_dump_json()) == {"when": "all", "texts": "builtin", "lm_eval": None}  # type: ignore[union-attr]

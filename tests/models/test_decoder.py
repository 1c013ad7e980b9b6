"""Decoders: one sequence of prompt and answer, written out token by token, without batches, padding or cache."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
)

from clkit.engine.prepare import labels_of, load_learner
from clkit.errors import DataError, ModelError
from clkit.models.examples import Texts, task_texts, without_unusable
from clkit.models.families import decoder as module
from clkit.models.families.decoder import Decoder
from clkit.models.families.next_token import DecoderPretraining
from clkit.models.family import Family
from clkit.models.greedy import end_ids
from clkit.models.layers import linear_layers, select_layers
from clkit.models.loading import load_model
from clkit.models.magnitudes import MagnitudeCollector
from clkit.models.objective import Pretraining, TextToText
from clkit.models.sections import FullTuning, LoraTuning, ModelSection
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.strategies.builtin.migu import MIGU, MIGUOptions
from clkit.tasks.prompts import Prompt
from clkit.tasks.task import Task
from clkit.testing.examiner import negative_log_likelihoods
from tests.toy import toy_recipe
from tests.toy_models import PAD, WORDS

BOS, EOS = 3 + WORDS, 1
PROMPTS = ["w1 w2 w3 w4 w5", "w7", "w9 w8 w7"]


@pytest.fixture(scope="module")
def toy(toy_llama: Path) -> Family:
    loaded = load_model(ModelSection(name=str(toy_llama)), FullTuning())
    with torch.no_grad():  # else a random model hardly cares what it has read
        for parameter in loaded.model.parameters():
            parameter.mul_(6)
    loaded.model.eval()
    return loaded


def family(tokenizer: Any = None, model: Any = None) -> Decoder:
    return Decoder(model, tokenizer, TextToText())


def pretraining(tokenizer: Any, model: Any = None) -> DecoderPretraining:
    return DecoderPretraining(model, tokenizer, Pretraining(kind="pretraining"))


def words(text: str) -> list[int]:
    return [3 + int(word[1:]) for word in text.split()]


# --- encoding -----------------------------------------------------------------------------------------------------


def test_a_sequence_is_begin_prompt_answer_and_end_with_a_loss_on_the_last_two(toy: Family) -> None:
    encoded = toy.encode(["w1 w2", ""], ["w3 w4", "w5"])
    assert encoded["input_ids"] == [[BOS, *words("w1 w2 w3 w4"), EOS], [BOS, *words("w5"), EOS]]
    assert encoded["labels"] == [[-100, -100, -100, *words("w3 w4"), EOS], [-100, *words("w5"), EOS]]


def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer like GPT-2's: a space belongs to the word after it, and nothing is added to a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(["Answer: sports\nAnswer: yes no\n"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", bos_token="<end>")


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Answer:", "Answer: sports<end>"),
        ("Answer:\n", "Answer:\nsports<end>"),
        ("Answer: ", "Answer: sports<end>"),  # alone, the prompt ends in a space; with the answer it does not
        ("", "<end>sports<end>"),
    ],
)
def test_prompt_and_answer_are_parted_by_one_space_and_by_their_tokens(prompt: str, text: str) -> None:
    tokenizer = byte_level()
    encoded = family(tokenizer).encode([prompt], ["sports"])
    ids, labels = encoded["input_ids"][0], encoded["labels"][0]
    assert tokenizer.decode(ids) == text
    head = ids[: labels.index(next(label for label in labels if label != -100))]
    # What is learned is predicted from the very tokens that are there when the model is asked.
    assert head == (tokenizer(prompt)["input_ids"] or [tokenizer.bos_token_id])
    assert [label for label in labels if label != -100] == ids[len(head) :]
    assert ids[-1] == tokenizer.eos_token_id


def test_the_begin_of_sequence_that_a_chat_template_writes_is_not_added_again(toy: Family) -> None:
    for prompt in ("<s> w1", "w1"):
        assert toy.encode([prompt], ["w2"])["input_ids"] == [[BOS, *words("w1 w2"), EOS]]


def test_an_end_that_the_tokenizer_adds_stands_only_behind_the_answer(toy_t5: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(toy_t5)
    assert tokenizer("w1")["input_ids"][-1] == EOS
    assert family(tokenizer).encode(["w1"], ["w2"])["input_ids"] == [[*words("w1 w2"), EOS]]


# --- batches ------------------------------------------------------------------------------------------------------


def rows(encoded: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]


def test_a_batch_is_padded_on_the_right_and_its_labels_belong_to_its_logits(toy: Family) -> None:
    examples = rows(toy.encode(["w1 w2", "w5"], ["w3", "w6 w7"]))
    batch = toy.collator()(examples)
    assert batch["input_ids"].tolist() == [[BOS, *words("w1 w2 w3"), EOS], [BOS, *words("w5 w6 w7"), EOS]]
    batch = toy.collator()([*examples, {"input_ids": [BOS, 9], "labels": [-100, 9]}])
    assert batch["input_ids"][2].tolist() == [BOS, 9, PAD, PAD, PAD]
    assert batch["attention_mask"][2].tolist() == [1, 1, 0, 0, 0]
    assert batch["logits_to_keep"].tolist() == [0, 1, 2, 3]  # nothing is predicted from the last token
    assert batch["labels"].tolist() == [
        [-100, -100, *words("w3"), EOS],
        [-100, *words("w6 w7"), EOS],
        [9, -100, -100, -100],
    ]
    logits = toy.logits(toy.model(**{k: v for k, v in batch.items() if k != "labels"}), batch["labels"])
    assert logits.shape[:2] == batch["labels"].shape


def test_the_likelihood_of_answers_is_the_models_own_loss(toy: Family) -> None:
    """transformers shifts the labels itself: its mean loss over one example, times the tokens of the answer."""
    answers = ["w3", "w6 w7", "w1 w2 w3 w4"]
    examples = rows(toy.encode(PROMPTS, answers))
    batch = toy.collator()(examples)
    found = negative_log_likelihoods(toy, batch)
    for example, answer, (nll, tokens) in zip(examples, answers, found, strict=True):
        ids, labels = torch.tensor([example["input_ids"]]), torch.tensor([example["labels"]])
        with torch.no_grad():
            mean = float(toy.model(input_ids=ids, labels=labels).loss)
        assert tokens == len(answer.split()) + 1
        assert nll == pytest.approx(mean * tokens, rel=1e-4)


def test_tokens_that_count_are_those_that_are_not_padding(toy: Family) -> None:
    examples = rows(toy.encode(["w1 w2", "w5"], ["w3", "w6"]))
    batch = toy.collator()(examples)
    name = "model.layers.0.mlp.up_proj"
    assert toy.token_mask(name, batch).tolist() == [[True] * 5, [True] * 4 + [False]]
    assert toy.token_mask("lm_head", batch).tolist() == [[True] * 3, [True] * 3]
    assert batch["logits_to_keep"].tolist() == [1, 2, 3]


# --- answers ------------------------------------------------------------------------------------------------------


def written_out(model: PreTrainedModel, prompt: str, new_tokens: int) -> list[int]:
    """Greedy decoding: no batch, no cache, no padding."""
    ids = [BOS, *words(prompt)]
    for _ in range(new_tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == EOS:
            break
    return ids[1 + len(words(prompt)) :]


def test_answers_are_those_of_decoding_one_by_one(toy: Family) -> None:
    prompts = [" ".join(["w4", "w3 w5", f"w{first}"][first % 3 :]) for first in range(24)]
    side = toy.tokenizer.padding_side
    answers = toy.generate(prompts, 4)
    assert toy.tokenizer.padding_side == side
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = written_out(toy.model, prompt, 4)
        text = toy.tokenizer.decode(ids, skip_special_tokens=True)
        assert answer == (text if ids[-1] == EOS else text + " …"), prompt
    assert len(set(answers)) > 6


def test_an_answer_that_ends_is_finished(toy: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the second token of the first answer as a further end, as models with an end of turn have it."""
    first, second, *_ = written_out(toy.model, PROMPTS[0], 4)
    special = [*toy.tokenizer.all_special_ids, second]  # an ordinary token would be a stale id, and no end
    monkeypatch.setattr(type(toy.tokenizer), "all_special_ids", property(lambda tokenizer: special))
    monkeypatch.setattr(toy.model.generation_config, "eos_token_id", [EOS, second])
    monkeypatch.setattr(toy.model.generation_config, "repetition_penalty", 50.0)  # no part of greedy decoding
    answer = toy.generate(PROMPTS[:1], 4)[0]
    assert answer == toy.tokenizer.decode([] if first == second else [first])


def summed_log_probability(model: PreTrainedModel, head: list[int], tail: list[int]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([[*head, *tail]])).logits[0].double().log_softmax(dim=-1)
    return float(sum(logits[len(head) - 1 + place, token] for place, token in enumerate(tail)))


def assert_ranked(loaded: Family, answers: list[str]) -> None:
    found = loaded.log_likelihood(PROMPTS, answers)
    expected = [
        [summed_log_probability(loaded.model, [BOS, *words(prompt)], [*words(answer), EOS]) for answer in answers]
        for prompt in PROMPTS
    ]
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-3)


def test_labels_are_ranked_by_their_whole_likelihood(toy: Family) -> None:
    for _ in range(2):  # the second time, all tokens are known
        assert_ranked(toy, ["w3", "w6 w7 w8", "", "w1 w2"])


def test_labels_are_read_in_one_pass_behind_their_prompts(toy: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, read = ["w3", "w6 w7 w8", "", "w1 w2", "w2 w2 w5 w1"], list[int]()
    toy.log_likelihood(PROMPTS, answers)  # the first time, the model is tried
    hook = toy.model.get_submodule("lm_head").register_forward_hook(lambda *made: read.append(made[2].shape[1]))
    together = toy.log_likelihood(PROMPTS, answers)
    assert read == [1, 1 + 3 + 2 + 4]
    read.clear()
    monkeypatch.setattr(module, "MOST_LOGITS", len(PROMPTS) * toy.model.config.vocab_size * 5)
    torch.testing.assert_close(toy.log_likelihood(PROMPTS, answers), together)
    assert read == [1, 1 + 3, 2, 4]
    hook.remove()


@pytest.mark.parametrize(
    "own",
    [
        {
            "model_type": "gpt_neo",
            "attention_types": [[["local"], 2]],
            "num_layers": 2,
            "num_heads": 2,
            "window_size": 3,
        },
        {
            "model_type": "mistral",
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "num_hidden_layers": 2,
            "sliding_window": 3,
        },
        {"model_type": "falcon", "num_attention_heads": 2, "num_hidden_layers": 2, "alibi": True},
    ],
)
def test_where_places_are_told_otherwise_labels_are_read_one_after_the_other(toy: Family, own: dict[str, Any]) -> None:
    torch.manual_seed(1)
    sizes = {
        "vocab_size": 4 + WORDS,
        "hidden_size": 16,
        "intermediate_size": 24,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**own, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    assert_ranked(family(toy.tokenizer, model), ["w3 w4", "w6 w7 w8", "w1 w2"])


@pytest.mark.parametrize(
    "kind", ["bloom", "gpt2", "opt", "gpt_neox", "mamba", "bart", "rwkv", "recurrent_gemma", "jamba"]
)
def test_other_architectures_answer_alike(toy: Family, kind: str) -> None:
    """With learned, rotary or no positions at all, and without attention.

    Read behind padding, the next three would answer otherwise, and RWKV beside prompts of the same length too; the last
    would give another likelihood where it goes on after prompts that were read before.
    """
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config(kind)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    loaded = family(toy.tokenizer, model)
    assert_ranked(loaded, ["w3", "w6 w7 w8"])
    prompts = [*PROMPTS, " ".join(reversed(PROMPTS[0].split()))]
    for prompt, answer in zip(prompts, loaded.generate(prompts, 4), strict=True):
        ids = written_out(model, prompt, 4)
        text = toy.tokenizer.decode(ids, skip_special_tokens=True)
        assert answer == (text if ids[-1] == EOS else text + " …")


def test_the_room_for_an_answer_is_that_of_its_tokens_and_the_end(toy: Family) -> None:
    assert toy.answer_tokens(["w1 w2 w3"]) == [4]
    tokenizer = byte_level()
    needed = {prompt: family(tokenizer).encode([prompt], ["sports"])["labels"][0] for prompt in ("A:", "A:\n")}
    lengths = [sum(label != -100 for label in labels) for labels in needed.values()]
    assert lengths[0] < lengths[1] == family(tokenizer).answer_tokens(["sports"])[0]


# --- chat templates -----------------------------------------------------------------------------------------------


def test_prompts_stand_in_the_models_chat_template(toy_llama: Path, toy_t5: Path, tmp_path: Path) -> None:
    def texts(model: Path) -> tuple[Family, Texts]:
        recipe = toy_recipe(tmp_path, model, prompt={"chat_template": True, "max_tokens": 24})
        tasks = load_tasks(recipe)
        loaded = load_learner(recipe, labels_of(tasks))
        return loaded, task_texts(tasks[0], "train", loaded, recipe)

    with pytest.raises(ModelError, match=r"^prompt.chat_template: seq2seq models have no turns of a user"):
        texts(toy_t5)
    with pytest.raises(ModelError, match=r"^prompt.chat_template: the model's tokenizer has no chat template"):
        texts(toy_llama)
    shutil.copytree(toy_llama, tmp_path / "chat")
    template = "<s> {% for turn in messages %}{{ turn.role }}: {{ turn.content }} w9 </s> {% endfor %}"
    (tmp_path / "chat" / "chat_template.jinja").write_text(template + "{% if add_generation_prompt %}w8\n{% endif %}")
    loaded, made = texts(tmp_path / "chat")
    prompts, answers = made.prompts, made.answers
    assert all(prompt.startswith("<s> user: Option: w1, w2 \nw") for prompt in prompts)
    # As the whole conversation has it, not as the template's prompt for generation.
    assert all(prompt.endswith("\nAnswer: w9 </s> assistant: ") for prompt in prompts)
    encoded = loaded.encode(prompts, answers)
    for ids, labels, answer in zip(encoded["input_ids"], encoded["labels"], answers, strict=True):
        assert ids.count(BOS) == 1
        assert [label for label in labels if label != -100] == ids[-3:] == [*words(f"{answer} w9"), EOS]
    assert max(map(len, encoded["input_ids"])) <= 24 + 3


def test_in_a_chat_template_an_answer_is_written_and_ranked_as_it_is_trained(toy_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_llama, tmp_path / "chat")
    template = "{% for turn in messages %}{{ turn.role }} {{ turn.content }} <s> w9\n{% endfor %}"
    (tmp_path / "chat" / "chat_template.jinja").write_text(template)
    loaded: Any = load_model(ModelSection(name=str(tmp_path / "chat")), FullTuning())
    loaded.converse(True)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(6)
    loaded.model.eval()
    prompts, answers = loaded.chat.frame([Prompt("", text, "") for text in PROMPTS], ["w1 w2"] * 3, "here")
    heads = [str(prompt) for prompt in prompts]
    found = loaded.log_likelihood(heads, answers[:1])[:, 0].tolist()
    for text, likelihood in zip(PROMPTS, found, strict=True):
        said = [{"role": "user", "content": text}, {"role": "assistant", "content": "w1 w2"}]
        ids = loaded.tokenizer.apply_chat_template(said, tokenize=True, return_dict=False)
        before = len(loaded.tokenizer(f"user {text} <s> w9\nassistant", add_special_tokens=False)["input_ids"])
        assert likelihood == pytest.approx(summed_log_probability(loaded.model, ids[:before], ids[before:]), rel=1e-4)
    # The turn's end stops an answer, though the sequence's end is another token.
    assert loaded.answer_tokens(["w1 w2"]) == [3]
    assert end_ids(loaded) == sorted([EOS, BOS])
    loaded.converse(False)
    assert end_ids(loaded) == [EOS]


def test_a_conversation_that_makes_no_prompt_is_named_or_dropped(toy_llama: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    long = [{"role": "user", "content": "w3 " * 90}, *turns[1:], *turns]
    odd = [{"role": "user", "content": "w4"}, *turns]
    lines = "\n".join(json.dumps({"chat": one}) for one in (turns, odd, turns, long))
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(lines)
    shutil.copytree(toy_llama, tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
        "{% endif %}{{ m.role }}: {{ m.content }} </s>\n{% endfor %}"
    )

    def prepared(what: str) -> tuple[Task, Recipe, Any]:
        files = {"kind": "files", "train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}
        task = {"name": "t", "answers": "free", "source": {**files, "messages": "chat", "on_bad_record": what}}
        prompt = {"chat_template": True, "style": "text"}
        recipe = toy_recipe(tmp_path, tmp_path / "chat", prompt=prompt, tasks=[task])
        tasks = load_tasks(recipe)
        return tasks[0], recipe, load_learner(recipe, labels_of(tasks))

    task, recipe, family = prepared("error")
    assert without_unusable(task, family, recipe) is task
    with pytest.raises(DataError, match=r"train.jsonl:2: .*prompt.chat_template: .*alternate"):
        task_texts(task, "train", family, recipe)
    task, recipe, family = prepared("drop")
    usable = without_unusable(task, family, recipe)
    assert [place.rsplit(":")[-1] for place in usable.train["place"]] == ["1", "3", "4"]
    assert usable.dropped == {"unusable train": 1, "unusable test": 1}
    # Of the last one the oldest turns do not fit, and leave it.
    assert len(set(task_texts(usable, "test", family, recipe).prompts)) == 1


# --- plain text ---------------------------------------------------------------------------------------------------


def test_every_token_of_a_text_but_the_first_has_a_loss(toy: Family) -> None:
    family = pretraining(toy.tokenizer, toy.model)
    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]
    examples = rows(family.encode([""] * 3, texts))
    assert [example["input_ids"] for example in examples] == [[BOS, *words(text)] for text in texts]
    batch = family.collator()(examples)
    found = negative_log_likelihoods(family, batch)
    assert [tokens for _, tokens in found] == [len(text.split()) for text in texts]
    for text, (nll, _) in zip(texts, found, strict=True):
        assert nll == pytest.approx(-summed_log_probability(toy.model, [BOS], words(text)), rel=1e-4)


def test_a_text_of_one_token_is_predicted_from_the_token_that_begins_sequences() -> None:
    tokenizer = byte_level()
    encoded = pretraining(tokenizer).encode(["", ""], ["A", "AA"])
    assert [len(ids) for ids in encoded["input_ids"]] == [2, 2]
    assert encoded["input_ids"][0][0] == tokenizer.bos_token_id


def test_plain_text_has_no_answers(toy: Family) -> None:
    with pytest.raises(ModelError, match="pretraining has no answers"):
        pretraining(toy.tokenizer, toy.model).answer(["w1"], None)  # type: ignore[arg-type]


# --- architectures ------------------------------------------------------------------------------------------------

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "vocab_size": 4 + WORDS}
#: By model type: its own names of sizes, and the linear layers of attention and feed-forward of each block.
ARCHITECTURES: dict[str, tuple[dict[str, Any], str, str]] = {
    "llama": ({"intermediate_size": 24}, "q_proj k_proj v_proj o_proj", "gate_proj up_proj down_proj"),
    "qwen2": (
        {"intermediate_size": 24, "num_key_value_heads": 2},
        "q_proj k_proj v_proj o_proj",
        "gate_proj up_proj down_proj",
    ),
    "qwen3": (
        {"intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 8},
        "q_proj k_proj v_proj o_proj",
        "gate_proj up_proj down_proj",
    ),
    "phi3": ({"intermediate_size": 24, "pad_token_id": 0}, "qkv_proj o_proj", "gate_up_proj down_proj"),
    "gpt2": ({}, "c_attn c_proj", "c_fc c_proj"),
    "gpt_neox": ({"intermediate_size": 24}, "query_key_value dense", "dense_h_to_4h dense_4h_to_h"),
    "opt": ({"ffn_dim": 24, "word_embed_proj_dim": 16}, "q_proj k_proj v_proj out_proj", "fc1 fc2"),
    "bloom": ({}, "query_key_value dense", "dense_h_to_4h dense_4h_to_h"),
    "falcon": ({}, "query_key_value dense", "dense_h_to_4h dense_4h_to_h"),
    "gptj": ({"rotary_dim": 4}, "q_proj k_proj v_proj out_proj", "fc_in fc_out"),
    "phi": ({"intermediate_size": 24}, "q_proj k_proj v_proj dense", "fc1 fc2"),
    "mpt": ({"d_model": 16, "n_heads": 2, "n_layers": 2}, "Wqkv out_proj", "up_proj down_proj"),
}


#: Sizes of others.
UNUSUAL: dict[str, dict[str, Any]] = {
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2},
    "bart": {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 24},
    "rwkv": {"hidden_size": 16, "num_hidden_layers": 2},
    "modernbert-decoder": SMALL | {"intermediate_size": 24},
    "deepseek_v3": SMALL
    | {"intermediate_size": 24, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
    | {"v_head_dim": 8, "moe_intermediate_size": 8, "n_routed_experts": 4, "num_experts_per_tok": 2}
    | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "recurrent_gemma": SMALL | {"num_hidden_layers": 3, "intermediate_size": 24, "attention_window_size": 4},
    "jamba": SMALL
    | {"intermediate_size": 24, "num_key_value_heads": 1, "num_experts": 2, "attn_layer_period": 2}
    | {"attn_layer_offset": 1, "mamba_d_state": 4, "use_mamba_kernels": False},
}


def config(kind: str) -> Any:
    own = UNUSUAL.get(kind) or (ARCHITECTURES[kind][0] if kind == "mpt" else SMALL | ARCHITECTURES[kind][0])
    return AutoConfig.for_model(kind, **{"vocab_size": 4 + WORDS, "eos_token_id": EOS, "pad_token_id": PAD} | own)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_attention_and_feed_forward_are_recognised_and_nothing_else(kind: str) -> None:
    _, attention, feed_forward = ARCHITECTURES[kind]
    assert Decoder.recognises(config(kind))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config(kind))
    heads = {name for name in linear_layers(model) if name in ("lm_head", "embed_out")}
    roles = {role: select_layers(family(model=model), [role]) for role in ("attention", "feed_forward", "lm_head")}
    for role, expected in (("attention", attention), ("feed_forward", feed_forward)):
        endings = sorted(name.split(".")[-1] for name in roles[role])
        assert endings == sorted(expected.split() * 2), role
    assert set(roles["lm_head"]) == heads
    found = [name for layers in roles.values() for name in layers]
    assert sorted(found) == sorted(linear_layers(model))  # each has exactly one role
    endings = {name.split(".")[-1] for name in linear_layers(model)}
    assert any(set(targets) <= endings for targets in Decoder.lora_targets)


@pytest.mark.parametrize("kind", ["deepseek_v3", "rwkv", "modernbert-decoder"])
def test_magnitudes_of_unusual_layers_leave_padding_out(toy: Family, kind: str) -> None:
    """DeepSeek's keys and values stand in a dimension of one head."""
    torch.manual_seed(1)
    loaded = family(toy.tokenizer, AutoModelForCausalLM.from_config(config(kind)))
    MIGU(MIGUOptions(name="migu")).check(loaded, 2)
    collector = MagnitudeCollector(select_layers(loaded, ["attention", "feed_forward"]), loaded.token_mask)
    texts, sums = rows(loaded.encode(["w1 w2 w3 w4 w5", "w6"], ["w7", "w8"])), []
    for batches in ([texts], [texts[:1], texts[1:]]):
        for batch in map(loaded.collator(), batches):
            with torch.no_grad(), collector.collecting(batch):
                loaded.model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
        sums.append(collector.take())
    torch.testing.assert_close(*sums)


def test_layers_that_are_not_recognised_are_listed() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config("mamba"))
    with pytest.raises(
        ModelError, match=r"^layers: no linear layer of this model is recognised as 'attention'; name in `layers:` "
    ) as error:
        select_layers(family(model=model), ["attention"])
    assert "linear layers found: dt_proj, in_proj, lm_head, out_proj, x_proj" in str(error.value)
    assert len(select_layers(family(model=model), ["in_proj"])) == 2


def test_a_router_of_experts_is_no_feed_forward_layer() -> None:
    pattern = Decoder.roles["feed_forward"]
    for name in ("model.layers.0.mlp.gate", "model.layers.0.mlp.shared_expert_gate", "model.layers.0.mlp.router"):
        assert not re.search(pattern, name)
    assert re.search(pattern, "model.layers.0.mlp.shared_expert.gate_proj")


def test_encoders_and_encoder_decoders_are_none() -> None:
    assert Decoder.recognises(LlamaConfig())
    assert Decoder.recognises(GPT2Config())
    assert Decoder.recognises(MambaConfig())
    assert not Decoder.recognises(T5Config())
    assert not Decoder.recognises(BertConfig())
    assert Decoder.recognises(BertConfig(is_decoder=True))


def test_lora_needs_names_where_query_and_value_are_not_known(toy: Family, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(config("mamba")).save_pretrained(tmp_path)
    toy.tokenizer.save_pretrained(tmp_path)
    section = ModelSection(name=str(tmp_path))
    with pytest.raises(ModelError, match=r"tuning.targets: .*linear layers found: dt_proj, in_proj"):
        load_model(section, LoraTuning(method="lora"))
    tuned = load_model(section, LoraTuning(method="lora", targets=["in_proj"]))
    assert sum(".lora_A." in name for name, _ in tuned.model.named_parameters()) == 2

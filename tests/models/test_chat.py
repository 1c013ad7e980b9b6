"""Chat templates of the kinds that models come with: the tokens are those of `apply_chat_template` over the whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from clkit.errors import DataError, ModelError
from clkit.models.chat import ChatTemplate
from clkit.tasks.prompts import Prompt

TURN = "{{ '<|' + m.role + '|>' }}"
#: By kind: the template, special tokens beside <s> and </s>, and the token that ends a sequence.
TEMPLATES: dict[str, tuple[str, list[str], str]] = {
    "chatml": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ["<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
    ),
    "qwen3": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% set text = m.content.split('</think>')[-1] %}"
        "{% set thought = m.content.split('</think>')[0].split('<think>')[-1] if '</think>' in m.content else '' %}"
        "<|im_start|>assistant\n{% if loop.last %}<think>\n{{ thought.strip('\n') }}\n</think>\n\n{% endif %}"
        "{{ text.lstrip('\n') }}<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ["<|im_start|>", "<|im_end|>", "<think>", "</think>"],
        "<|im_end|>",
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "</s>",
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
        "{% else %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endif %}{% endfor %}",
        [],
        "</s>",
    ),
    "llama2": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content.strip() + ' ' + eos_token }}"
        "{% else %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}{% endif %}{% endfor %}",
        [],
        "</s>",
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ["<start_of_turn>", "<end_of_turn>"],
        "</s>",
    ),
    "phi3": (
        f"{{% for m in messages %}}{TURN}\n{{{{ m.content }}}}<|end|>\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        "</s>",
    ),
    "zephyr": (
        f"{{% for m in messages %}}{TURN}\n{{{{ m.content + eos_token }}}}\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        [],  # its turns begin with words, as in Zephyr itself
        "</s>",
    ),
    "deepseek r1": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "<|A|>{{ m.content.split('</think>')[-1] }}<|E|>"
        "{% elif m.role == 'user' %}<|U|>{{ m.content }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|A|><think>\n{% endif %}",
        ["<|A|>", "<|U|>", "<|E|>"],
        "<|E|>",
    ),
    "vicuna": (
        "{{ bos_token }}A chat. {% for m in messages %}{{ m.role.upper() }}: {{ m.content }}"
        "{{ eos_token if m.role == 'assistant' else ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
        [],
        "</s>",
    ),
}
WORDS = ["the film was good positive negative 7 assistant user system Answer: [INST] [/INST]\n"] * 5


def byte_level(special: list[str], end: str) -> PreTrainedTokenizerFast:
    """Like GPT-2's: a space belongs to the word after it, and line breaks before a word fall apart."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    text = [*WORDS, *["a\n\n\n\nb"] * 5]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "</s>", *special], initial_alphabet=letters)
    backend.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=end)


def pieces(special: list[str], end: str) -> PreTrainedTokenizerFast:
    """Like Llama 2's: words begin with ▁, and a token that begins sequences is added to a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    specials = ["<unk>", "<s>", "</s>", *special]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=specials)
    backend.train_from_iterator(
        [*WORDS, "?|<>/0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ."], trainer
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=end, unk_token="<unk>")


def chatting(kind: str, make: Any = byte_level) -> Any:
    template, special, end = TEMPLATES[kind]
    tokenizer = make(special, end)
    tokenizer.chat_template = template
    return tokenizer


SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
ANSWERS = ["positive", "7", "good film.", "(a) the\n\nfilm", " spaced", "体育"]


@pytest.mark.parametrize("make", [byte_level, pieces])
@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize(
    "turns", [[], SAID, [{"role": "system", "content": "Be brief."}]], ids=["one", "said", "system"]
)
def test_the_tokens_are_those_of_the_whole_conversation(kind: str, make: Any, turns: list[dict[str, str]]) -> None:
    tokenizer = chatting(kind, make)
    chat = ChatTemplate(tokenizer)
    prompts = [Prompt("Which?\n", "the film was good", "\nAnswer:", json.dumps(turns))] * len(ANSWERS)
    framed, written = chat.frame(prompts, ANSWERS, "task 't'")
    found = chat.ids([str(prompt) for prompt in framed], written)
    for answer, (head, tail) in zip(ANSWERS, found, strict=True):
        asked = {"role": "user", "content": str(prompts[0])}
        conversation = [*turns, asked, {"role": "assistant", "content": answer}]
        whole = tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False)
        assert head + tail == whole
        assert chat.end_id in tail
        # What is learned is the answer and its end, and no more of the prompt than white space.
        learned = tokenizer.decode(tail[: tail.index(chat.end_id)]).strip()
        assert learned == tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"]).strip()
        # A test begins as training does, though it does not know the answer; white space may join with what precedes.
        assert head == chat.prompt_ids([str(framed[0])])[0] or answer == " spaced"


@pytest.mark.parametrize(
    ("kind", "end"),
    [("chatml", "<|im_end|>"), ("gemma", "<end_of_turn>"), ("phi3", "<|end|>"), ("llama3", "<|eot_id|>")],
)
def test_an_answer_ends_where_the_template_ends_its_turn(kind: str, end: str) -> None:
    tokenizer = chatting(kind)
    assert ChatTemplate(tokenizer).end_id == tokenizer.convert_tokens_to_ids(end)


def test_where_no_special_token_ends_a_turn_the_first_one_behind_the_answer_does() -> None:
    tokenizer = byte_level([], "</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    chat = ChatTemplate(tokenizer)
    assert tokenizer.decode([chat.end_id]) == "\n"
    _, tail = chat.ids(*chat.alone(["good film."]))[0]
    assert tokenizer.decode(tail).strip(" ") == "good film.\n"


def test_a_generation_prompt_that_no_whole_conversation_has_is_told() -> None:
    remarks = {kind: ChatTemplate(chatting(kind)).remark for kind in TEMPLATES}
    assert {kind for kind, remark in remarks.items() if remark} == {"qwen3", "deepseek r1"}
    assert "generation prompt is '<|A|><think>\\n'" in str(remarks["deepseek r1"])


def test_an_answer_that_moves_its_own_beginning_is_refused_with_the_difference() -> None:
    chat = ChatTemplate(chatting("qwen3"))
    with pytest.raises(
        DataError, match=r"^task 't': prompt.chat_template: .*<think>\\nbecause\\n</think>.*<think>\\n\\n"
    ):
        chat.frame([Prompt("", "which?", "")], ["<think>\nbecause\n</think>\n\ngood"], "task 't'")


def test_what_a_template_drops_of_an_answer_is_not_trained() -> None:
    chat = ChatTemplate(chatting("deepseek r1"))
    assert chat.frame([Prompt("", "which?", "")], ["because</think>good"], "task 't'")[1] == ["good"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "the model's tokenizer has no chat template; set it to false"),
        ("{{ raise_exception('no system turn') }}", r"cannot be rendered \(no system turn\)"),
        ("always the same", "does not hold a user's turn and its answer exactly once"),
        ("{{ messages[0]['content'] * 2 }}", "does not hold a user's turn and its answer exactly once"),
        (
            "{% for m in messages %}{{ m.content }} {% endfor %}",
            "ends an answer with ' ', which is no token of its own",
        ),
    ],
)
def test_a_template_that_will_not_do_is_one_line(template: str | None, message: str) -> None:
    tokenizer = byte_level([], "</s>")
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=f"^prompt.chat_template: .*{message}"):
        ChatTemplate(tokenizer)


def test_a_conversation_that_a_template_refuses_is_named() -> None:
    tokenizer = byte_level([], "</s>")
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    tokenizer.chat_template = refusal + "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    turns = json.dumps([{"role": "system", "content": "Be brief."}])
    with pytest.raises(DataError, match=r"^task 't': of the conversation 'film'\.\.\. .*System role not supported"):
        ChatTemplate(tokenizer).frame([Prompt("", "film", "", turns)], ["good"], "task 't'")

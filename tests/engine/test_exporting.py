"""What is exported answers as the run did, by stock transformers and peft; the card's examples run as they stand."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
import yaml
from gguf import GGUFReader
from tokenizers import Tokenizer, decoders, models, normalizers

from clkit.engine.evaluate import load_stage
from clkit.engine.exporting import TEXT, _before, export
from clkit.engine.sequence import train
from clkit.errors import RunError, UsageError
from clkit.models.examples import task_texts
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.report.card import PEFT_CLASSES, model_card
from clkit.results.answers import UNFINISHED
from clkit.run.folder import RunFolder
from clkit.tasks.conversations import NO_TURNS
from clkit.tasks.prompts import build_prompt
from tests.toy import TASKS, Finished, as_conversations, toy_recipe, write_task

AUTO = {
    "seq2seq": "AutoModelForSeq2SeqLM",
    "decoder": "AutoModelForCausalLM",
    "encoder": "AutoModelForSequenceClassification",
}
LORA, INCREMENTAL = ({"method": method, "rank": 3, "alpha": 12.0} for method in ("lora", "incremental_lora"))
FULL = {"method": "full"}
MERGED, ADAPTER = False, True


@pytest.fixture
def make(toy_tasks: Path, flat_t5: Path, flat_llama: Path, toy_roberta: Path, finished: Finished) -> Any:
    models = {"seq2seq": flat_t5, "decoder": flat_llama, "encoder": toy_roberta}

    def make(family: str, tuning: dict[str, Any], **changes: Any) -> RunFolder:
        objective = (
            {"objective": {"kind": "classification"}, "prompt": {"style": "text"}} if family == "encoder" else {}
        )
        training = {"batch_size": 4, "learning_rate": 1e-2, "epochs": 8.0}
        changes = {"tuning": tuning, "training": training, **objective, **changes}
        return finished(toy_recipe(toy_tasks, models[family], **changes))

    return make


def load(folder: Path, family: str, *, adapter: bool) -> Any:
    """The model as a stranger would load it."""
    if not adapter:
        return getattr(transformers, AUTO[family]).from_pretrained(folder)
    labels = {}
    if family == "encoder":
        config = transformers.AutoConfig.from_pretrained(folder)
        labels = {"id2label": config.id2label, "label2id": config.label2id}
    model = getattr(peft, PEFT_CLASSES[AUTO[family]]).from_pretrained(folder, **labels)
    if family != "encoder":
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model


def answers(folder: Path, family: str, prompts: dict[str, list[str]], *, adapter: bool) -> list[str]:
    """What stock libraries answer to one prompt after the other, with nothing of clkit."""
    model, tokenizer = load(folder, family, adapter=adapter), transformers.AutoTokenizer.from_pretrained(folder)

    def answer(task: str, prompt: str) -> str:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        if family == "encoder":
            return model.config.id2label[int(model(input_ids=ids).logits[0].argmax())]
        most = 1 + max(len(label.split()) for label in TASKS[task])
        written = model.generate(input_ids=ids, max_new_tokens=most)[0]
        new = written[ids.shape[1] :] if family == "decoder" else written
        return tokenizer.decode(new, skip_special_tokens=True).strip()

    return [answer(task, prompt) for task in prompts for prompt in prompts[task]]


def predictions(run: RunFolder, stage: int, tasks: tuple[str, ...]) -> list[str]:
    lines = (run.stages()[stage].folder / "predictions.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [record["prediction"].removesuffix(UNFINISHED) for record in records if record["task"] in tasks]


def asked(run: RunFolder, *tasks: str) -> dict[str, list[str]]:
    recipe = Recipe.load(run.recipe_path)
    family = load_stage(run, recipe, None)
    chosen = [task for task in load_tasks(recipe) if task.name in tasks]
    return {task.name: task_texts(task, "test", family, recipe).prompts for task in chosen}


@pytest.mark.parametrize(
    ("family", "tuning", "adapter"),
    [
        ("seq2seq", FULL, MERGED),
        ("seq2seq", {**LORA, "use_dora": True}, ADAPTER),
        ("seq2seq", INCREMENTAL, MERGED),
        ("seq2seq", INCREMENTAL, ADAPTER),
        ("decoder", FULL, MERGED),
        ("decoder", LORA, MERGED),
        ("decoder", LORA, ADAPTER),
        ("decoder", INCREMENTAL, ADAPTER),
        ("encoder", FULL, MERGED),
        ("encoder", LORA, MERGED),
        ("encoder", INCREMENTAL, ADAPTER),
    ],
)
def test_stock_libraries_give_the_runs_own_predictions_and_the_cards_examples_run(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, tuning: dict[str, Any], adapter: bool
) -> None:
    run = make(family, tuning)
    out = tmp_path / "out"
    done = export(run, out, model_card, adapter=adapter)
    given = answers(out, family, asked(run, *TASKS), adapter=adapter)
    assert given == predictions(run, 2, tuple(TASKS))
    if family == "encoder":  # not only the largest score is right
        (one, other), own = asked(run, *TASKS)["first"][:2], load_stage(run, Recipe.load(run.recipe_path), None)
        stock, tokenizer = load(out, family, adapter=adapter).eval(), own.tokenizer
        scores = [stock(input_ids=tokenizer(text, return_tensors="pt").input_ids).logits for text in (one, other)]
        torch.testing.assert_close(scores[0], own.model.eval()(**tokenizer(one, return_tensors="pt")).logits)
        assert not torch.equal(*scores)
    else:
        assert len(set(given)) > 1
    assert done.rank == (None if not adapter else 6 if tuning is INCREMENTAL else 3)
    assert (out / "model.safetensors").is_file() != adapter

    recipe = Recipe.load(run.recipe_path)
    own = load_stage(run, recipe, None)
    own.model.eval()
    for task, said in zip(load_tasks(recipe), printed(out, monkeypatch), strict=True):
        (expected,) = own.answer([str(build_prompt(task, TEXT, recipe.prompt))], task)
        assert said == expected.removesuffix(UNFINISHED.strip()).strip()
    card = Path("README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == ("peft" if adapter else "transformers")
    assert "base_model" not in front  # which has no place on the hub
    assert str(Path(recipe.model.name).parent) not in card


def test_a_stage_in_between_and_a_head_of_several(make: Any, tmp_path: Path) -> None:
    """A classifier has the rows of the tasks that it learned so far, or of the one whose head was chosen."""
    shared, out = make("encoder", FULL), tmp_path / "first"
    done = export(shared, out, model_card, stage="first")
    assert done.learned == ("first",)
    assert done.matrix.rows == [shared.read_matrix().rows[0][:1]]
    assert answers(out, "encoder", asked(shared, "first"), adapter=False) == predictions(shared, 1, ("first",))
    assert json.loads((out / "config.json").read_text())["id2label"] == {"0": "w1", "1": "w2"}

    own_heads = make("encoder", INCREMENTAL, objective={"kind": "classification", "heads": "per_task"})
    with pytest.raises(UsageError, match=r"--task: each task has a head of its own.* choose one of first, second"):
        export(own_heads, tmp_path / "none", model_card)
    with pytest.raises(UsageError, match="'secnd' was not learned, did you mean 'second'"):
        export(own_heads, tmp_path / "none", model_card, task="secnd")
    for task, adapter in [("first", MERGED), ("second", ADAPTER)]:
        out = tmp_path / f"head-{task}"
        export(own_heads, out, model_card, task=task, adapter=adapter)
        assert answers(out, "encoder", asked(own_heads, task), adapter=adapter) == predictions(own_heads, 2, (task,))
        labels = json.loads((out / "config.json").read_text())["id2label"]
        assert tuple(labels.values()) == TASKS[task]


def test_what_is_there_is_replaced_only_if_clkit_wrote_it_and_on_request(
    make: Any, toy_tasks: Path, tmp_path: Path
) -> None:
    run = make("seq2seq", LORA)
    out, theirs = tmp_path / "out", tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text("{}")
    out.mkdir()
    export(run, out, model_card)
    before = {path.name for path in out.iterdir()}
    with pytest.raises(UsageError, match=r"not empty.*--force"):
        export(run, out, model_card)
    export(run, out, model_card, replace=True, adapter=True)
    assert {path.name for path in out.iterdir()} ^ before > {"adapter_config.json", "model.safetensors"}
    (out / "README.md").write_text("# mine\n")
    with pytest.raises(UsageError, match=r"holds README.md, which was changed since"):
        export(run, out, model_card, replace=True)
    with pytest.raises(UsageError, match="was not written by clkit export"):
        export(run, theirs, model_card, replace=True)
    with pytest.raises(UsageError, match=r"--force would remove .*first-train.jsonl, which the run needs"):
        export(run, toy_tasks, model_card, replace=True)
    with pytest.raises(UsageError, match="lies in the run"):
        export(run, run.path / "out", model_card)
    with pytest.raises(UsageError, match="make it first"):
        export(run, tmp_path / "no" / "out", model_card)
    assert (out / "README.md").read_text() == "# mine\n"

    def fails(_: object) -> str:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        export(run, tmp_path / "half", fails)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "theirs"}  # nothing half made is left


def test_what_cannot_be_exported_is_refused(make: Any, tmp_path: Path) -> None:
    run = make("seq2seq", FULL)
    for how, message in [
        ({"adapter": True}, "--adapter: the run has tuning.method: full"),
        ({"task": "first"}, "--task: it chooses among the heads"),
        ({"stage": "zero-shot"}, "nothing was learned at this stage"),
    ]:
        with pytest.raises(UsageError, match=message):
            export(run, tmp_path / "out", model_card, **how)
    with pytest.raises(RunError, match="no finished stage 'thrid'"):
        export(run, tmp_path / "out", model_card, stage="thrid")
    assert not list(tmp_path.iterdir())


def printed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What each of the card's examples prints, run where the card is."""
    monkeypatch.chdir(folder)
    said = []
    card = Path("README.md").read_text("utf-8")
    for example in re.findall(r"^```python\n(.*?)^```", card, flags=re.MULTILINE | re.DOTALL):
        with redirect_stdout(io.StringIO()) as output:
            exec(compile(example, "README.md", "exec"), {})
        said.append(output.getvalue().strip())
    return said


def test_baselines_chat_templates_and_pre_training_are_exported_too(
    toy_tasks: Path, flat_llama: Path, toy_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = tmp_path / "chat"
    tokenizer = transformers.AutoTokenizer.from_pretrained(flat_llama)
    tokenizer.chat_template = "{% for message in messages %}<s> {{ message['content'] }} </s> {% endfor %}"
    transformers.AutoModelForCausalLM.from_pretrained(flat_llama).save_pretrained(chat)
    tokenizer.save_pretrained(chat)
    told = toy_recipe(toy_tasks, chat, protocol="multi_task", prompt={"chat_template": True, "style": "text"})
    run = train(told, tmp_path / "told")
    out = tmp_path / "told-out"
    done = export(run, out, model_card)
    assert done.learned == ("first", "second")
    assert "chat_template" in {path.stem for path in out.iterdir()}
    family = load_stage(run, told, None)
    family.model.eval()
    prompts = [str(use.prompt) for use in done.uses]
    assert prompts == [f"<s> {TEXT} </s> <s>"] * 2
    said = printed(out, monkeypatch)
    for task, prompt, own in zip(load_tasks(told), prompts, said, strict=True):
        framed = f"{prompt} "  # as the template writes it: its last space belongs to the answer's first token
        assert own == family.answer([framed], task)[0].removesuffix(UNFINISHED.strip()).strip()

    pretraining = {"kind": "pretraining", "block_tokens": 16}
    masked = toy_recipe(toy_tasks, toy_roberta, objective=pretraining, prompt=None, protocol="per_task", tuning=LORA)
    run = train(masked, tmp_path / "masked")
    for adapter in (MERGED, ADAPTER):
        out = tmp_path / f"masked-{adapter}"
        assert export(run, out, model_card, adapter=adapter).learned == ("second",)
        assert len(printed(out, monkeypatch)) == 1


def test_the_card_of_conversations_has_the_system_turn_that_all_share(
    tmp_path: Path, flat_t5: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turns_of(place: int) -> list[tuple[str, str]]:
        return [("system", "w3 w4")]

    def others(place: int) -> list[tuple[str, str]]:
        return [("user", f"w{place}"), ("assistant", "w2")]

    first, second = (write_task(tmp_path, name) for name in TASKS)
    tasks = [as_conversations(first, turns_of), as_conversations(second, others)]
    run = train(toy_recipe(tmp_path, flat_t5, tasks=tasks, training={"epochs": 1.0}), tmp_path / "run")
    done = export(run, tmp_path / "out", model_card)
    own, other = (str(use.prompt) for use in done.uses)
    assert f"system: w3 w4\n{TEXT}" in own
    assert "w2" not in other
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert card.count("Its inputs stood in conversations") == 1
    records = run.stages()[-1].folder / "predictions.jsonl"
    whole = records.read_text("utf-8")
    one = next(line for line in whole.splitlines() if '"first"' in line)
    for kept in (one, re.sub(r'"turns": \[.*?\], ', "", whole)):  # a single text is nobody else's; nothing is known
        records.write_text(kept, "utf-8")
        assert _before(Recipe.load(run.recipe_path).task_recipes()[0], [records.parent]) == (NO_TURNS, True)
    records.write_text(whole, "utf-8")
    recipe = Recipe.load(run.recipe_path)
    family = load_stage(run, recipe, None)
    family.model.eval()
    answers = [family.answer([one], task)[0] for one, task in zip((own, other), load_tasks(recipe), strict=True)]
    assert printed(tmp_path / "out", monkeypatch) == answers


def byte_llama(folder: Path) -> Path:
    """A Llama whose tokenizer is of bytes, which llama.cpp knows whatever else is in it; RoPE's θ is Llama 3's."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *TASKS["first"]]
    backend = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, [], byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **special)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|end|>"]})
    tokenizer.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, rope_theta=500_000.0, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("tuning", [FULL, LORA])
def test_the_converter_of_llama_cpp_reads_the_folder(toy_tasks: Path, tmp_path: Path, tuning: dict[str, Any]) -> None:
    """`CLKIT_CONVERTER="/venv/bin/python /llama.cpp/convert_hf_to_gguf.py"`: in an environment as it requires."""
    converter = os.environ.get("CLKIT_CONVERTER")
    if converter is None:
        pytest.skip("needs CLKIT_CONVERTER, the command that runs llama.cpp's convert_hf_to_gguf.py")
    recipe = toy_recipe(toy_tasks, byte_llama(tmp_path / "base"), tuning=tuning)
    out, gguf = tmp_path / "out", tmp_path / "model.gguf"
    export(train(recipe, tmp_path / "run"), out, model_card)
    subprocess.run([*shlex.split(converter), out, "--outfile", gguf, "--outtype", "f32"], check=True)
    stock, read = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=gguf.name),
        load(out, "decoder", adapter=False),
    )
    for (name, one), other in zip(read.state_dict().items(), stock.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)
    assert stock.config.rope_parameters["rope_theta"] == 500_000.0
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(stock(ids).logits, read(ids).logits)
    fields = GGUFReader(gguf).fields
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert fields["tokenizer.ggml.tokens"].contents() == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id

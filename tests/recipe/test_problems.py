"""Each problem of a recipe is one line: where it is written, which key, what is wrong, what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from clkit.errors import RecipeError
from clkit.recipe.recipe import Recipe
from clkit.strategies.contract import Strategy
from clkit.strategies.options import StrategyOptions
from clkit.strategies.registry import strategy_names

START = "name: mine\nmodel: {name: embedded:tiny-t5}\nbenchmark: {name: sample}\n"
SECTIONS = (
    "name, seed, model, benchmark, tasks, objective, prompt, data, tuning, strategies, protocol, training, evaluation, "
    "general, saving"
)
KNOWN = ", ".join(sorted(strategy_names()))
MIGU_KEYS = "name, layers, partial, threshold, mask, count_padding, hold, moments, first_task, source"
UNKNOWN_TAG = "not valid YAML: could not determine a constructor for the tag"
NAME = "letters, digits, dots, dashes and underscores, beginning with a letter or digit, at most 80 characters"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems_of(text: str | bytes) -> list[str]:
    Path("my.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        Recipe.load("my.yaml")
    return caught.value.problems


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("trainin: 3", f"unknown key 'trainin', did you mean 'training'? (known keys: {SECTIONS})"),
        (
            "training: {learning_rate: abc}",
            "training.learning_rate: 'abc' is not a number (allowed: a number above 0, up to 1000)",
        ),
        (
            "training: {learning_rate: true}",
            "training.learning_rate: true is not a number (allowed: a number above 0, up to 1000)",
        ),
        ("training: {epochs: 0}", "training.epochs: 0 is out of range (allowed: a number above 0, up to 100000)"),
        ("training: {epochs: .inf}", "training.epochs: inf is out of range (allowed: a number above 0, up to 100000)"),
        (
            "training: {batch_size: 1.5}",
            "training.batch_size: 1.5 is not a whole number (allowed: a whole number from 1, up to 1000000)",
        ),
        (
            "training: {batch_size: null}",
            "training.batch_size: null is not a whole number (allowed: a whole number from 1, up to 1000000)",
        ),
        (
            "training: {precision: bf61}",
            "training.precision: 'bf61' is not one of the choices, did you mean 'bf16'? "
            "(allowed: fp32, bf16, fp16, auto)",
        ),
        (
            "training: {precision: 3}",
            "training.precision: 3 is not one of the choices (allowed: fp32, bf16, fp16, auto)",
        ),
        (
            "training: {adam_betas: [0.9]}",
            "training.adam_betas: 1 entry given (allowed: a list of 2 entries, each entry a number from 0, below 1)",
        ),
        (
            "training: {adam_betas: [0.9, 1]}",
            "training.adam_betas[1]: 1 is out of range (allowed: a number from 0, below 1)",
        ),
        ("training: {epochs: nan}", "training.epochs: 'nan' is not a number (allowed: a number above 0, up to 100000)"),
        ("training: {per_task: {3: {epochs: 2}}}", "training.per_task: the key 3 is not text; put it in quotes"),
        (
            "training: {per_task: {topic: {epochs: 2}}}",
            "training.per_task: no task named 'topic', did you mean 'topics'? "
            "(tasks: topics, reviews, requests, emotions)",
        ),
        (
            "training: {batch_size: 10, micro_batch_size: 4}",
            "training.batch_size: 10 is no multiple of training.micro_batch_size 4",
        ),
        (
            "saving: all",
            "saving: 'all' is not a section with keys (allowed: a section with the keys models, checkpoint_minutes, "
            "checkpoint_steps, keep_checkpoints)",
        ),
        ("prompt: {task_name: yes}", "prompt.task_name: 'yes' is not true or false"),
        (
            "data: {test_per_task: few}",
            "data.test_per_task: 'few' is not a whole number (allowed: a whole number from 1 or null)",
        ),
        (
            "tuning: {rank: 3}",
            "tuning.method: missing, and 'rank' needs incremental_lora or lora (allowed: full, incremental_lora, lora)",
        ),
        (
            "tuning: {method: lor}",
            "tuning.method: 'lor' is not one of the choices, did you mean 'lora'? "
            "(allowed: full, incremental_lora, lora)",
        ),
        (
            "tuning: {method: lora, rank: 0}",
            "tuning.rank: 0 is out of range (allowed: a whole number from 1, up to 100000)",
        ),
        (
            "tuning: {method: lora, rnk: 0}",
            "tuning: unknown key 'rnk', did you mean 'rank'? (known keys: method, rank, alpha, dropout, "
            "targets, use_rslora, use_dora, init, modules_to_save)",
        ),
        ("strategies: migu", "strategies: 'migu' is not a list"),
        ("strategies: [migu]", "strategies[0]: a strategy is written as {name: migu, ...}"),
        (
            "strategies: [{name: mig}]",
            f"strategies.mig: unknown strategy 'mig', did you mean 'migu'? (known: {KNOWN}; or module:Class)",
        ),
        (
            "strategies: [{name: migu, treshold: 0.5}]",
            f"strategies.migu: unknown key 'treshold', did you mean 'threshold'? (known keys: {MIGU_KEYS})",
        ),
        (
            "strategies: [{name: migu, threshold: 1}]",
            "strategies.migu.threshold: 1 is out of range (allowed: a number above 0, below 1)",
        ),
        (
            "strategies: [{name: migu}, {name: migu}]",
            "strategies: 'migu' stands more than once; merge its options into one entry",
        ),
        ("evaluation: {split: validation}", "evaluation.split: 'validation' needs data.validation_share above 0"),
    ],
)
def test_one_problem(line: str, expected: str) -> None:
    assert problems_of(START + line) == [f"my.yaml:4: {expected}"]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("{name: 2024}", "tasks[0].name: 2024 is not text; put it in quotes (allowed: " + NAME + ")"),
        ("{name: a/b}", f"tasks.a/b.name: 'a/b' does not fit (allowed: {NAME})"),
        (
            "{name: a, labels: [x]}",
            "tasks.a.labels: 1 entry given (allowed: a list of at least 2 entries, each entry text or null)",
        ),
        ("{name: a, labels: [x, 1]}", "tasks.a.labels[1]: 1 is not text; put it in quotes"),
        ("{name: a, labels: [x, x]}", "tasks.a.labels: each label must appear once"),
        (
            "{name: a, source: {kind: file}}",
            "tasks.a.source.kind: 'file' is not one of the choices, did you mean 'files'? "
            "(allowed: files, folder, hub, prose, sample)",
        ),
        (
            "{name: a, source: {kind: folder}}",
            "tasks.a.source.folder: missing (needed: folder with `train.json`, `test.json` and `labels.json`)",
        ),
        (
            "{name: a, source: {kind: hub, dataset: d, text: t, label: l, label_names: [1, x]}}",
            "tasks.a.source.label_names: a list does not fit "
            "(allowed: a list, each entry text or a mapping from keys to text or null)",
        ),
    ],
)
def test_one_problem_of_a_task(task: str, expected: str) -> None:
    if "source" not in task:
        task = task.replace("}", ", source: {kind: sample, task: topics}}")
    text = f"name: mine\nmodel: {{name: embedded:tiny-t5}}\ntasks:\n  - {task}\n"
    assert problems_of(text) == [f"my.yaml:4: {expected}"]


def test_every_problem_is_listed_with_its_own_line() -> None:
    text = "extends: quickstart\nseed: x\nnonsense: 1\ntraining:\n  lr: 3\n  epochs: -1\n"
    assert [line.partition(" ")[0] for line in problems_of(text)] == [
        "my.yaml:3:",
        "my.yaml:2:",
        "my.yaml:5:",
        "my.yaml:6:",
    ]


def test_every_contradiction_between_sections_is_listed() -> None:
    text = "training: {batch_size: 3, micro_batch_size: 2}\nevaluation: {split: validation}\ntuning: {method: full}\n"
    text += "strategies: [{name: migu}, {name: migu}]\n"
    assert [line.split(": ")[:2] for line in problems_of("extends: quickstart\nbenchmark: {order: 9}\n" + text)] == [
        ["my.yaml:2", "benchmark.order"],
        ["my.yaml:3", "training.batch_size"],
        ["my.yaml:4", "evaluation.split"],
        ["my.yaml:6", "strategies"],
    ]


def test_a_problem_of_the_parent_is_reported_in_the_parent() -> None:
    Path("parent.yaml").write_text(f"{START}seed: -1\n")
    assert problems_of("extends: parent.yaml\nname: child\n") == [
        "parent.yaml:4: seed: -1 is out of range (allowed: a whole number from 0, below 4294967296)"
    ]


def test_a_missing_key_is_reported_for_the_file_or_its_section() -> None:
    assert problems_of("name: mine\nbenchmark: {name: sample}\nmodel:\n  revision: main\n")[0].startswith(
        "my.yaml:3: model.name: missing (needed: a hub name"
    )
    assert problems_of("benchmark: {name: sample}") == [
        "my.yaml: name: missing (needed: name of the recipe; the run folder is `runs/NAME-SEED`)",
        "my.yaml: model: missing (needed: the model that learns)",
    ]


def test_neither_benchmark_nor_tasks() -> None:
    assert problems_of("name: a\nmodel: {name: b}\n") == ["my.yaml: give exactly one of 'benchmark' and 'tasks'"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "my.yaml: the file is empty; `clkit cp quickstart FILE` makes one to start from"),
        ("# only a comment\n", "my.yaml: the file is empty; `clkit cp quickstart FILE` makes one to start from"),
        ("\n- a\n", "my.yaml:2: a recipe is a mapping of keys to values, such as `name: my_recipe`"),
        (b"name: \xff\n", "my.yaml:1: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("name: a\nseed: 1\nname: b\n", "my.yaml:3: not valid YAML: the key 'name' stands twice"),
        (
            "name: a\nmodel: {name: b\n",
            "my.yaml:3: not valid YAML: expected ',' or '}', but got '<stream end>' (in what begins on line 2)",
        ),
        (
            "name: a\n\tseed: 1\n",
            "my.yaml:2: not valid YAML: found character '\\t' that cannot start any token; "
            "indent with spaces, not with tabs",
        ),
        ("name: a\nseed: \x07\n", "my.yaml:2: not valid YAML: the character 0x7 must be escaped"),
        ("name: a\n1.5: b\n", "my.yaml:2: the key 1.5 is not text; put it in quotes"),
        ("name: a\n[b]: c\n", "my.yaml:2: the key a list or mapping is not text; put it in quotes"),
        ("name: a\nseed: !!int b\n", "my.yaml:2: not valid YAML: 'b' is no int"),
        ("name: a\nx: &x [*x]\n", "my.yaml:2: not valid YAML: an alias stands for something that it is a part of"),
        ("name: !ref b\n", "my.yaml:1: not valid YAML: could not determine a constructor for the tag '!ref'"),
        ("name: !!python/name:os.system\n", f"my.yaml:1: {UNKNOWN_TAG} 'tag:yaml.org,2002:python/name:os.system'"),
    ],
)
def test_a_file_that_is_no_recipe(text: str | bytes, expected: str) -> None:
    assert problems_of(text) == [expected]


def test_the_error_s_own_line_counts_the_others() -> None:
    Path("my.yaml").write_text("name: a\n")
    with pytest.raises(RecipeError) as caught:
        Recipe.load("my.yaml", ["seed=x"])
    assert str(caught.value).endswith(" (+1 more: `clkit validate` lists all)")


def test_an_own_strategys_pair_and_keys_say_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Options(StrategyOptions):
        name: Literal["own"]
        pair: tuple[Literal["a", "b"], int] = ("a", 1)

    own = type("Own", (Strategy,), {"name": "own", "Options": Options})
    monkeypatch.setattr("clkit.strategies.section.load_strategy", lambda name: own)
    monkeypatch.setattr("clkit.recipe.problems.load_strategy", lambda name: own)
    with pytest.raises(RecipeError, match=r"own\.pair\[0\]: 'z' is not one of the choices \(allowed: a, b\)"):
        Recipe.load("quickstart", ["strategies=[{name: own, pair: [z, 1]}]"])

"""Every shipped recipe loads, says what it is, fits the schema, and is the paper's."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from clkit.recipe.recipe import Recipe
from clkit.recipe.reference import recipe_schema
from clkit.recipe.shipped import description, shipped_recipe, shipped_recipes
from clkit.recipe.written import RecipeLoader, recipe_yaml
from clkit.suites.planning import PlannedSuite
from tools.make_reference import generated_files

SHIPPED = shipped_recipes()
#: Rows of the paper's T5 table, and what stands beside it: tuning, learning rate, strategies with MIGU's threshold.
PAPER: dict[str, tuple[str, float, list[str | float]]] = {
    "t5_ft": ("full", 1e-4, []),
    "t5_ft_random": ("full", 1e-4, ["migu", 0.7]),
    "t5_ft_replay": ("full", 1e-4, ["replay"]),
    "t5_ft_replay_migu": ("full", 1e-4, ["replay", "migu", 0.7]),
    "t5_ewc": ("full", 1e-4, ["ewc"]),
    "t5_ewc_migu": ("full", 1e-4, ["ewc", "migu", 0.7]),
    "t5_lwf": ("full", 1e-4, ["lwf"]),
    "t5_osf": ("full", 1e-4, ["osf"]),
    "t5_lora": ("lora", 1e-3, []),
    "t5_lora_migu": ("lora", 1e-3, ["migu", 0.7]),
    "t5_lora_replay": ("lora", 1e-3, ["replay"]),
    "t5_lora_replay_migu": ("lora", 1e-3, ["replay", "migu", 0.4]),
    "t5_inclora": ("incremental_lora", 1e-3, []),
    "t5_inclora_migu": ("incremental_lora", 1e-3, ["migu", 0.7]),
    "t5_olora": ("incremental_lora", 1e-3, ["olora"]),
    "t5_olora_migu": ("incremental_lora", 1e-3, ["olora", "migu", 0.05]),
    "t5_zero_shot": ("full", 1e-4, []),
    "t5_per_task": ("full", 1e-4, []),
    "t5_multi_task": ("full", 1e-4, []),
}
every_recipe = pytest.mark.parametrize("name", SHIPPED)


def test_the_shipped_recipes_are_found() -> None:
    orders = {f"t5_order{order}" for order in range(1, 7)}
    others = {"quickstart", "t5_olora_order6", "t5_olora_migu_order6", "llama_magicoder", "smollm2_order1", "minilm"}
    others |= {"roberta_das", "roberta_das_end_tasks", "qwen3_order1", "llama31_8b_own_data", "modernbert_glue"}
    assert set(SHIPPED) == {*others, *orders, *PAPER}
    assert shipped_recipe("quickstart.yaml") == shipped_recipe("quickstart") == SHIPPED["quickstart"]
    assert shipped_recipe("quickstar") is None


@every_recipe
def test_it_loads_under_its_own_name_and_opens_with_its_launch_line(name: str) -> None:
    text = SHIPPED[name].read_text()
    assert Recipe.load(name).name == name
    assert text.startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert f"\n#   clkit train {name}\n" in text
    assert description(SHIPPED[name])[-1] == "."


@every_recipe
def test_every_launch_line_of_its_header_loads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    launches = re.findall(r"^#   clkit train (\S+)(.*)$", SHIPPED[name].read_text(), re.MULTILINE)
    assert len(launches) > 1
    for recipe, rest in launches:
        Recipe.load(recipe, [word for word in rest.split() if re.match(r"[a-z_.]+=", word)])


@every_recipe
def test_it_fits_the_schema(name: str) -> None:
    written = yaml.load(SHIPPED[name].read_text(), RecipeLoader)
    jsonschema.validate(written, recipe_schema(), jsonschema.Draft202012Validator)


@every_recipe
def test_written_out_in_full_it_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    (tmp_path / "full.yaml").write_text(recipe_yaml(recipe), encoding="utf-8")
    assert Recipe.load(tmp_path / "full.yaml") == recipe


@pytest.mark.parametrize("order", range(1, 7))
def test_the_orders_share_the_papers_settings(order: int) -> None:
    recipe = Recipe.load(f"t5_order{order}")
    assert recipe.benchmark is not None
    assert (recipe.benchmark.order, recipe.model.name) == (order, "google-t5/t5-large")
    assert recipe.prompt.task_name
    assert recipe.data.train_per_label == 1000
    training = recipe.training
    assert (training.batch_size, training.learning_rate, training.epochs, training.weight_decay) == (64, 1e-4, 1, 0)
    assert {name: task.epochs for name, task in training.per_task.items()} == {5: {"WiC": 2}, 6: {"MNLI": 2}}.get(
        order, {}
    )
    assert recipe.strategies[0].model_dump() == {
        "name": "migu",
        "threshold": 0.7,
        "mask": "gradient",
        "layers": ["attention", "feed_forward"],
        "partial": False,
        "count_padding": True,
        "hold": 1,
        "moments": "all",
        "first_task": "unmasked",
        "source": "magnitude",
    }


@pytest.mark.parametrize("name", PAPER)
def test_each_row_of_the_papers_table_has_its_settings(name: str) -> None:
    recipe = Recipe.load(name)
    written: list[str | float] = []
    for options in recipe.strategies:
        written += [options.name, *([options.model_dump()["threshold"]] if options.name == "migu" else [])]
    assert (recipe.tuning.method, recipe.training.learning_rate, written) == PAPER[name]
    baseline = name.removeprefix("t5_")
    assert recipe.protocol == (baseline if baseline in ("zero_shot", "per_task", "multi_task") else "sequential")
    if recipe.tuning.method != "full":
        assert (recipe.tuning.rank, recipe.tuning.alpha, recipe.tuning.targets) == (8, 32, ["q", "v"])
        assert recipe.tuning.dropout == (0.1 if "olora" in name else 0.05)
    assert recipe.data.train_per_label == 1000
    assert recipe.training.batch_size == 64


def test_order_six_of_o_lora_weighs_each_task_as_published() -> None:
    for name in ("t5_olora_order6", "t5_olora_migu_order6"):
        recipe = Recipe.load(name)
        tasks = [task.name for task in recipe.task_recipes()]
        options = recipe.strategies[0].model_dump()
        own = options["per_task"]

        def weight(task: str, key: str, own: dict = own, options: dict = options) -> float:
            value = own.get(task, {}).get(key)
            return options[key] if value is None else value

        assert [weight(task, "lambda1") for task in tasks] == [0] + [0.5] * 8 + [5] * 6
        assert {task: weight(task, "lambda2") for task in tasks if weight(task, "lambda2")} == {
            **dict.fromkeys(["COPA", "QQP", "SST-2", "yahoo", "BoolQA"], 0.1),
            **dict.fromkeys(["RTE", "WiC"], 0.3),
        }
        assert recipe.training.per_task["MNLI"].epochs == 2


def test_instruction_tuning_of_llama_has_the_papers_settings() -> None:
    recipe = Recipe.load("llama_magicoder")
    tuning, training = recipe.tuning, recipe.training
    assert tuning.method == "lora"
    assert (tuning.alpha, tuning.dropout, recipe.model.dtype) == (32, 0.05, "bfloat16")
    assert (training.epochs, training.learning_rate, training.schedule, training.warmup_ratio) == (
        32,
        5e-4,
        "cosine",
        0.1,
    )
    assert (training.adam_betas, training.weight_decay) == ([0.9, 0.95], 0)
    options = recipe.strategies[0].model_dump()
    assert (options["threshold"], options["first_task"]) == (0.7, "masked"), "there is no later task"
    assert recipe.general is not None
    assert recipe.general.lm_eval is not None
    assert recipe.general.lm_eval.tasks == ["hellaswag", "winogrande", "arc_challenge"]
    (task,) = recipe.task_recipes()
    assert task.answers == "free"
    assert task.source.model_dump(include={"train_split", "test_split", "text", "label"}) == {
        "train_split": "train[:20%]",
        "test_split": "train[95%:]",
        "text": "instruction",
        "label": "response",
    }


def test_qwen3_has_the_published_settings_and_its_header_the_numbers_of_the_table() -> None:
    recipe = Recipe.load("qwen3_order1")
    tuning = recipe.tuning
    assert tuning.method == "lora"
    assert (tuning.rank, tuning.alpha, tuning.targets, recipe.training.epochs) == (8, 32, ["q_proj", "v_proj"], 10)
    assert [task.name for task in recipe.task_recipes()] == ["dbpedia", "amazon", "yahoo", "agnews"]
    table = Path(__file__).parents[2].joinpath("benchmarks/README.md").read_text("utf-8")
    rows = re.findall(r"^\| .* \| (\S+) \| (\S+) \| .* `clkit sweep qwen3_table --only (\w+)` \|$", table, re.MULTILINE)
    assert [row[2] for row in rows] == [*PlannedSuite.load("qwen3_table").suite.methods]
    header = SHIPPED["qwen3_order1"].read_text("utf-8").replace("-", "−")
    for average, bwt, _ in rows:
        assert (average if bwt == "–" else f"{average} / {bwt}") in header


def test_das_is_pre_trained_and_fine_tuned_as_published() -> None:
    recipe, end_tasks = Recipe.load("roberta_das"), Recipe.load("roberta_das_end_tasks")
    assert recipe.model == end_tasks.model
    assert recipe.model.name == "FacebookAI/roberta-base"
    assert [task.name for task in recipe.task_recipes()] == ["restaurant", "acl", "ai", "phone", "pubmed", "camera"]
    training = recipe.training
    assert (training.batch_size, training.learning_rate, training.schedule) == (248, 1e-4, "linear")
    assert (training.weight_decay, training.epochs, recipe.metric) == (0, 1, "perplexity")
    assert [(options.name, options.model_dump()["threshold"]) for options in recipe.strategies] == [("migu", 0.7)]
    training = end_tasks.training
    assert (training.batch_size, training.learning_rate, training.schedule) == (16, 3e-5, "linear")
    assert (training.weight_decay, end_tasks.protocol, end_tasks.metric) == (0.01, "per_task", "macro_f1")
    classes = [len(task.labels or ()) for task in end_tasks.task_recipes()]
    assert classes == [3, 6, 7, 2, 13, 2]  # those of the table in DAS's README


@pytest.mark.parametrize("path", generated_files(), ids=lambda path: path.name)
def test_generated_files_are_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == generated_files()[path], "run: python -m tools.make_reference"

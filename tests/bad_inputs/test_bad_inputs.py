"""Every bad input of the corpus gets its exact message: messages are read and reviewed like code."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clkit.engine.sequence import train
from clkit.report.console import quiet_libraries
from tests.bad_inputs.corpus import Case, arguments_of, call, lay_out, read_cases
from tests.toy import toy_recipe

CASES = read_cases()
#: The folders that a case can copy, by name.
Sources = Mapping[str, Path]


@pytest.fixture(scope="session")
def sources(toy_t5: Path, toy_llama: Path, toy_roberta: Path, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """What a case can copy: models (`short` has a table of 24 positions), and finished runs of two tasks.

    Of the runs `low` has another learning rate, and `last` keeps the adapter of its last stage only.
    """
    folder = tmp_path_factory.mktemp("sources")
    blocks = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    write_random(folder / "mixture", toy_llama, "qwen2_moe", **blocks, **experts, shared_expert_intermediate_size=16)
    write_random(folder / "short", toy_llama, "gpt2", n_embd=16, n_layer=1, n_head=2, n_positions=24)
    models = {"model": toy_t5, "llama": toy_llama, "roberta": toy_roberta}
    models |= {name: folder / name for name in ("mixture", "short")}
    quick: dict[str, Any] = {"training": {"epochs": 0.4}, "data": {"test_per_task": 4}}
    changes: dict[str, dict[str, Any]] = {
        "run": {},
        "low": {"training": {"epochs": 0.4, "learning_rate": 1e-4}},
        "last": {"tuning": {"method": "lora", "rank": 2}, "saving": {"models": "last"}},
    }
    runs = {name: train(toy_recipe(folder, toy_t5, **quick | own), folder / name).path for name, own in changes.items()}
    return models | runs


def write_random(folder: Path, tokenizer: Path, kind: str, **sizes: int) -> None:
    """A random decoder with another's tokenizer."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[kind](vocab_size=41, pad_token_id=0, eos_token_id=1, bos_token_id=40, **sizes)
    shutil.copytree(tokenizer, folder)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def test_the_corpus_is_large_and_each_case_stands_once() -> None:
    names = [case.case for case in CASES]
    assert len(names) >= 60
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.case.replace(" ", "-"))
def test_message(
    case: Case,
    tmp_path: Path,
    sources: Sources,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lay_out(case, tmp_path, sources)
    monkeypatch.chdir(tmp_path)
    code = call(arguments_of(case, sources["model"]), monkeypatch)
    printed = capsys.readouterr()

    def shown(text: str) -> str:
        return text.replace(str(tmp_path), "{here}").replace(str(sources["model"]), "{model}").strip()

    assert (shown(printed.err), shown(printed.out), code) == (case.stderr.strip(), case.stdout.strip(), case.exit)
    assert len(printed.err.splitlines()) <= 1


#: What only weights show, or what the tokenizer makes of the data.
ONLY_LOADED = {
    "weights that are not a number",
    "weights that are infinite",
    "weights without one",
    "a configuration with fewer layers than weights",
    "an index of weights that says nothing",
    "a tokenizer without words",
    "a tokenizer without an end",
    "labels that a tokenizer cannot spell",
    "answers that a tokenizer cannot spell",
    "prompts beyond a model's positions",
    "answers that no test has room for",
    "a data set of the hub without a network",
}
#: What it says in words of its own.
OWN_WORDS = {"a data file that is not there"}


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.command.endswith("--dry-run") and "--run" not in case.command],
    ids=lambda case: case.case.replace(" ", "-"),
)
def test_validate_refuses_what_a_dry_run_refuses(
    case: Case,
    tmp_path: Path,
    sources: Sources,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lay_out(case, tmp_path, sources)
    monkeypatch.chdir(tmp_path)
    _, *arguments, _ = arguments_of(case, sources["model"])
    code = call(["validate", *arguments], monkeypatch)
    printed = capsys.readouterr()
    said = case.stderr.strip().removeprefix("error: ").replace("{here}", str(tmp_path))
    told = said.replace("{model}", str(sources["model"])).partition(" (+")[0] in printed.out
    known = case.case not in ONLY_LOADED
    assert (code, told or case.case in OWN_WORDS) == ((2, True) if known else (0, False)), printed.out + printed.err


def test_the_hubs_retries_add_no_lines() -> None:
    """Without a network, and without HF_HUB_OFFLINE, the hub's client tries six times and warns each time."""
    quiet_libraries()
    assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)

"""The families and objectives on which the contract suite runs the strategies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clkit.engine.prepare import labels_of, load_learner
from clkit.recipe.inputs import load_tasks
from clkit.recipe.recipe import Recipe
from clkit.run.folder import RunFolder
from clkit.strategies.contract import Strategy
from tests.toy import toy_recipe

Weights = dict[str, torch.Tensor]

TUNINGS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "rank": 4},
    "incremental_lora": {"method": "incremental_lora", "rank": 4},
}


@dataclass(frozen=True)
class Setting:
    """A family with an objective: the fixture of its model, and what the toy's recipe says of the objective."""

    family: str
    model: str
    changes: dict[str, Any] = field(default_factory=dict)


#: Blocks so small that a toy task has about as many of them as it has examples.
PRETRAINING = {"objective": {"kind": "pretraining", "block_tokens": 8}, "prompt": None}
CLASSIFICATION = {"objective": {"kind": "classification"}}
SETTINGS = {
    "seq2seq": Setting("seq2seq", "flat_t5"),
    "decoder": Setting("decoder", "flat_llama"),
    "encoder": Setting("encoder", "flat_roberta", CLASSIFICATION),
    "encoder-heads": Setting(
        "encoder", "flat_roberta", {"objective": {**CLASSIFICATION["objective"], "heads": "per_task"}}
    ),
    "seq2seq-pretraining": Setting("seq2seq", "toy_t5_with_sentinels", PRETRAINING),
    "decoder-pretraining": Setting("decoder", "flat_llama", PRETRAINING),
    "encoder-pretraining": Setting("encoder", "flat_roberta", PRETRAINING),
}
#: One setting of each family.
FAMILIES = ("seq2seq", "decoder", "encoder")


@dataclass(frozen=True)
class Case:
    """What one strategy is run on."""

    setting: str
    tuning: str

    def __str__(self) -> str:
        return f"{self.setting}-{self.tuning}"


def cases(strategy: type[Strategy], settings: tuple[str, ...]) -> list[Case]:
    """What a strategy is run on: every tuning that it supports on T5, full and LoRA elsewhere, one for pretraining.

    Where it supports neither of the two, one that it does stands for them.
    """
    supported = [tuning for tuning in TUNINGS if tuning in strategy.tunings]
    others = [tuning for tuning in supported if tuning != "incremental_lora"] or supported
    tunings = {name: others[:1] if name.endswith("pretraining") else others for name in SETTINGS}
    tunings["seq2seq"] = supported
    return [
        Case(name, tuning)
        for name in settings
        if SETTINGS[name].family in strategy.families
        for tuning in tunings[name]
    ]


def contract_recipe(folder: Path, model: Path, case: Case, strategies: list[dict[str, Any]]) -> Recipe:
    """The toy's recipe for a case; ``folder`` takes its data."""
    return toy_recipe(
        folder,
        model,
        tuning=TUNINGS[case.tuning],
        strategies=strategies,
        evaluation={"tasks": "all", "zero_shot": False},
        **SETTINGS[case.setting].changes,
    )


def weights(run: RunFolder, recipe: Recipe) -> list[Weights]:
    """The parameters of the model before the first task, and as it was saved after each."""
    tasks, folders = load_tasks(recipe), [stage.folder for stage in run.stages()]
    stages = (folders[:stage] for stage in range(len(folders) + 1))
    return [dict(load_learner(recipe, labels_of(tasks), learned).model.named_parameters()) for learned in stages]

"""One task as a recipe describes it: where its examples come from, its labels and its instruction."""

from __future__ import annotations

import re
from functools import reduce
from importlib import import_module
from operator import or_
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from clkit.section import DataPath, Section
from clkit.tasks import sources
from clkit.tasks.source import SourceSection, Wanted

# A name becomes part of a folder name in the run, so it must not be able to leave that folder.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
# With any ending, these are devices on Windows, and no folder can be called so.
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def _usable(name: str) -> str:
    if _DEVICES.fullmatch(name):
        raise ValueError(f"'{name}' is a device on Windows, where no folder can be called so; choose another name")
    if name.endswith("."):
        raise ValueError(f"'{name}' ends in a dot, which Windows drops from a folder's name; choose another name")
    return name


Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=80), AfterValidator(_usable)]


def _sources() -> list[type[SourceSection]]:
    """The sections of the sources: each file of `clkit/tasks/sources/` holds one."""
    modules = [import_module(f"{sources.__name__}.{module.name}") for module in iter_modules(sources.__path__)]
    found = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, SourceSection) and value.__module__ == module.__name__
    ]
    return sorted(found, key=lambda section: (section.rank, section.__name__))


if TYPE_CHECKING:
    AnySource = SourceSection
else:
    AnySource = Annotated[reduce(or_, _sources()), Field(discriminator="kind")]


class TaskRecipe(Section):
    """One task of the sequence."""

    name: Name = Field(description="Name of the task: letters, digits, dots, dashes and underscores.")
    source: AnySource = Field(description="Where the examples come from.")
    answers: Literal["labels", "free"] = Field(
        "labels", description="`labels`: each answer is one of the labels. `free`: any text."
    )
    labels: list[str] | None = Field(
        None,
        min_length=2,
        description="The labels in the order of the prompt. Without it, those of the source: "
        "`labels.json`, the data set's names, or the distinct training labels.",
    )
    options: bool = Field(True, description="Whether the labels stand in the prompt (`Option:` line).")
    instruction: str | None = Field(None, description="Question placed before the input.")
    group: str | None = Field(None, description="Kind of task (`Task:` line of the prompt); the name where absent.")

    @model_validator(mode="after")
    def _labels_fit_answers(self) -> TaskRecipe:
        if self.answers == "free" and self.labels is not None:
            raise ValueError("labels: remove it, or set answers: labels (free-form answers have no labels)")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each label must appear once")
        for label in self.labels or ():
            if label != label.strip():
                raise ValueError(
                    f"labels: white space stands around {label!r}, which is dropped in the data; remove it"
                )
            if label in self.source.missing:
                raise ValueError(f"labels: '{label}' is in source.missing too; remove it from one of the two")
        return self

    def wanted(self, *, plain_text: bool, tested: bool = True) -> Wanted:
        """What the task wants of its source."""
        labels = self.answers == "labels" and self.labels is None and not plain_text
        return Wanted(self.name, labels, plain_text, tested)


class BenchmarkSection(Section):
    """A named sequence of tasks."""

    name: Name = Field(
        description="`standard_cl`, `long_cl`, `short_cl`, or `sample` (built in); `clkit ls benchmarks`."
    )
    order: Annotated[int, Field(ge=1)] = Field(
        1, description="Order of the tasks; `standard_cl` and `long_cl` are numbered as in the MIGU paper."
    )
    folder: DataPath | None = Field(
        None, description="Read the tasks from this folder in the CL_Benchmark layout instead of from the hub."
    )


class PromptSection(Section):
    """How an example becomes a prompt."""

    style: Literal["paper", "text"] = Field(
        "paper",
        description="`paper`: instruction, options, sentence and `Answer:`, each on a line. `text`: the sentence "
        "alone, as suits classification and instruction tuning.",
    )
    chat_template: bool = Field(
        False, description="Put the prompt into the tokenizer's chat template, as a user's turn; decoder models."
    )
    task_name: bool = Field(
        False,
        description="Put `Task:` and `Dataset:` lines before each prompt, as the papers do. "
        "They tell the model which task it sees, at test time too.",
    )
    max_tokens: Annotated[int, Field(ge=16)] = Field(
        512,
        description="Longest prompt in tokens, in training and tests. Shortened, it loses the oldest turns of its "
        "conversation and then the end of its sentence, never its instruction.",
    )
    max_answer_tokens: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="Longest free answer that is learned, in tokens, its end included; shortened, it loses its end. "
        "Null: any length.",
    )
    max_conversation_tokens: Annotated[int, Field(ge=16)] | None = Field(
        None,
        description="Longest prompt and free answer together that are learned, in tokens; shortened, it loses what a "
        "prompt loses. Null: any length.",
    )
    on_too_long: Literal["error", "shorten", "drop"] = Field(
        "shorten",
        description="What to do with a longer one: stop, with its file and line; shorten it; or leave the training "
        "example out and count it. Of tests none is left out: there `drop` shortens prompts.",
    )


class DataSection(Section):
    """How much of each task's data is used. The recipe's seed draws training rows, and `seed` here all others."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        42,
        description="Seed of the draw of test and validation rows. It is apart from the recipe's, so that runs with "
        "other seeds are tested on the same rows, and their scores pair.",
    )
    train_per_task: Annotated[int, Field(ge=1)] | None = Field(None, description="At most so many training examples.")
    train_per_label: Annotated[int, Field(ge=1)] | None = Field(
        None, description="At most so many training examples of each label."
    )
    test_per_task: Annotated[int, Field(ge=1)] | None = Field(None, description="At most so many test examples.")
    validation_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of each task's training examples that is set aside for validation."
    )

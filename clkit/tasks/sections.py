"""One task as a recipe describes it: where its examples come from, its labels and its instruction."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from clkit.section import DataPath, HubOrFolder, Section

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

TEXT = (
    "Column that holds the input, or a template with columns in braces "
    "(`sentence 1: {premise}`) where the input is made of several."
)
MESSAGES = (
    "Instead of `text` and `label`, the column of conversations: lists of turns with `role` and `content`. The last "
    "assistant's turn is the answer (mostly `answers: free`), what is before it the input."
)


class SourceSection(Section):
    """Where a task's examples come from."""

    @property
    def unlabelled(self) -> str | None:
        """The key that would name the answers, where the source has none, so that only pretraining can use it."""
        return None

    @property
    def holds_conversations(self) -> bool:
        """Whether inputs and answers are turns of conversations, which pretraining cannot use."""
        return False


def _refuse_beside_messages(messages: str | None, **given: object) -> None:
    useless = next((key for key, value in given.items() if value is not None), None)
    if messages is not None and useless is not None:
        raise ValueError(f"{useless}: messages: {messages} holds input and answer; remove one of the two")


class FolderSource(SourceSection):
    """A folder in the CL_Benchmark layout: `train.json`, `test.json`, `labels.json`."""

    kind: Literal["folder"] = Field(description="A folder in the CL_Benchmark layout.")
    folder: DataPath = Field(description="Folder with `train.json`, `test.json` and `labels.json`.")


class HubSource(SourceSection):
    """A data set of the Hugging Face hub."""

    kind: Literal["hub"] = Field(description="A data set of the Hugging Face hub.")
    dataset: HubOrFolder = Field(
        description="Name on the hub, for example `fancyzhx/ag_news`, or a local folder of data files."
    )
    config: str | None = Field(None, description="Configuration (subset) of the data set.")
    revision: str | None = Field(None, description="Branch, tag or commit of the data set.")
    train_split: str = Field("train", description="Split to train on, or a part of one: `train[:20%]`.")
    test_split: str = Field(
        "test", description="Split to test on; `train[95%:]` where there is none, and `train[:95%]` to train on."
    )
    text: str | None = Field(None, description=TEXT)
    label: str | None = Field(
        None, description="Column that holds the label or the answer; null for pretraining, which reads none."
    )
    messages: str | None = Field(None, description=MESSAGES)
    label_names: list[str] | dict[int | str, str] | None = Field(
        None,
        description="Names of the values in the label column: a list indexed by number, or a mapping. "
        "Without it the data set's own names are used.",
    )

    @model_validator(mode="after")
    def _has_one_kind_of_input(self) -> HubSource:
        if self.text is None and self.messages is None:
            raise ValueError("text: missing; name the column that holds the input, or that of conversations: messages")
        _refuse_beside_messages(self.messages, text=self.text, label=self.label, label_names=self.label_names)
        if self.revision is not None and Path(self.dataset).is_absolute():
            raise ValueError(f"revision: '{self.dataset}' is a folder, and revisions are on the hub; remove it")
        return self

    @property
    def unlabelled(self) -> str | None:
        return "label" if self.label is None and self.messages is None else None

    @property
    def holds_conversations(self) -> bool:
        return self.messages is not None


class FilesSource(SourceSection):
    """Files of the user's own: JSONL, CSV, or plain text, whose documents are parted by blank lines."""

    kind: Literal["files"] = Field(description="JSONL (`.jsonl`), CSV (`.csv`) or, for pretraining, `.txt` files.")
    train: DataPath = Field(description="File to train on.")
    test: DataPath = Field(description="File to test on.")
    text: str = Field("text", description=TEXT)
    label: str = Field("label", description="Column that holds the label or the answer; pretraining reads none.")
    messages: str | None = Field(None, description=MESSAGES + " JSONL only.")

    @model_validator(mode="after")
    def _has_one_kind_of_input(self) -> FilesSource:
        own = {key: None if value == key else value for key, value in (("text", self.text), ("label", self.label))}
        _refuse_beside_messages(self.messages, **own)
        if self._plain == ["train", "test"]:
            columns = {**own, "messages": self.messages}
            useless = next((key for key, value in columns.items() if value is not None), None)
            if useless is not None:
                raise ValueError(f"{useless}: a .txt file has no columns; remove it")
        return self

    @property
    def _plain(self) -> list[str]:
        """The uses of files that hold nothing but text."""
        return [use for use in ("train", "test") if getattr(self, use).lower().endswith(".txt")]

    @property
    def unlabelled(self) -> str | None:
        return next(iter(self._plain), None)

    @property
    def holds_conversations(self) -> bool:
        return self.messages is not None


class SampleSource(SourceSection):
    """A task of the sample that is built into clkit."""

    kind: Literal["sample"] = Field(description="The sample that is built into clkit.")
    task: str = Field(description="Name of a task of the built-in sample.")


Source = Annotated[FolderSource | HubSource | FilesSource | SampleSource, Field(discriminator="kind")]


class TaskRecipe(Section):
    """One task of the sequence."""

    name: Name = Field(description="Name of the task: letters, digits, dots, dashes and underscores.")
    source: Source = Field(description="Where the examples come from.")
    answers: Literal["labels", "free"] = Field(
        "labels", description="`labels`: each answer is one of the labels. `free`: any text."
    )
    labels: list[str] | None = Field(
        None,
        min_length=2,
        description="The labels in the order of the prompt. Without it, those of the source: "
        "`labels.json`, the data set's names, or the distinct training labels.",
    )
    instruction: str | None = Field(None, description="Question placed before the input.")
    group: str | None = Field(None, description="Kind of task (`Task:` line of the prompt); the name where absent.")

    @model_validator(mode="after")
    def _labels_fit_answers(self) -> TaskRecipe:
        if self.answers == "free" and self.labels is not None:
            raise ValueError("labels: remove it, or set answers: labels (free-form answers have no labels)")
        if self.labels is not None and len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each label must appear once")
        return self


class BenchmarkSection(Section):
    """A named sequence of tasks."""

    name: Name = Field(description="`standard_cl`, `long_cl`, or `sample` (built in). `clkit ls benchmarks` lists all.")
    order: Annotated[int, Field(ge=1)] = Field(1, description="Order of the tasks, numbered as in the MIGU paper.")
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
        512, description="Longest prompt in tokens; a longer one loses the end of its sentence, never its instruction."
    )


class DataSection(Section):
    """How much of each task's data is used. Draws are seeded by the recipe's seed."""

    train_per_task: Annotated[int, Field(ge=1)] | None = Field(None, description="At most so many training examples.")
    train_per_label: Annotated[int, Field(ge=1)] | None = Field(
        None, description="At most so many training examples of each label."
    )
    test_per_task: Annotated[int, Field(ge=1)] | None = Field(None, description="At most so many test examples.")
    validation_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of each task's training examples that is set aside for validation."
    )

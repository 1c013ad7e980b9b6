"""Reads the English prose that is built into clkit: some text of the kind that models were pre-trained on."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from clkit.tasks.records import documents
from clkit.tasks.source import Source, SourceSection, Wanted

_FILE = Path(__file__).parents[1] / "prose.txt"


class ProseSource(SourceSection):
    """English prose of 1,200 words that is built into clkit; general data for `replay`."""

    rank: ClassVar[int] = 5
    kind: Literal["prose"] = Field(
        description="English prose of 1,200 words that is built into clkit: general data for `replay`, to try it out."
    )

    @property
    def unlabelled(self) -> str:
        return "kind"

    @property
    def untested(self) -> str:
        return "kind: prose has no test split; it is for strategies.replay.general"

    def read(self, wanted: Wanted) -> Source:
        return Source(self.rows(documents(_FILE), self.columns(wanted, "text", None), "prose"), None)


def built_in_prose() -> str:
    """English prose of 1,200 words to measure general ability on (`general.texts: builtin`).

    All of it is in the public domain: passages of the US Declaration of Independence (1776), Austen's Pride and
    Prejudice (1813), Lincoln's Gettysburg Address (1863), Carroll's Alice's Adventures in Wonderland (1865), Darwin's
    On the Origin of Species (1859), Melville's Moby-Dick (1851), Federalist No. 51 (1788) and Dickens's A Tale of Two
    Cities (1859).

    Large models know such passages by heart. So a rise of the loss shows early what is being lost, but the loss itself
    says little about text that a model has never seen.
    """
    return _FILE.read_text("utf-8")

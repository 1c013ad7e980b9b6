"""What a recipe says of how and when the tasks are tested."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clkit.results.answers import Comparison, Normaliser
from clkit.results.kinds import MetricName
from clkit.section import Section


class EvaluationSection(Section):
    """How and when the tasks are tested."""

    tasks: Literal["seen", "all", "final"] = Field(
        "seen",
        description="After each task test all tasks `seen` so far, or `all` of the sequence; "
        "`final`: only after the last task.",
    )
    zero_shot: bool = Field(True, description="Test all tasks once before the first is trained (needed for FWT).")
    split: Literal["test", "validation"] = Field(
        "test", description="Split to test on; `validation` needs `data.validation_share`. Tune on `validation` only."
    )
    metric: MetricName | None = Field(
        None,
        description="What the matrix holds: `exact_match` (accuracy), `macro_f1` over the labels, `token_f1` "
        "or `rouge_l` of free answers, or `loss` or `perplexity` per token, for which lower is better. Null: "
        "perplexity for pretraining, else exact_match.",
    )
    answer: Literal["generate", "rank", "both"] = Field(
        "generate",
        description="`generate` greedily, or `rank` the labels by their likelihood. `both`: the matrix holds what was "
        "generated, and `clkit matrix --metric accuracy_ranked` shows the other.",
    )
    normalise: Normaliser = Field(
        "default",
        description="What makes two answers the same. `default`: lower case, no punctuation but within numbers. "
        "`squad`: as SQuAD's evaluation, without punctuation and articles. `none`: as written, trimmed.",
    )
    numbers: bool = Field(
        False, description="Compare answers that are numbers by value: 1,000 is 1000.0. Concerns whole answers."
    )
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        64,
        description="Examples of similar length per batch, at most, where they are as long as a task's longest; of "
        "shorter ones, as many as have no more tokens in all, up to four times that number.",
    )
    max_new_tokens: Annotated[int, Field(ge=1)] = Field(
        50, description="Longest free-form answer in tokens; tasks with labels stop after their longest label."
    )

    @property
    def comparison(self) -> Comparison:
        """How answers are compared."""
        return Comparison(self.normalise, self.numbers)

"""What scores are called: how tasks were learned, and what they are scored by."""

from __future__ import annotations

from typing import Literal

Row = list[float | None]

#: How the tasks were learned: one after another, or in one of three baselines.
Protocol = Literal["sequential", "multi_task", "per_task", "zero_shot"]

#: What a task can be scored by.
MetricName = Literal["exact_match", "macro_f1", "token_f1", "rouge_l", "loss", "perplexity"]

# Every other metric is a fraction: its scores lie between 0 and 1 and are shown in percent.
UNBOUNDED = frozenset({"loss", "perplexity"})
#: How much of the right answer stands in the one that was given (`clkit.results.answers`).
OVERLAPS = frozenset({"token_f1", "rouge_l"})
#: Scores that a test gives besides: answers that are none of the task's labels, and the right ones where labels are
#: ranked by their likelihood while the matrix holds what was generated (`evaluation.answer: both`).
OUTSIDE, RANKED = "outside_labels", "accuracy_ranked"
LOWER_IS_BETTER = UNBOUNDED | {OUTSIDE}

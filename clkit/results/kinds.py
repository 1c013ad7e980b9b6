"""What scores are called: how tasks were learned, and what they are scored by."""

from __future__ import annotations

from typing import Literal

Row = list[float | None]

#: How the tasks were learned: one after another, or in one of three baselines.
Protocol = Literal["sequential", "multi_task", "per_task", "zero_shot"]

#: What a task can be scored by.
MetricName = Literal["exact_match", "macro_f1", "loss", "perplexity"]

# Lower is better for these. Every other metric is a fraction: its scores lie between 0 and 1 and are shown in percent.
UNBOUNDED = frozenset({"loss", "perplexity"})

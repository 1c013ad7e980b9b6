"""What a run is going to do, in words and as a table."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from clkit.events import Plan

#: What a plan says of its tasks beside their number.
_LEARNED = {
    "sequential": "",
    "multi_task": " learned together",
    "per_task": ", each learned alone",
    "zero_shot": ", none learned",
}


def model_line(plan: Plan) -> str:
    model = plan.model
    share = model["trainable"] / model["parameters"]
    trained = f", {model['trainable']:,} trained ({share:.1%})" if plan.steps else ""
    remarks = "".join(f"; {remark}" for remark in model["remarks"])
    kept = "".join(f"; {name} keeps {_megabytes(size)}" for name, size in plan.memory.items())
    return (
        f"{plan.name}: {len(plan.tasks)} tasks{_LEARNED[plan.protocol]}, {model['family']} model, "
        f"{model['parameters']:,} parameters{trained}{remarks}{kept}"
    )


def print_plan(console: Console, plan: Plan) -> None:
    """What a run is going to do: its tasks with their sizes and steps, and the model."""
    table = Table("task", "train", "test", "steps", "without label", box=None, pad_edge=False)
    for name, (train, test), dropped in zip(plan.tasks, plan.examples, plan.dropped, strict=True):
        steps = f"{plan.steps[name]:,}" if name in plan.steps else "–"
        table.add_row(name, f"{train:,}", f"{test:,}", steps, dropped_rows(dropped) or "–")
    for stage in plan.steps.keys() - set(plan.tasks):  # one that learns all tasks
        train, test = (sum(sizes) for sizes in zip(*plan.examples, strict=True))
        table.add_row(stage, f"{train:,}", f"{test:,}", f"{plan.steps[stage]:,}", "–")
    console.print(model_line(plan))
    console.print(table)
    for remark in plan.remarks:
        console.print(f"note: {remark}", highlight=False, markup=False, soft_wrap=True)


def _megabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def dropped_rows(dropped: Mapping[str, int]) -> str:
    """How many rows without a gold label were left out, by split; nothing where none was."""
    return ", ".join(f"{count:,} {split}" for split, count in dropped.items() if count)

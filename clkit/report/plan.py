"""What a run is going to do, before it does: the model, the tasks, their steps, labels and an example of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table

from clkit.errors import printable
from clkit.events import Footprint, Plan
from clkit.wording import between, counts_by_name

NEWLINE, GAP = "↵", " … "
_INDENT = 10
#: So many tasks have room for three lines of a prompt.
_FEW_TASKS = 5

_NO_WAY = (
    "it does not fit, nor would it with micro-batches of one, gradient checkpointing, bfloat16 and 4 bits as far as "
    "they are possible here; take a smaller model, shorter prompts, or tuning.method=lora where all is trained"
)

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
    trained = f", {model['trainable']:,} trained ({share:.1%})" if any(plan.steps.values()) else ""
    remarks = "".join(f"; {remark}" for remark in model["remarks"])
    kept = "".join(f"; {name} keeps {_megabytes(size)}" for name, size in plan.memory.items())
    return (
        f"{plan.name}: {len(plan.tasks)} tasks{_LEARNED[plan.protocol]}, {model['family']} model, "
        f"{model['parameters']:,} parameters{trained}{remarks}{kept}"
    )


def going_on(plan: Plan) -> list[str]:
    """What a run brings along that goes on, a line each; nothing of one that begins."""
    if not plan.finished:
        return []
    new = f"; new: {', '.join(plan.new)}" if plan.new else ""
    brought = [f"{name} brings {kept}" for name, kept in plan.brought.items()]
    return [f"finished, and left as it is: {', '.join(plan.finished)}{new}", *brought]


def footprint_lines(found: Footprint) -> Iterator[str]:
    """What a step takes of the device, and where that is more than it has, what to change."""
    total, (examples, tokens) = sum(found.memory.values()), found.batch
    parts = ", ".join(f"{name} {_megabytes(size)}" for name, size in found.memory.items())
    yield (
        f"memory: about {_megabytes(total)} of {_megabytes(found.room)} ({found.device}) with {examples} × {tokens} "
        f"tokens: {parts}"
    )
    if found.seconds is not None:
        yield f"time: about {found.seconds:,.2g} s a step"
    else:
        yield f"time: {found.operations / 1e12:,.2g} · 10¹² operations a step"
    if total > found.room:
        yield "it does not fit; this would:" if found.ways else _NO_WAY
    yield from (f"  {change}   {_megabytes(size)}" for change, size in found.ways)


def print_plan(console: Console, plan: Plan) -> None:
    """What a run is going to do: the model, its tasks with their sizes, steps, labels and an example, and remarks."""
    table = Table("task", "train", "test", "steps", "left out", box=None, pad_edge=False)
    for name, (train, test), dropped in zip(plan.tasks, plan.examples, plan.dropped, strict=True):
        steps = "finished" if name in plan.finished else f"{plan.steps[name]:,}" if name in plan.steps else "–"
        known = "gone" if train is None else f"{train:,}"
        table.add_row(name, known, f"{test:,}", steps, counts_by_name(dropped) or "–")
    for stage in plan.steps.keys() - set(plan.tasks):  # one that learns all tasks
        train, test = (sum(size or 0 for size in sizes) for sizes in zip(*plan.examples, strict=True))
        table.add_row(stage, f"{train:,}", f"{test:,}", f"{plan.steps[stage]:,}", "–")
    console.print(model_line(plan))
    console.print(table)
    for line in [*going_on(plan), *(footprint_lines(plan.footprint) if plan.footprint else ())]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for line in _examples(plan, console.width):
        console.print(line, soft_wrap=True)
    for remark in plan.remarks:
        console.print(f"note: {remark}", highlight=False, markup=False, soft_wrap=True)


def _examples(plan: Plan, width: int) -> Iterator[str]:
    """Each task's labels and first example in lines of at most ``width`` characters; few where there are many tasks."""
    room = max(width - _INDENT, 20)
    lines = 3 if len(plan.tasks) <= _FEW_TASKS else 1
    for name, counts, (prompt, answer) in zip(plan.tasks, plan.labels, plan.samples, strict=False):
        yield f"\n{name}"
        told = {"labels": _labels(counts, room), "prompt": _one_line(prompt)}
        told["answer" if prompt else "text"] = _one_line(answer)
        for head, text in told.items():
            for index, piece in enumerate(chop_cells(_shortened(text, lines * room), room) if text else []):
                yield f"  {head if index == 0 else '':{_INDENT - 2}}{piece}"
    if plan.samples and plan.remarks:
        yield ""


def _labels(counts: Mapping[str, int | None], room: int) -> str:
    """The labels with their training examples, as far as these are known, or so many as there is room for."""
    known = [count for count in counts.values() if count is not None]
    listed = ", ".join(
        _one_line(label) if count is None else f"{_one_line(label)} {count:,}" for label, count in counts.items()
    )
    if len(listed) <= room:
        return listed
    return f"{len(counts)}{f', {between(known)} each' if known else ''}: {listed}"


def _one_line(text: str) -> str:
    """A text with its line ends made visible."""
    return printable(text.replace("\n", NEWLINE))


def _shortened(text: str, room: int) -> str:
    """A text without its middle, where there is no room for it."""
    while cell_len(text) > room:
        excess = cell_len(text) - room
        half = (len(text) - excess - len(GAP)) // 2
        text = text[: max(half, 1)] + GAP + text[-max(half, 1) :]
    return text


def _megabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"

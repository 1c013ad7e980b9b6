"""Measures a model's output magnitudes per task and layer: what MIGU masks by, made visible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from clkit.errors import ModelError
from clkit.events import Listener
from clkit.models.examples import encode, task_examples, task_texts, without_unusable
from clkit.models.family import Family
from clkit.models.groups import coverage
from clkit.models.layers import row_sites, select_layers
from clkit.models.magnitudes import MagnitudeCollector, l1_normalised, rows_masked
from clkit.processes import processes
from clkit.recipe.recipe import Recipe
from clkit.run.atomic import write_json
from clkit.tasks.task import Task

BATCH = 16


@dataclass(frozen=True)
class Magnitudes:
    """L1-normalised output magnitudes n_i of each layer on each task (paper eq. 4).

    Attributes:
        layers: by layer name, tasks × d_out; each row sums to 1.
        coverage: what share of the trained weights the layers are, in words.
        top_share: the share of rows that counts as "top", 1 − T in MIGU's terms.
    """

    tasks: Sequence[str]
    layers: dict[str, torch.Tensor]
    top_share: float
    coverage: str = ""

    def top_rows(self, layer: str) -> torch.Tensor:
        """Whether each row is among the top rows on each task: bool, tasks × d_out."""
        n = self.layers[layer]
        kept = n.shape[1] - rows_masked(n.shape[1], 1 - self.top_share)
        order = torch.argsort(n, dim=1, descending=True, stable=True)
        return torch.zeros_like(n, dtype=torch.bool).scatter_(1, order[:, :kept], True)

    def overlap(self, layer: str) -> torch.Tensor:
        """|top(a) ∩ top(b)| / |top|: tasks × tasks, 1 on the diagonal; independent tasks would give `top_share`."""
        top = self.top_rows(layer).float()
        return top @ top.T / top[0].sum()

    def mean_overlap(self) -> torch.Tensor:
        """The overlap of the tasks' top rows, averaged over layers: tasks × tasks."""
        return torch.stack([self.overlap(layer) for layer in self.layers]).mean(dim=0)

    def top_mass(self, layer: str) -> torch.Tensor:
        """Share of the whole magnitude that the top rows hold, per task; `top_share` if all rows were alike."""
        return (self.layers[layer] * self.top_rows(layer)).sum(dim=1)

    def shift(self, layer: str) -> torch.Tensor:
        """Total variation distance ½ Σ_i |n_i(a) − n_i(b)| between tasks' distributions: tasks × tasks, 0 to 1."""
        n = self.layers[layer]
        return (n[:, None] - n[None]).abs().sum(dim=-1) / 2

    def summary(self) -> dict[str, Any]:
        """What is printed, as plain values: per layer and over all layers."""
        between = ~torch.eye(len(self.tasks), dtype=torch.bool)

        def mean_between(matrix: torch.Tensor) -> float | None:
            return float(matrix[between].mean()) if len(self.tasks) > 1 else None

        return {
            "tasks": list(self.tasks),
            "top_share": self.top_share,
            "mean_overlap": self.mean_overlap().tolist(),
            "layers": {
                layer: {
                    "rows": n.shape[1],
                    "top_mass": self.top_mass(layer).tolist(),
                    "overlap_between_tasks": mean_between(self.overlap(layer)),
                    "shift_between_tasks": mean_between(self.shift(layer)),
                }
                for layer, n in self.layers.items()
            },
        }

    def save(self, folder: Path) -> list[Path]:
        """Write `magnitudes.safetensors` (`layer` → tasks × d_out) and `magnitudes.json` (the summary)."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors, summary = folder / "magnitudes.safetensors", folder / "magnitudes.json"
        save_file({layer: n.contiguous() for layer, n in self.layers.items()}, tensors)
        write_json(summary, self.summary())
        return [tensors, summary]


@torch.no_grad()
def measure_magnitudes(
    family: Family,
    tasks: Sequence[Task],
    *,
    layers: Sequence[str],
    recipe: Recipe,
    examples: int,
    top_share: float = 0.3,
    listener: Listener | None = None,
) -> Magnitudes:
    """Run the first training examples of each task through the model, answers included, as in training.

    Args:
        recipe: whose prompts and objective are used.
        layers: roles, names or patterns, as in `strategies.migu.layers`.
        examples: at most so many training examples of each task.

    Raises:
        ModelError: a layer entry fits nothing, or a layer that no example uses.
    """
    listener = listener or Listener()
    watched = select_layers(family, layers)
    found = coverage(family, (site.weight for site in row_sites(watched)))
    collector = MagnitudeCollector(watched, family.token_mask)
    collate = family.collator()
    family.model.to(processes().device).eval()
    measured: list[dict[str, torch.Tensor]] = []
    try:
        for task in tasks:
            own = task_examples(task, task_texts(without_unusable(task, family, recipe), "train", family, recipe))
            rows = encode(family, own, range(min(examples, len(own)))).to_list()
            listener.evaluating(task.name, len(rows))
            for start in range(0, len(rows), BATCH):
                batch = {
                    key: value.to(family.model.device) for key, value in collate(rows[start : start + BATCH]).items()
                }
                inputs = {key: value for key, value in batch.items() if key != "labels"}
                with collector.collecting(batch):
                    family.model(**inputs)
                listener.answered(len(rows[start : start + BATCH]))
            measured.append({layer: l1_normalised(total).cpu() for layer, total in collector.take().items()})
    finally:
        collector.remove()
    # An expert that no example of some task is sent to has no magnitudes to compare.
    used = [layer for layer in watched if all(layer in values for values in measured)]
    if not used:
        raise ModelError(f"--layers: no forward pass went through any of these ({', '.join(layers)}) on every task")
    stacked = {layer: torch.stack([values[layer] for values in measured]) for layer in used}
    return Magnitudes([task.name for task in tasks], stacked, top_share, str(found))

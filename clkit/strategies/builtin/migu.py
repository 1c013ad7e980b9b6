"""MIGU: update only those rows of a linear layer whose output magnitude was large in this step.

Du et al., "Unlocking Continual Learning Abilities in Language Models", EMNLP 2024 Findings (arXiv 2406.17245).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from clkit.errors import StrategyError
from clkit.lazy import LazyModule
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.migu_options import MIGUOptions

if TYPE_CHECKING:
    import torch

    from clkit.models import groups, layers, magnitudes, rows
    from clkit.models.family import Family
    from clkit.strategies import row_scores
else:
    torch = LazyModule("torch")
    groups, layers = LazyModule("clkit.models.groups"), LazyModule("clkit.models.layers")
    magnitudes, rows = LazyModule("clkit.models.magnitudes"), LazyModule("clkit.models.rows")
    row_scores = LazyModule("clkit.strategies.row_scores")


class MIGU(Strategy):
    """W ← W − lr · M ⊙ ∇W (paper eq. 6), M_i = 1 for the rows i with the largest magnitude n_i of the step.

    Magnitudes are summed over all micro-batches and processes of the optimizer step. The mask is applied before the
    gradient's norm is clipped, so that the clipped norm is that of the update really made. With ``hold: K``
    rows are chosen in the steps 0, K, 2K, ... of a task; the others mask as the one before, whatever their outputs.

    ``mask: gradient`` is eq. 6 to the letter: it masks the gradient of the weight, and not that of the bias. Under
    AdamW, first moments and decoupled weight decay go on moving rows whose gradient is zero. ``mask: update`` restores
    masked rows after the step, bit for bit, each with its entry of the bias.

    With one micro-batch a step, and where rows are held, they are known before a backward pass, which then computes
    their gradient alone; and with ``mask: update`` AdamW need never read the others (`RowAdamW`, where the equation
    stands). Both give the same as whole gradients that are masked, to within rounding. With ``moments: held`` AdamW
    knows of the chosen rows only: moments and bias correction of a row begin when it is chosen, and end when it is not
    (`RowAdamW` has the equation). The weights of these layers need memory for the moments of 1 − T of their rows then.
    """

    name: ClassVar[str] = "migu"
    Options = MIGUOptions
    options: MIGUOptions

    def __init__(self, options: MIGUOptions) -> None:
        super().__init__(options)
        self._sites: list[layers.RowSite] = []
        self._rows: row_scores.RowChoice | None = None
        self._frozen: list[tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]] = []

    def check(self, family: Family, tasks: int) -> None:
        sites = row_scores.trained_sites(family, self.options.layers)
        rows, threshold = [site.shape[-1] for site in sites], self.options.threshold
        if not any(magnitudes.rows_masked(count, threshold) for count in rows):
            raise StrategyError(
                f"strategies.migu.threshold: {threshold:g} of {max(rows)} rows, the most that one of these layers has, "
                "is less than one, so nothing would be masked; raise it"
            )
        if not self.options.partial:
            found = groups.coverage(family, (site.weight for site in sites))
            groups.refuse_partial(found, self.options.layers, "strategies.migu", "would be updated unmasked")
        if self.options.moments == "held" and self.steps is not None:
            row_scores.refuse_whole(family.model, sites, self.steps, self.options.hold)
        self._choice(family, sites).check(family, self.steps)

    def remarks(self, family: Family, tasks: int) -> Iterator[str]:
        if tasks == 1 and self.options.first_task == "unmasked":
            yield "no task follows the first, which is unmasked, so it changes nothing (first_task: masked)"
            return
        sites = row_scores.trained_sites(family, self.options.layers)
        yield f"masks rows in {groups.coverage(family, (site.weight for site in sites))}"
        shapes = Counter((site.shape[-1], " of each expert in use" * (len(site.shape) > 1)) for site in sites)
        for (rows, each), count in sorted(shapes.items()):
            masked = magnitudes.rows_masked(rows, self.options.threshold)
            what = f"{masked:,} of {rows:,} rows" if masked else f"none of {rows:,} rows, too few for this threshold,"
            yield f"masks {what}{each} in {count:,} {'weight' if count == 1 else 'weights'}"
        if self.steps is not None:
            update = self.options.mask == "update"
            yield from row_scores.work(family.model, sites, self.steps, update, self.options.hold)
        if self.options.moments == "held":
            yield "AdamW keeps moments of the chosen rows only"

    def still(self, family: Family, task_index: int) -> tuple[int, int]:
        if self.steps is None or self._leaves_alone(task_index):
            return 0, 0
        sites = row_scores.trained_sites(family, self.options.layers)
        alone = row_scores.masked_alone(family.model, sites, self.steps, self.options)
        return 0 if self.steps.late else alone, alone if self.options.moments == "held" else 0

    def _leaves_alone(self, task_index: int) -> bool:
        return task_index == 0 and self.options.first_task == "unmasked"

    def _choice(self, family: Family, sites: Sequence[layers.RowSite]) -> row_scores.RowChoice:
        return row_scores.RowChoice(family, sites, self.options)

    def before_task(self, context: Context) -> None:
        if self._leaves_alone(context.task_index):
            return
        self._sites = row_scores.trained_sites(context.family, self.options.layers)
        self._rows = self._choice(context.family, self._sites)
        self._rows.begin(context, self.steps)

    def before_forward(self, context: Context, batch: Mapping[str, torch.Tensor]) -> None:
        if self._rows is not None:
            self._rows.open(context, batch)

    def after_forward(self, context: Context, batch: Mapping[str, torch.Tensor]) -> None:
        if self._rows is not None:
            self._rows.close(context)

    def before_step(self, context: Context) -> None:
        if self._rows is None:
            return
        divided = self._rows.divide(context)
        self._rows.refuse_uncalled()
        masked = 0
        with torch.no_grad():
            for site, (kept, left_out) in zip(self._sites, divided, strict=True):
                self._mask(context, site, kept, left_out)
                masked += left_out.numel()
        context.log(migu_masked_share=masked / sum(site.rows for site in self._sites))

    def _mask(self, context: Context, site: layers.RowSite, kept: torch.Tensor, masked: torch.Tensor) -> None:
        assert self._rows is not None
        weight, update = site.weight, self.options.mask == "update"
        gradient, alone = self._rows.gradient(site), self._rows.steps_alone(site, still=update)
        if weight.grad is not None and alone:  # a penalty's, or of a step whose rows are known only now
            own = weight.grad.index_select(0, kept)
            gradient, weight.grad = own if gradient is None else gradient.add_(own), None
        elif weight.grad is not None:
            # Faster than writing zeros into scattered rows.
            keep = weight.grad.new_ones(site.rows).index_fill_(0, masked, 0)
            site.by_row(weight.grad).mul_(keep.view(site.shape).unsqueeze(-1))
        if gradient is not None and alone:
            forget = self.options.moments == "held"
            others: Any = "forgotten" if forget else "stay" if update else "move"
            context.row_gradients[weight] = rows.RowGradient(kept, gradient, others)
        elif gradient is not None:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            weight.grad.index_add_(0, kept, gradient)
        if update:
            still = [] if weight in context.row_gradients else [site.by_row(weight)]
            place = torch.unravel_index(masked, site.shape)
            self._frozen += [(rows, place, rows[place]) for rows in (*still, site.bias) if rows is not None]

    def after_step(self, context: Context) -> None:
        with torch.no_grad():
            for rows, place, before in self._frozen:
                rows[place] = before
        self._frozen.clear()

    def after_task(self, context: Context) -> None:
        if self._rows is not None:
            self._rows.remove()
        self._rows, self._sites = None, []

    def task_state_dict(self) -> dict[str, torch.Tensor]:
        return self._rows.held() if self._rows is not None else {}

    def load_task_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        if self._rows is not None:
            self._rows.hold(state)
        else:
            super().load_task_state_dict(state)

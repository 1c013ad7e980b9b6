"""MIGU: update only those rows of a linear layer whose output magnitude was large in this step.

Du et al., "Unlocking Continual Learning Abilities in Language Models", EMNLP 2024 Findings (arXiv 2406.17245).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from clkit.draws import torch_seeded
from clkit.errors import StrategyError
from clkit.lazy import LazyModule
from clkit.strategies.contract import Context, Strategy
from clkit.strategies.options import LayerOptions

if TYPE_CHECKING:
    import torch

    from clkit.models import groups, layers, magnitudes
    from clkit.models.family import Family
else:
    torch = LazyModule("torch")
    groups, layers = LazyModule("clkit.models.groups"), LazyModule("clkit.models.layers")
    magnitudes = LazyModule("clkit.models.magnitudes")


class MIGUOptions(LayerOptions):
    """Magnitude-based gradient updating: only rows with a large output are updated in a step."""

    name: Literal["migu"] = Field(description="Magnitude-based gradient updating.")
    threshold: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.7, description="Share T of each layer's rows that is masked: 0.7 updates the 30 % with the largest output."
    )
    mask: Literal["gradient", "update"] = Field(
        "gradient",
        description="`gradient`: masked rows of the weight get no gradient, as published; AdamW's momentum and weight "
        "decay still move them. `update`: masked rows and their biases do not move at all in this step.",
    )
    count_padding: bool = Field(
        False, description="Count padding positions in the magnitudes, as the published code does."
    )
    first_task: Literal["unmasked", "masked"] = Field(
        "unmasked", description="Whether the first task is masked; the published code leaves it unmasked."
    )
    source: Literal["magnitude", "random", "fixed_random", "persistent_random", "smallest"] = Field(
        "magnitude",
        description="What chooses the rows. The others than `magnitude` are controls, which mask as many: `random` "
        "draws them anew each step, `fixed_random` once for the run; `persistent_random` shuffles each layer's "
        "magnitudes in one order for the run, so that its rows stay and return just as those of MIGU do; `smallest` "
        "updates the rows with the smallest output.",
    )


class MIGU(Strategy):
    """W ← W − lr · M ⊙ ∇W (paper eq. 6), M_i = 1 for the rows i with the largest magnitude n_i of the step.

    Magnitudes are summed over all micro-batches and processes of the optimizer step. The mask is applied before the
    gradient's norm is clipped, so that the clipped norm is that of the update really made.

    ``mask: gradient`` is eq. 6 to the letter: it masks the gradient of the weight, and not that of the bias. Under
    AdamW, first moments and decoupled weight decay go on moving rows whose gradient is zero. ``mask: update`` restores
    masked rows after the step, bit for bit, each with its entry of the bias.
    """

    name: ClassVar[str] = "migu"
    Options = MIGUOptions

    options: MIGUOptions

    def __init__(self, options: MIGUOptions) -> None:
        super().__init__(options)
        self._sites: list[layers.RowSite] = []
        self._collector: magnitudes.MagnitudeCollector | None = None
        self._frozen: list[tuple[torch.nn.Parameter, int, torch.Tensor, torch.Tensor]] = []

    def check(self, family: Family, tasks: int) -> None:
        sites = self._choose_sites(family)
        rows, threshold = [site.rows for site in sites], self.options.threshold
        if not any(magnitudes.rows_masked(count, threshold) for count in rows):
            raise StrategyError(
                f"strategies.migu.threshold: {threshold:g} of {max(rows)} rows, the most that one of these layers has, "
                "is less than one, so nothing would be masked; raise it"
            )
        if not self.options.partial:
            found = groups.coverage(family, (site.weight for site in sites))
            groups.refuse_partial(found, self.options.layers, "strategies.migu", "would be updated unmasked")
        if self._measures():
            weights = {site.name: site.weight for site in sites}
            magnitudes.check_layers(family, self._watch(family, sites), "strategies.migu.layers", weights)

    def remarks(self, family: Family, tasks: int) -> Iterator[str]:
        if tasks == 1 and self.options.first_task == "unmasked":
            yield "no task follows the first, which is unmasked, so it changes nothing (first_task: masked)"
            return
        sites = self._choose_sites(family)
        yield f"masks rows in {groups.coverage(family, (site.weight for site in sites))}"
        for rows, count in sorted(Counter(site.rows for site in sites).items()):
            masked = magnitudes.rows_masked(rows, self.options.threshold)
            what = f"{masked:,} of {rows:,} rows" if masked else f"none of {rows:,} rows, too few for this threshold,"
            yield f"masks {what} in {count:,} {'weight' if count == 1 else 'weights'}"

    def _measures(self) -> bool:
        return self.options.source not in ("random", "fixed_random")

    def _watch(self, family: Family, sites: Sequence[layers.RowSite]) -> magnitudes.MagnitudeCollector:
        layer_of = {site.name: site.layer for site in sites}
        mask = None if self.options.count_padding else lambda site, batch: family.token_mask(layer_of[site], batch)
        return magnitudes.MagnitudeCollector({site.name: site.module for site in sites}, mask)

    def before_task(self, context: Context) -> None:
        if context.task_index == 0 and self.options.first_task == "unmasked":
            return
        self._sites = self._choose_sites(context.family)
        if self._measures():
            self._collector = self._watch(context.family, self._sites)
            self._collector.notice(site.weight for site in self._sites)

    def before_forward(self, context: Context, batch: Mapping[str, torch.Tensor]) -> None:
        if self._collector is not None:
            self._collector.open(batch)

    def after_forward(self, context: Context, batch: Mapping[str, torch.Tensor]) -> None:
        if self._collector is not None:
            self._collector.close()

    def before_step(self, context: Context) -> None:
        if not self._sites:
            return
        masked = total = 0
        with torch.no_grad():
            for site, score in zip(self._sites, self._scores(context), strict=True):
                rows = magnitudes.masked_rows(score, self.options.threshold)
                self._mask(site, rows, score)
                masked += rows.numel()
                total += score.numel()
        context.log(migu_masked_share=masked / total)

    def _mask(self, site: layers.RowSite, rows: torch.Tensor, score: torch.Tensor) -> None:
        if site.weight.grad is not None:
            # Faster than writing zeros into scattered rows.
            keep = torch.ones_like(score, dtype=site.weight.grad.dtype).index_fill_(0, rows, 0)
            site.weight.grad.mul_(keep.unsqueeze(1 - site.axis))
        if self.options.mask == "update":
            self._frozen.append((site.weight, site.axis, rows, site.weight.index_select(site.axis, rows)))
            if site.bias is not None:
                self._frozen.append((site.bias, 0, rows, site.bias.index_select(0, rows)))

    def after_step(self, context: Context) -> None:
        with torch.no_grad():
            for parameter, axis, rows, before in self._frozen:
                parameter.index_copy_(axis, rows, before)
        self._frozen.clear()

    def after_task(self, context: Context) -> None:
        if self._collector is not None:
            self._collector.remove()
        self._collector, self._sites = None, []

    def _choose_sites(self, family: Family) -> list[layers.RowSite]:
        sites = layers.row_sites(layers.select_layers(family, self.options.layers, "strategies.migu.layers"))
        if not sites:
            raise StrategyError(
                "strategies.migu.layers: none of these layers is trained "
                f"({', '.join(self.options.layers)}); choose layers that carry an adapter or that "
                "tuning.freeze leaves free"
            )
        return sites

    def _scores(self, context: Context) -> list[torch.Tensor]:
        if self._collector is None:
            return self._random_scores(context)
        sums = self._collector.take()
        if not sums:
            raise StrategyError("strategies.migu: no layer's output was recorded in this step, so no row can be chosen")
        reached = self._collector.reached()
        uncalled = next((one.layer for one in self._sites if one.name not in sums and id(one.weight) in reached), None)
        if uncalled:
            raise StrategyError(f"strategies.migu.layers: {magnitudes.not_called(uncalled)}")
        # A layer that this step did not use (no gradient either) has no sum on this process, perhaps on others.
        scores = [sums.get(site.name, torch.zeros(site.rows, device=site.weight.device)) for site in self._sites]
        # One reduction for all layers: many small ones would cost more than the step's arithmetic.
        together = context.sum_over_processes(torch.cat(scores))
        scores = list(torch.split(together, [score.numel() for score in scores]))
        if self.options.source == "smallest":
            return [-score for score in scores]
        if self.options.source == "persistent_random":
            drawn = self._random_scores(context)
            return [score[order.argsort()] for score, order in zip(scores, drawn, strict=True)]
        return scores

    def _random_scores(self, context: Context) -> list[torch.Tensor]:
        """A number from 0 to 1 for each row of each site: of this step with `random`, else the run's."""
        purpose = [context.task_index, context.step] if self.options.source == "random" else []
        generator = torch_seeded("migu", context.seed, *purpose)
        return [torch.rand(site.rows, generator=generator).to(site.weight.device) for site in self._sites]

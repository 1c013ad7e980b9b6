"""How MIGU chooses rows: by the magnitudes of a step's outputs, or what its controls put in their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from clkit.draws import torch_seeded
from clkit.errors import StrategyError
from clkit.models.experts import ExpertWeight
from clkit.models.family import Family
from clkit.models.layers import RowSite, row_sites, select_ranked
from clkit.models.magnitudes import MagnitudeCollector, check_layers, divided_rows, not_called, rows_masked
from clkit.models.rows import RowGradients, refusals
from clkit.strategies.contract import Context, Steps


def trained_sites(family: Family, layers: Sequence[str]) -> list[RowSite]:
    """The weights that MIGU chooses rows of.

    Raises:
        StrategyError: none of these layers is trained.
    """
    sites = row_sites(select_ranked(family, layers, "strategies.migu.layers"))
    if not sites:
        raise StrategyError(
            f"strategies.migu.layers: none of these layers is trained ({', '.join(layers)}); choose layers that carry "
            "an adapter or that tuning.freeze leaves free"
        )
    return sites


def _never_early(steps: Steps, hold: int) -> str:
    """Why no rows are known before a backward pass; empty where those of some steps are: held ones' or all."""
    return "" if hold > 1 and not steps.compiled else steps.late


def work(model: nn.Module, sites: Sequence[RowSite], steps: Steps, update: bool, hold: int) -> Iterator[str]:
    """For the plan: which gradients are computed in kept rows only, and why not the others."""
    whole = Counter(refusals(sites, model).values())
    some = len(sites) - whole.total()
    if late := _never_early(steps, hold):
        yield f"computes whole gradients and masks them: {late}"
    elif some:
        but = f", but for one step in {hold:,}" if steps.micro_batches > 1 else ""
        yield f"computes gradients of kept rows only, in {some:,} of {len(sites):,} weights{but}"
    if some and update:
        why = steps.whole_gradients
        yield f"the optimizer goes over whole weights: {why}" if why else "the optimizer leaves masked rows alone"
    for why, count in () if late else whole.items():
        yield f"computes whole gradients and masks them, in {count:,} of {len(sites):,} weights: {why}"


def refuse_whole(model: nn.Module, sites: Sequence[RowSite], steps: Steps, hold: int) -> None:
    """Refuse moments of chosen rows only where a gradient is whole.

    Raises:
        StrategyError: with the reason.
    """
    refused = refusals(sites, model)
    why = _never_early(steps, hold) or steps.whole_gradients or next(iter(refused.values()), "")
    if why:
        which = f" of {next(iter(refused))}" if refused and not steps.whole_gradients else ""
        raise StrategyError(f"strategies.migu.moments: held needs gradients of single rows{which}, but {why}; use all")


class Choosing(Protocol):
    """What MIGU's options say of how rows are chosen."""

    @property
    def source(self) -> str: ...

    @property
    def count_padding(self) -> bool: ...

    @property
    def threshold(self) -> float: ...

    @property
    def hold(self) -> int: ...


def masked_alone(model: nn.Module, sites: Sequence[RowSite], steps: Steps, options: Choosing) -> int:
    """How many numbers stand in masked rows of which neither backward pass nor optimizer need know."""
    if steps.whole_gradients or _never_early(steps, options.hold):
        return 0
    refused = refusals(sites, model)
    alone = (site for site in sites if site.name not in refused)
    return sum(rows_masked(site.rows, options.threshold) * site.weight.numel() // site.rows for site in alone)


class RowChoice:
    """The rows of each site that an optimizer step keeps: by a score of each, anew in the steps in which that is due.

    Args:
        options: MIGU's.
    """

    def __init__(self, family: Family, sites: Sequence[RowSite], options: Choosing) -> None:
        self._sites, self._source = sites, options.source
        self._threshold, self._hold = options.threshold, options.hold
        #: What `divide` gave last.
        self.divided: list[tuple[torch.Tensor, torch.Tensor]] = []
        #: Whether it stays until the next step in which a choice is due.
        self._holds = False
        self._gradients = RowGradients([], whole=False)
        #: The names of those that nothing keeps from stepping in single rows.
        self._free: set[str] = set()
        self._steps: Steps | None = None
        #: Those that had no output in the forward passes of this step.
        self._uncalled: list[RowSite] = []
        self._collector: MagnitudeCollector | None = None
        if options.source not in ("random", "fixed_random"):
            layer_of = {site.name: site.layer for site in sites}
            mask = None if options.count_padding else lambda site, batch: family.token_mask(layer_of[site], batch)
            self._collector = MagnitudeCollector(
                {site.name: site.module for site in sites},
                mask,
                lambda site, call: family.reads_tokens(layer_of[site], call),
            )

    def check(self, family: Family, steps: Steps | None) -> None:
        """Try the layers on two short texts, and be done.

        Raises:
            ModelError: the magnitude of a layer cannot be taken.
            StrategyError: it could not be in training.
        """
        if self._collector is not None:
            if steps is not None and steps.fused and any(isinstance(one.module, ExpertWeight) for one in self._sites):
                raise StrategyError(
                    "strategies.migu: training.liger computes the experts of this model in one kernel, so what each "
                    "puts out cannot be seen; set it to false, or leave the experts out of strategies.migu.layers"
                )
            if family.base.device.type == "meta":  # without weights nothing can be tried
                return
            weights = {site.name: site.weight for site in self._sites}
            check_layers(family, self._collector, "strategies.migu.layers", weights)

    def begin(self, context: Context, steps: Steps | None) -> None:
        """A task begins.

        Where the rows of a step are known before a backward pass, this is to compute the gradients of the kept rows
        alone, if that is possible: with one forward pass a step, and where rows are held from the step before.

        Args:
            steps: how they are made; None where nobody knows.
        """
        self._steps = steps
        refused = refusals(self._sites, context.model)
        if self._collector is not None:  # for `refuse_uncalled`; by hooks that refuse nothing
            self._collector.notice(site.weight for site in self._sites)
        if steps is None:
            return
        free = [site for site in self._sites if site.name not in refused]
        if not _never_early(steps, self._hold):
            self._gradients = RowGradients(free, whole=context.num_processes > 1)
        if not steps.whole_gradients:
            self._free = {site.name for site in free}

    def open(self, context: Context, batch: Mapping[str, torch.Tensor]) -> None:
        """A forward pass over ``batch`` begins."""
        self._gradients.begin()
        if self._collector is not None and self._is_due(context):
            self._collector.open(batch)

    def close(self, context: Context) -> None:
        """It has ended."""
        if self._collector is not None:
            self._collector.close()
        if self._known_early(context):
            self._divide(context)

    def _known_early(self, context: Context) -> bool:
        """Whether this step's rows are known before each of its backward passes."""
        if self._steps is None or _never_early(self._steps, self._hold):
            return False
        return not self._steps.late or not self._is_due(context)

    def _is_due(self, context: Context) -> bool:
        return context.step % self._hold == 0 or not self._holds

    def divide(self, context: Context) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The rows of each site that this step keeps, ascending, and those that it masks; after its backward passes."""
        if not self._known_early(context):
            self._divide(context)
        return self.divided

    def steps_alone(self, site: RowSite, still: bool) -> bool:
        """Whether the optimizer takes the gradient of the site's kept rows for that of its weight.

        Args:
            still: the other rows do not move; else nothing is saved where the gradient was whole.
        """
        return site.name in self._free and (still or site.name in self._gradients)

    def _divide(self, context: Context) -> None:
        if self._is_due(context):
            with torch.no_grad():
                scores = self.scores(context)
                self.divided = divided_rows(scores, self._threshold)
                # Rows of a step that is not finite, and is left out by `on_nan: skip`, are not held for those to come.
                self._holds = self._hold == 1 or bool(torch.cat([one.flatten() for one in scores]).isfinite().all())
        for site, (kept, _) in zip(self._sites, self.divided, strict=True):
            self._gradients.choose(site.name, kept)

    def gradient(self, site: RowSite) -> torch.Tensor | None:
        """That of the kept rows, as `RowGradients.take` gives it."""
        return self._gradients.take(site.name)

    def held(self) -> dict[str, torch.Tensor]:
        """The kept rows of each site, by name, if they outlast a step."""
        held = zip(self._sites, self.divided, strict=True) if self._hold > 1 and self._holds else ()
        return {site.name: kept for site, (kept, _) in held}

    def hold(self, kept: Mapping[str, torch.Tensor]) -> None:
        """Go on with what `held` gave.

        Raises:
            KeyError: it names other sites.
        """
        if kept and kept.keys() != (names := {site.name for site in self._sites}):
            raise KeyError(f"rows of {min(kept.keys() ^ names)} are held, or trained, and not both")
        self.divided, self._holds = [], bool(kept)
        for site in self._sites if kept else ():
            rows = kept[site.name].to(site.weight.device)
            masked = torch.ones(site.rows, dtype=torch.bool, device=rows.device).index_fill_(0, rows, False)
            self.divided.append((rows, masked.nonzero().flatten()))

    def scores(self, context: Context) -> list[torch.Tensor]:
        """The scores of the forward passes since this was called last, over all processes; for each site, its shape."""
        if self._collector is None:
            return self._random(context)
        sums = self._collector.take()
        if not sums:
            raise StrategyError("strategies.migu: no layer's output was recorded in this step, so no row can be chosen")
        self._uncalled = [site for site in self._sites if site.name not in sums]
        # A layer that this step did not use (no gradient either) has no sum on this process, perhaps on others.
        scores = [sums.get(site.name, torch.zeros(site.shape, device=site.weight.device)) for site in self._sites]
        # One reduction for all layers: many small ones would cost more than the step's arithmetic.
        together = context.sum_over_processes(torch.cat([score.flatten() for score in scores]))
        parts = torch.split(together, [score.numel() for score in scores])
        scores = [part.view(site.shape) for part, site in zip(parts, self._sites, strict=True)]
        if self._source == "smallest":
            return [-score for score in scores]
        if self._source == "persistent_random":
            drawn = self._random(context)
            return [score.gather(-1, order.argsort(-1)) for score, order in zip(scores, drawn, strict=True)]
        return scores

    def refuse_uncalled(self) -> None:
        """After the backward pass: refuse a layer that was not called though its weight was used.

        Raises:
            StrategyError: naming the layer.
        """
        reached = self._collector.reached() if self._collector is not None else set()
        uncalled = next((site.layer for site in self._uncalled if id(site.weight) in reached), None)
        self._uncalled = []
        if uncalled:
            raise StrategyError(f"strategies.migu.layers: {not_called(uncalled)}")

    def remove(self) -> None:
        """Leave the layers as they were."""
        self._gradients.remove()
        if self._collector is not None:
            self._collector.remove()

    def _random(self, context: Context) -> list[torch.Tensor]:
        """A number from 0 to 1 for each row of each site: of this step with `random`, else the run's."""
        purpose = [context.task_index, context.step] if self._source == "random" else []
        generator = torch_seeded("migu", context.seed, *purpose)
        return [torch.rand(site.shape, generator=generator).to(site.weight.device) for site in self._sites]

"""A row score of our own, tried against MIGU's: the rows that earlier tasks depend on least, by the Fisher information.

Used from the folder of this file, as ``strategies: [{name: "row_scores:SparingRows", mask: update}]``. README.md beside
it has the command and the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from clkit.models.family import Family
from clkit.models.layers import RowSite
from clkit.strategies import fisher
from clkit.strategies.builtin.migu import MIGU
from clkit.strategies.contract import Context
from clkit.strategies.migu_options import MIGUOptions
from clkit.strategies.row_scores import RowChoice, trained_sites


class SparingRowsOptions(MIGUOptions):
    """MIGU's options, and what a row's importance is estimated from."""

    name: Literal["sparing_rows"] = Field(description="MIGU with a row score of our own.")  # type: ignore[assignment]
    examples: int = Field(200, ge=1, description="Examples of each task that its rows' importance is estimated from.")


class SparingChoice(RowChoice):
    """−F_i for row i: F_i = Σ_tasks Σ_j F_ij over finished tasks, F_ij the diagonal Fisher as `fisher.estimate` has it.

    It does not change inside a task, so neither do the rows.
    """

    def __init__(
        self, family: Family, sites: Sequence[RowSite], options: MIGUOptions, importance: Mapping[str, torch.Tensor]
    ) -> None:
        super().__init__(family, sites, options.model_copy(update={"source": "fixed_random"}))
        self._importance = importance

    def scores(self, context: Context) -> list[torch.Tensor]:
        if not self._importance:  # of a first task that is masked
            return super().scores(context)
        return [-self._importance[site.name].to(site.weight.device) for site in self._sites]


class SparingRows(MIGU):
    """MIGU, whose rows are chosen by `SparingChoice`: as many, and the first task as it is there."""

    name: ClassVar[str] = "sparing_rows"
    Options: ClassVar[type[MIGUOptions]] = SparingRowsOptions

    def __init__(self, options: SparingRowsOptions) -> None:
        super().__init__(options)
        self._examples = options.examples
        self._importance: dict[str, torch.Tensor] = {}

    def _choice(self, family: Family, sites: Sequence[RowSite]) -> RowChoice:
        return SparingChoice(family, sites, self.options, self._importance)

    def after_task(self, context: Context) -> None:
        super().after_task(context)
        sites = trained_sites(context.family, self.options.layers)
        found = fisher.estimate(context, {site.name: site.weight for site in sites}, self._examples, "data")
        for site in sites:
            rows = site.by_row(found[site.name]).sum(-1)
            self._importance[site.name] = rows + self._importance.get(site.name, torch.zeros_like(rows))

    def state_dict(self) -> dict[str, Any]:
        return dict(self._importance)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._importance = dict(state)

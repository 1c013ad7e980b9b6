"""What a recipe says of MIGU."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clkit.strategies.options import LayerOptions


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
    hold: Annotated[int, Field(ge=1)] = Field(
        1,
        description="Optimizer steps for which a choice of rows holds. They are chosen by the outputs of the first of "
        "these steps; the published method chooses anew in each.",
    )
    moments: Literal["all", "held"] = Field(
        "all",
        description="Of which rows AdamW keeps its moments: of `all` or, to save memory, of those `held`. A row that "
        "is no longer chosen loses them then, and begins anew if it returns. `held` needs `mask: update`.",
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

    @property
    def asks_model(self) -> bool:
        return super().asks_model or self.moments == "held"

    @property
    def by_rows(self) -> str | None:
        return "moments: held" if self.moments == "held" else None

    @model_validator(mode="after")
    def _ignores_nothing(self) -> MIGUOptions:
        if self.count_padding and self.source in ("random", "fixed_random"):
            raise ValueError(f"count_padding: has no effect with source: {self.source}; remove it")
        if self.hold > 1 and self.source == "fixed_random":
            raise ValueError("hold: has no effect with source: fixed_random, whose rows never change; remove it")
        if self.moments == "held" and self.mask != "update":
            raise ValueError("moments: held needs mask: update; else the moments of all rows move them")
        if self.moments == "held" and self.hold == 1 and self.source != "fixed_random":
            raise ValueError("moments: held needs rows that are held; set hold above 1")
        return self

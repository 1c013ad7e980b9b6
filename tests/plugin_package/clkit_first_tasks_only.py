"""A strategy from outside clkit: everything after the first tasks leaves the model as it is."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from clkit import Strategy
from clkit.strategies.contract import Context
from clkit.strategies.options import StrategyOptions


class FirstTasksOnlyOptions(StrategyOptions):
    """Learn the first tasks and nothing after them."""

    name: Literal["first_tasks_only"] = Field(description="Learn the first tasks only.")
    tasks: Annotated[int, Field(ge=1)] = Field(1, description="How many tasks are learned.")


class FirstTasksOnly(Strategy):
    """A parameter without a gradient is left alone by the optimizer, by its weight decay too."""

    name: ClassVar[str] = "first_tasks_only"
    Options = FirstTasksOnlyOptions

    options: FirstTasksOnlyOptions

    def before_step(self, context: Context) -> None:
        if context.task_index >= self.options.tasks:
            for parameter in context.model.parameters():
                parameter.grad = None

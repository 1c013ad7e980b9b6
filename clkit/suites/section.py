"""A suite as its file describes it: a recipe, methods, seeds, orders, and learning rates with the rule that picks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from clkit.section import Section
from clkit.tasks.sections import Name
from clkit.wording import did_you_mean

#: Beside the folders of the methods, where the runs lie by which rates are chosen.
VALIDATION = "validation"

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Rate = Annotated[float, Field(gt=0)]
Changes = dict[str, Any]


class RatesSection(Section):
    """Learning rates, and which of them a method is tested at."""

    values: list[Rate] = Field(min_length=1, description="`training.learning_rate` of the runs.")
    choose: Literal["average_accuracy", "equal_learning", "all"] = Field(
        "average_accuracy",
        description="By runs that are tested on the validation split, each method gets the rate with the best average "
        "accuracy, or the rate at which it learns most nearly as well as another method (`like`) at its own best. "
        "`all`: each method is tested at each rate, and nothing is chosen.",
    )
    seeds: list[Seed] = Field([], description="Seeds of the runs that choose; empty: the first of `seeds`.")
    like: Name | None = Field(None, description="The method that the others learn as well as (`equal_learning`).")

    @model_validator(mode="after")
    def _names_the_other_method(self) -> Self:
        if (self.choose == "equal_learning") != (self.like is not None):
            raise ValueError("like: names the method that the others learn as well as, with choose: equal_learning")
        return self


class MethodSection(Section):
    """One method: in what its runs differ from those of the others."""

    recipe: str | None = Field(None, description="A recipe of its own: a shipped name, or a path from this file.")
    set: Changes = Field({}, description="Changes to the recipe, as overrides of `clkit train` are.")
    rates: list[Rate] | None = Field(
        None, min_length=1, description="Learning rates of its own, instead of `rates.values`."
    )


class Suite(Section):
    """Runs of recipes: each method with each seed, in each order of the tasks."""

    name: Name = Field(description="Name of the suite; its runs lie in `runs/NAME`.")
    recipe: str = Field(description="The recipe of all runs: a shipped name, or a path from this file.")
    set: Changes = Field({}, description="Changes to the recipe in all runs, as overrides of `clkit train` are.")
    seeds: list[Seed] = Field(min_length=1, description="`seed` of the runs.")
    orders: list[int] | None = Field(
        None, min_length=1, description="`benchmark.order` of the runs; null: the recipe's own."
    )
    methods: dict[Name, MethodSection] = Field(min_length=1, description="What is compared, by its name.")
    rates: RatesSection | None = Field(None, description="Learning rates; null: those of the recipes.")

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        for problem in self._contradictions():
            raise ValueError(problem)
        return self

    def _contradictions(self) -> Iterator[str]:
        rates = self.rates or RatesSection(values=[1.0])
        listed: dict[str, Sequence[float]] = {"seeds": self.seeds, "orders": self.orders or []}
        listed |= {"rates.values": rates.values, "rates.seeds": rates.seeds}
        listed |= {f"methods.{name}.rates": method.rates or [] for name, method in self.methods.items()}
        for key, values in listed.items():
            if len(set(values)) < len(values):
                yield f"{key}: {_most(values)} stands twice; each needs a run of its own"
        if len({name.casefold() for name in self.methods}) < len(self.methods):
            yield "methods: two names differ in case only, and so would their folders; choose another name"
        if VALIDATION in self.methods:
            yield f"methods.{VALIDATION}: is the folder of the runs by which rates are chosen; choose another name"
        if self.rates is None:
            own = next((name for name, method in self.methods.items() if method.rates), None)
            if own is not None:
                yield f"methods.{own}.rates: needs `rates`, which says how one of them is chosen"
        elif self.rates.like is not None and self.rates.like not in self.methods:
            hint = did_you_mean(self.rates.like, self.methods)
            yield f"rates.like: no method named '{self.rates.like}'{hint} (methods: {', '.join(self.methods)})"


def _most(values: Sequence[float]) -> float:
    return Counter(values).most_common(1)[0][0]

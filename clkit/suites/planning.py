"""From a suite's file to its runs: each with its recipe, validated, and the command that trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from clkit.errors import RecipeError, UsageError
from clkit.recipe.inputs import model_problems, other_problems
from clkit.recipe.loading import changed, is_suite, overridden, read_recipe, validated
from clkit.recipe.recipe import Recipe
from clkit.recipe.shipped import recipe_path, shipped_recipe
from clkit.recipe.smoke import smoke_recipe
from clkit.recipe.written import Written
from clkit.section import absolute
from clkit.suites.changes import (
    as_yaml,
    assignments,
    in_layers,
    paths_in,
    refuse_overruled,
    refuse_unknown_methods,
    with_paths,
)
from clkit.suites.section import VALIDATION, Suite
from clkit.wording import did_you_mean

Rates = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a suite.

    Attributes:
        place: its folder, from the suite's.
        recipe: what it trains.
        arguments: of `clkit`, but for the folder.
        rate: its learning rate, where the suite gives one.
    """

    method: str
    place: Path
    recipe: Recipe
    arguments: tuple[str, ...]
    rate: float | None

    def command(self, folder: Path) -> list[str]:
        """The arguments of `clkit`, for a suite's folder."""
        return [*self.arguments, "--run", str(folder / self.place)]


@dataclass(frozen=True)
class PlannedSuite:
    """A suite with its file as it is written, so that what is wrong with a run is told where it stands.

    Attributes:
        smoke: every run in miniature, with one seed, order and rate.
        only: the methods that are wanted; empty: all.
    """

    suite: Suite
    written: Written
    smoke: bool = False
    only: tuple[str, ...] = ()
    _files: dict[Path, Written] = field(default_factory=dict)

    @classmethod
    def load(
        cls, source: str | Path, overrides: Sequence[str] = (), *, smoke: bool = False, only: Sequence[str] = ()
    ) -> PlannedSuite:
        """A suite by its path or shipped name, with ``key=value`` changes to it.

        Raises:
            UsageError: there is no such file, or no such method.
            RecipeError: with one line per problem, of the suite or of its runs' recipes.
        """
        written = read_recipe(recipe_path(source, kind="suite"))
        if not is_suite(written):
            raise UsageError(f"'{source}' is no suite, which has `methods`; one run is `clkit train {source}`")
        refuse_unknown_methods(written, overrides)
        written = overridden(written, overrides)
        planned = cls(validated(Suite, written), written, smoke, tuple(only))
        for name in only:
            if name not in (known := planned.suite.methods):
                raise UsageError(f"no method named '{name}'{did_you_mean(name, known)} (methods: {', '.join(known)})")
        like = planned.suite.rates.like if planned.suite.rates is not None else None
        if only and like is not None and like not in only:
            raise UsageError(f"rates are chosen by how well '{like}' learns (rates.like): give --only {like} too")
        planned.check()
        return planned

    @property
    def name(self) -> str:
        return f"{self.suite.name}-smoke" if self.smoke else self.suite.name

    def check(self) -> None:
        """Make sure that every run can be planned, and that no two of them are the same.

        Raises:
            RecipeError: with one line per problem.
        """
        refuse_overruled(self.suite, self.written)
        twins: dict[str, PlannedRun] = {}
        runs = self.runs(self.rates_to_try())
        chosen = {run.method for run in self.validation_runs()}
        for run in runs:
            if run.method in chosen and run.recipe.evaluation.split == VALIDATION:
                raise RecipeError(
                    f"{self._place_of(run.method)}: methods.{run.method}: is tested on the validation split, by "
                    "which its rate is chosen; set evaluation.split to test, or rates.choose to all"
                )
        for run in [] if self.smoke else runs:
            same = twins.setdefault(run.recipe.model_copy(update={"name": ""}).model_dump_json(), run)
            if same is not run:
                place = self._place_of(run.method)
                raise RecipeError(f"{place}: methods.{run.method}: its runs are those of '{same.method}' once more")

    def missing_inputs(self) -> list[str]:
        """One line for each folder or file that a run needs and that is of no use."""
        first = {method: rates[:1] for method, rates in self.rates_to_try().items()}  # a seed and rate speak for all
        runs = self._runs(first, self.suite.orders or [None], self.suite.seeds[:1], "test")
        # Most methods read the same, which is read once: data that are small, whole (`missing_inputs`).
        reading = {_what_is_read(run.recipe): run.recipe for run in runs}
        asking = {run.recipe.model_dump_json(exclude=_NOT_THE_MODELS): run for run in runs}
        told: dict[str, list[str]] = {}
        for run in asking.values():
            for line in model_problems(run.recipe):
                told.setdefault(line, []).append(run.method)
        of_models = [
            line if len(methods) == len(asking) else f"methods.{', '.join(methods)}: {line}"
            for line, methods in told.items()
        ]
        others = [line for recipe in reading.values() for line in other_problems(recipe)]
        return [*of_models, *dict.fromkeys(others)]

    @property
    def chooses_rates(self) -> bool:
        return not self.smoke and self.suite.rates is not None and self.suite.rates.choose != "all"

    def rates_to_try(self) -> dict[str, list[float | None]]:
        """The learning rates of each method; None is that of its recipe."""
        section, few = self.suite.rates, slice(1 if self.smoke else None)
        return {
            name: list[float | None](method.rates or section.values)[few] if section is not None else [None]
            for name, method in self.suite.methods.items()
            if not self.only or name in self.only
        }

    @property
    def number_of_runs(self) -> int:
        """How many are tested, whatever rates are chosen."""
        few = slice(1 if self.chooses_rates else None)
        return len(self.runs({method: rates[few] for method, rates in self.rates_to_try().items()}))

    def validation_runs(self) -> list[PlannedRun]:
        """The runs by which learning rates are chosen; none of a method with one rate, unless others learn like it."""
        if not self.chooses_rates or self.suite.rates is None:
            return []
        orders = self.suite.orders[:1] if self.suite.orders else [None]
        section, tried = self.suite.rates, self.rates_to_try()
        open_ = {method: rates for method, rates in tried.items() if len(rates) > 1 or method == section.like}
        return self._runs(open_, orders, section.seeds or self.suite.seeds[:1], VALIDATION)

    def runs(self, rates: Rates) -> list[PlannedRun]:
        """The runs that are tested, at these learning rates of each method; the methods without one are left out."""
        few = slice(1 if self.smoke else None)
        orders: Sequence[int | None] = self.suite.orders or [None]
        return self._runs(rates, orders[few], self.suite.seeds[few], "test")

    def _runs(self, rates: Rates, orders: Sequence[int | None], seeds: Sequence[int], split: str) -> list[PlannedRun]:
        problems: dict[str, None] = {}
        found = []
        methods = [(method, rate) for method, values in rates.items() for rate in values]
        # Methods innermost: what a sweep did until it was stopped pairs by seed and order.
        for seed, order, (method, rate) in product(seeds, orders, methods):
            try:
                found.append(self._run(method, rate, order, seed, split))
            except RecipeError as error:
                problems |= dict.fromkeys(error.problems)
        if problems:
            raise RecipeError(*problems)
        return found

    def _run(self, method: str, rate: float | None, order: int | None, seed: int, split: str) -> PlannedRun:
        rated = f"rate{rate or 0:g}"
        name = "-".join([*([f"order{order}"] if order is not None else []), f"seed{seed}"])
        if split == VALIDATION:  # one folder deeper, where `clkit matrix` of the suite's folder does not look
            place = Path(VALIDATION, method, rated, name)
        else:
            place = Path(method, name if rate is None or self.chooses_rates else f"{rated}-{name}")
        given = {
            "name": ("methods", method),
            "benchmark.order": ("orders", order),
            "training.learning_rate": ("rates", rate),
            "seed": ("seeds", seed),
            "evaluation.split": ("rates", split if split == VALIDATION else None),
        }
        changes = in_layers(
            dict(assignments(self.written.step("set"))),
            dict(assignments(self._of_method(method).step("set"))),
            {
                key: Written(value, self.written.nearest([by]).place)
                for key, (by, value) in given.items()
                if value is not None
            },
        )
        source = self._recipe(method)
        recipe = validated(Recipe, changed(self._read(source), changes.items()))
        paths = paths_in(recipe)
        overrides = [f"{key}={as_yaml(with_paths(value, paths))}" for key, value in changes.items()]
        named = source.stem if shipped_recipe(source.stem) == source else str(source)
        arguments = ("train", named, *overrides, *(["--smoke"] if self.smoke else []))
        return PlannedRun(method, place, smoke_recipe(recipe) if self.smoke else recipe, arguments, rate)

    def resolved(self) -> Suite:
        """The suite with every path absolute, so that it means the same in any folder."""
        paths = {path for run in self.runs(self.rates_to_try()) for path in paths_in(run.recipe)}
        paths |= {absolute(str(self._recipe(method))) for method in self.suite.methods}
        return Suite.model_validate(with_paths(self.written, paths))

    def _of_method(self, method: str) -> Written:
        return self.written.nearest(["methods", method])

    def _place_of(self, method: str) -> str:
        return self._of_method(method).place

    def _recipe(self, method: str) -> Path:
        """The file of a method's recipe."""
        path = ["methods", method, "recipe"] if self.suite.methods[method].recipe else ["recipe"]
        written = self.written.nearest(path)
        try:
            return recipe_path(written.value, getattr(written.value, "base", None))
        except UsageError as error:
            raise RecipeError(f"{written.place}: {'.'.join(path)}: {error}") from None

    def _read(self, path: Path) -> Written:
        """A recipe's file, read once for all runs of it."""
        if path not in self._files:
            self._files[path] = read_recipe(path)
        return self._files[path]


def load_either(source: str | Path, overrides: Sequence[str]) -> Recipe | PlannedSuite:
    """The recipe or suite of a name or path.

    Raises:
        UsageError: there is neither.
        RecipeError: with one line per problem.
    """
    if is_suite(read_recipe(recipe_path(source))):
        return PlannedSuite.load(source, overrides)
    return Recipe.load(source, overrides)


def _what_is_read(recipe: Recipe) -> str:
    further = "".join(task.model_dump_json() for task in recipe.further_data())
    return recipe.model_dump_json(exclude=_READ_NOTHING) + further


#: Keys of a recipe that name nothing on this machine, but for further data of strategies.
_READ_NOTHING = {"name", "seed", "protocol", "strategies", "tuning", "evaluation", "saving"}
#: Sections of a recipe of which no model is asked.
_NOT_THE_MODELS = {"name", "seed", "benchmark", "tasks", "data", "evaluation", "saving"}

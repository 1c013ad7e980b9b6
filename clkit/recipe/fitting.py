"""Whether a recipe's model can do what the recipe says, as far as that shows without its weights."""

from __future__ import annotations

from collections.abc import Mapping

from datasets import Dataset

from clkit.errors import StrategyError, UsageError
from clkit.general.ability import refuse_unmeasurable
from clkit.models.family import Family
from clkit.models.layers import embeds_by_its_layer
from clkit.models.loading import load_model
from clkit.models.packed import refuse_unpackable
from clkit.models.positions import refuse_longer_blocks
from clkit.recipe.recipe import Recipe
from clkit.strategies.contract import Strategy
from clkit.strategies.hooks import call, make
from clkit.strategies.registry import load_strategy
from clkit.training.arguments import check_liger, steps

#: Labels of a task whose data say which there are: only the number of a head's rows hangs on them.
_SOME_LABELS = ("a", "b")


def check_model(recipe: Recipe) -> None:
    """Check the model on this machine by its configuration and tokenizer.

    Raises:
        ClkitError: it cannot do what the recipe says.
    """
    tasks = recipe.task_recipes()
    labels = {task.name: task.labels or _SOME_LABELS for task in tasks}
    family = load_model(recipe.model, recipe.tuning, (), recipe.objective, labels, shapes_only=True)
    family.converse(recipe.prompt.chat_template)
    refuse_unfit(recipe, family, weights=False)
    fitting_strategies(recipe, family, {}, len(tasks), weights=False)


def refuse_unfit(recipe: Recipe, family: Family, *, weights: bool) -> None:
    """Refuse a model that cannot be trained or measured as the recipe says.

    Args:
        weights: whether the model has them; without, what only they show is not checked.

    Raises:
        ClkitError: with the key to change.
    """
    training, trains = recipe.training, recipe.protocol != "zero_shot"
    if training.liger:
        check_liger(family.base.config.model_type)
    family.collator()  # which refuses a tokenizer without what the objective needs
    if recipe.objective.kind == "pretraining":
        refuse_longer_blocks(family.base, recipe.objective.block_tokens)
    if training.packing and trains:
        refuse_unpackable(family, try_it=weights)
    if training.neftune_alpha is not None and trains and not _embeds_by_its_layer(family, weights=weights):
        raise UsageError(
            f"training.neftune_alpha: {family.name} models such as this one read their tokens by other layers than the "
            "one that the Trainer adds noise to; leave it out"
        )
    if recipe.general is not None:
        refuse_unmeasurable(recipe.general, family)


def _embeds_by_its_layer(family: Family, *, weights: bool) -> bool:
    try:
        return embeds_by_its_layer(family)
    except Exception:  # no narrower: without weights a model's own code can raise anything
        if weights:
            raise
        return True


def fitting_strategies(
    recipe: Recipe, family: Family, data: Mapping[str, Mapping[str, Dataset]], tasks: int, *, weights: bool
) -> list[Strategy]:
    """The strategies of a recipe, each checked against its model.

    Args:
        data: what their options' `further_data` names, by the strategy's name.
        weights: as in `refuse_unfit`.

    Raises:
        ClkitError: one does not work with such a model, or not as its options say.
    """
    strategies: list[Strategy] = []
    for options in recipe.strategies:
        kind = load_strategy(options.name)
        if family.name not in kind.families:
            raise UsageError(f"strategies.{options.name}: does not work with {family.name} models")
        strategies.append(make(kind, options))
    for strategy in strategies:
        strategy.steps = steps(recipe.training, strategies, strategy)
        strategy.data = data.get(strategy.options.name, {})
        try:
            call(strategy, "check", family, tasks, passing=() if weights else (RuntimeError,))
        except StrategyError as error:  # before the run, an option is wrong, not the run
            raise UsageError(str(error)) from error
        except RuntimeError:  # torch's, where one computes with weights that are not there
            continue
    return strategies

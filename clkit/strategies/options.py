"""The strategies of a recipe: each entry is validated by the options model of the strategy that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from clkit.recipe.section import Section


class StrategyOptions(Section):
    """Options of one strategy. A strategy's own model narrows ``name`` and adds its fields."""

    name: str

    def contradictions(self, tasks: Sequence[str]) -> Iterator[str]:
        """What does not fit the recipe's tasks; each message begins with a key of these options."""
        yield from ()


def _options(value: Any) -> StrategyOptions:
    from clkit.errors import UsageError
    from clkit.strategies.registry import load_strategy

    if isinstance(value, StrategyOptions):
        return value
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise PydanticCustomError("strategy_name", "a strategy is written as {name: migu, ...}")
    try:
        strategy = load_strategy(value["name"])
    except UsageError as error:
        raise PydanticCustomError("unknown_strategy", "{message}", {"message": str(error)}) from None
    return strategy.Options.model_validate(dict(value))


class _ByName:
    """Teaches pydantic to pick the options model by the entry's ``name``, for plugins too."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(lambda options: options.model_dump())
        return core_schema.no_info_plain_validator_function(_options, serialization=dump)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        from clkit.strategies.registry import load_strategy, strategy_names

        models = [load_strategy(name).Options for name in strategy_names()]
        return {"anyOf": [handler(model.__pydantic_core_schema__) for model in models]}


Strategies = list[Annotated[StrategyOptions, _ByName]]

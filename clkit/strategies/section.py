"""The strategies of a recipe: each entry is validated by the options model of the strategy that it names."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import cleandoc
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from clkit.errors import UsageError
from clkit.strategies.contract import Strategy
from clkit.strategies.options import StrategyOptions
from clkit.strategies.registry import load_strategy, strategy_names

#: Strict errors of a tuple, a set, a path and an Enum, which a recipe can only write as a list or a word.
_NOT_IN_YAML = frozenset({"tuple_type", "set_type", "frozen_set_type", "is_instance_of"})


def _options(value: Any) -> StrategyOptions:
    if isinstance(value, StrategyOptions):
        return value
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise PydanticCustomError("strategy_name", "a strategy is written as {name: migu, ...}")
    try:
        strategy = load_strategy(value["name"])
    except UsageError as error:
        raise PydanticCustomError("unknown_strategy", "{message}", {"message": str(error)}) from None
    options = _validated(strategy.Options, {**value, "name": strategy.name})
    return options.model_copy(update={"name": str(value["name"])})


def _validated(options: type[StrategyOptions], value: dict[str, Any]) -> StrategyOptions:
    try:
        return options.model_validate(value)
    except ValidationError as error:
        fields = {str(problem["loc"][0]) for problem in error.errors() if problem["type"] in _NOT_IN_YAML}
        if not fields:
            raise
    try:
        made = {
            name: TypeAdapter(options.model_fields[name].annotation or Any).validate_python(value[name])
            for name in fields
        }
    except ValidationError:
        return options.model_validate(value, strict=False)  # which fails too, and says what in it does not fit
    return options.model_validate({**value, **made})


def _dump(options: StrategyOptions) -> dict[str, Any]:
    # The name apart: module:Class is not what the model narrows.
    return {"name": options.name, **options.model_dump(mode="json", exclude={"name"})}


def _bare_schema(strategy: type[Strategy]) -> dict[str, Any]:
    """The JSON Schema of a strategy without options of its own."""
    about = cleandoc(strategy.__doc__ or strategy.name).partition("\n")[0]
    return {
        "additionalProperties": False,
        "description": about,
        "properties": {"name": {"const": strategy.name, "description": about, "type": "string"}},
        "required": ["name"],
        "type": "object",
    }


class _ByName:
    """Teaches pydantic to pick the options model by the entry's ``name``, for plugins too."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(_dump)
        return core_schema.no_info_plain_validator_function(_options, serialization=dump)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        alternatives = []
        for name in strategy_names():
            try:
                strategy = load_strategy(name)
            except UsageError:  # a broken plugin matters only to a recipe that names it
                continue
            bare = strategy.Options is StrategyOptions
            alternatives.append(_bare_schema(strategy) if bare else handler(strategy.Options.__pydantic_core_schema__))
        return {"anyOf": alternatives}


Strategies = list[Annotated[StrategyOptions, _ByName]]

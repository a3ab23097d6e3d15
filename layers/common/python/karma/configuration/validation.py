"""The schema of each type of component, by which configurations are checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, StringConstraints, ValidationError

from karma.configuration.domain import (
    DEFAULT_TEMPERATURE,
    MAX_DESCRIPTION_CHARS,
    MAX_NAME_CHARS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_TOKENS,
    Component,
    ComponentType,
    InvalidConfiguration,
    ModelSettings,
    component_config,
)
from karma.core.schemas import Body, Number, Whole, line
from karma.core.wording import worded

_MAX_TOLD = 5
"""Errors in one answer at the most."""
_MAX_FIELD_CHARS = 64
_TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"


def _distinct(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


_Tag = Annotated[str, line(MAX_TAG_CHARS)]


class ComponentSchema(Body):
    """Fields of every component."""

    name: str
    type: ComponentType
    description: Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION_CHARS, pattern=_TEXT)] = ""
    enabled: StrictBool = True
    """False: new runs may not use it."""
    tags: Annotated[list[_Tag], Field(max_length=MAX_TAGS), AfterValidator(_distinct)] = Field(default_factory=list)


class AgentSchema(ComponentSchema):
    """An agent of the catalogue."""

    type: Literal[ComponentType.AGENT]


class ToolSchema(ComponentSchema):
    """A tool."""

    type: Literal[ComponentType.TOOL]


class ModelSchema(ComponentSchema):
    """A model, or another name for one."""

    type: Literal[ComponentType.MODEL]
    provider: Literal["anthropic"] = "anthropic"
    model: Annotated[str, StringConstraints(max_length=MAX_NAME_CHARS)]
    """A model id that the engine can run; for any other the answer lists them."""
    temperature: Annotated[Number, Field(ge=0, le=1)] = DEFAULT_TEMPERATURE
    """Stored and shown only; the model API accepts no sampling parameters, so runs do not send it."""
    max_tokens: Annotated[Whole, Field(ge=1, le=MAX_TOKENS)] | None = None
    """Output tokens of one call; null: the engine's own limit."""


_SCHEMAS: Mapping[ComponentType, type[ComponentSchema]] = {
    ComponentType.AGENT: AgentSchema,
    ComponentType.MODEL: ModelSchema,
    ComponentType.TOOL: ToolSchema,
}


def validated(
    name: str, config: Mapping[str, Any], *, base: Component | None, models: Collection[str], tools: Collection[str]
) -> Component:
    """Check a configuration; fields that it leaves out are as in `base`, or have their defaults.

    Args:
        name: name of the component; `config` may repeat it.
        config: the configuration as a client sent it.
        base: the current component; None: it is new.
        models: ids of models that the engine can run.
        tools: names of tools that exist.

    Raises:
        InvalidConfiguration: fields are wrong; one entry each.
    """
    kind = _kind(config, base)
    whole = {**(component_config(base) if base else {}), "name": name, **config, "type": kind}
    try:
        found = _SCHEMAS[kind].model_validate(whole)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)[:_MAX_TOLD]
        raise InvalidConfiguration([(_field(error["loc"]), worded(error)) for error in errors]) from None
    if found.name != name:
        raise InvalidConfiguration([("name", "is not the one in the path")])
    if isinstance(found, ToolSchema) and name not in tools:
        raise InvalidConfiguration([("name", f"must be one of {', '.join(tools)}")])
    settings = None
    if isinstance(found, ModelSchema):
        if found.model not in models:
            raise InvalidConfiguration([("model", f"must be one of {', '.join(models)}")])
        settings = ModelSettings(
            model=found.model, provider=found.provider, temperature=found.temperature, max_tokens=found.max_tokens
        )
    return Component(
        name=name,
        type=kind,
        description=found.description,
        enabled=found.enabled,
        tags=tuple(found.tags),
        model=settings,
    )


def _kind(config: Mapping[str, Any], base: Component | None) -> ComponentType:
    asked = config.get("type", base.type.value if base else None)
    if not isinstance(asked, str) or asked not in {kind.value for kind in ComponentType}:
        raise InvalidConfiguration([("type", f"must be one of {', '.join(kind.value for kind in ComponentType)}")])
    if base is not None and asked != base.type:
        raise InvalidConfiguration([("type", f"is {base.type.value} and stays so")])
    return ComponentType(asked)


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)[:_MAX_FIELD_CHARS]

"""The schema of each type of component, by which configurations are checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field, StrictBool, StringConstraints, ValidationError

from karma.configuration.domain import (
    DEFAULT_TEMPERATURE,
    MAX_CONTEXT_WINDOW,
    MAX_DESCRIPTION_CHARS,
    MAX_NAME_CHARS,
    MAX_PRICE_USD,
    MAX_PRICES,
    MAX_SECRET_CHARS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_TOKENS,
    MAX_URL_CHARS,
    Component,
    ComponentType,
    InvalidConfiguration,
    ModelSettings,
    component_config,
)
from karma.core.addresses import split_address
from karma.core.schemas import COMPOSED, Body, Number, Whole, line
from karma.core.wording import worded
from karma.models.addresses import may_serve_models
from karma.models.domain import ANTHROPIC, OPENAI, OPENAI_URL, Price, Rates

_MAX_TOLD = 5
"""Errors in one answer at the most."""
_MAX_FIELD_CHARS = 64
_MICRO = 1_000_000
_KEY_NAME = r"^[A-Za-z0-9_-]*$"
_TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"


def _address(text: str) -> str:
    """Check an address that administrators give; their own networks are theirs to name, but no metadata service."""
    if not text:
        return text
    if not text.lower().startswith(("http://", "https://")) or not text.isascii() or " " in text:
        raise ValueError("must be an http: or https: URL with a host")
    found = split_address(text)
    if "@" in found.netloc or found.query or found.fragment or text.endswith(("?", "#")):
        raise ValueError("must have no user, query or fragment")
    if not may_serve_models(str(found.hostname)):
        raise ValueError("must not be a link-local address")
    return text.rstrip("/")


def _distinct(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


_Tag = Annotated[str, line(MAX_TAG_CHARS), COMPOSED]


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


_Dollars = Annotated[Number, Field(ge=0, le=MAX_PRICE_USD)]


class PriceSchema(Body):
    """The price of a model from a moment on, in dollars for a million tokens."""

    since: AwareDatetime
    input: _Dollars
    output: _Dollars
    cache_write: _Dollars | None = None
    """Null: as `input`."""
    cache_read: _Dollars | None = None
    """Null: as `input`."""

    def price(self) -> Price:
        """Return the price."""
        write, read = (self.input if each is None else each for each in (self.cache_write, self.cache_read))
        figures = (round(each * _MICRO) for each in (self.input, self.output, write, read))
        names = ("input", "output", "cache_write", "cache_read")
        return Price(since=self.since.astimezone(UTC), rates=Rates(**dict(zip(names, figures, strict=True))))


class ModelSchema(ComponentSchema):
    """A model, or another name for one."""

    type: Literal[ComponentType.MODEL]
    provider: Literal["anthropic", "openai"] = "anthropic"
    """`openai`: the Chat Completions API, of whichever server."""
    model: Annotated[str, line(MAX_NAME_CHARS)]
    """A model id that the engine can run, for any other the answer lists them; of `openai` any that the server has."""
    base_url: Annotated[str, StringConstraints(max_length=MAX_URL_CHARS), AfterValidator(_address)] | None = None
    """Address of an `openai` server, such as `http://vllm.internal:8000/v1`; null: OpenAI's own."""
    secret: Annotated[str, StringConstraints(max_length=MAX_SECRET_CHARS, pattern=_KEY_NAME)] | None = None
    """Name of the key of an `openai` server in the deployment's secret of models; null: `openai` for OpenAI's own
    address, and no key for another."""
    images: StrictBool = True
    """False: the model reads no images; they are left out of what it is sent."""
    context_window: Annotated[Whole, Field(ge=1, le=MAX_CONTEXT_WINDOW)] | None = None
    prices: Annotated[list[PriceSchema], Field(max_length=MAX_PRICES)] = Field(default_factory=list)
    """None: the published ones; a model without any counts as the dearest."""
    fallback: Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS)] | None = None
    """Name of a model's component, which answers where this model is overloaded or away."""
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
        settings = _settings(found, models)
    return Component(
        name=name,
        type=kind,
        description=found.description,
        enabled=found.enabled,
        tags=tuple(found.tags),
        model=settings,
    )


def _settings(found: ModelSchema, models: Collection[str]) -> ModelSettings:
    wrong: list[tuple[str, str]] = []
    if found.provider == ANTHROPIC:
        if found.model not in models:
            wrong.append(("model", f"must be one of {', '.join(models)}"))
        wrong += [
            (name, "is for models of the provider openai")
            for name, value in (("base_url", found.base_url), ("secret", found.secret))
            if value
        ]
    prices = sorted((each.price() for each in found.prices), key=lambda price: price.since)
    if len({price.since for price in prices}) < len(prices):
        wrong.append(("prices", "two begin at the same moment"))
    if wrong:
        raise InvalidConfiguration(wrong)
    is_openai_s_own = found.provider == OPENAI and found.base_url in {None, "", OPENAI_URL}
    return ModelSettings(
        model=found.model,
        provider=found.provider,
        temperature=found.temperature,
        max_tokens=found.max_tokens,
        base_url="" if is_openai_s_own else found.base_url or "",
        secret=OPENAI if is_openai_s_own and found.secret is None else found.secret or "",
        images=found.images,
        context_window=found.context_window,
        prices=tuple(prices),
        fallback=found.fallback,
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

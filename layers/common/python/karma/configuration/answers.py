"""Answers of the configuration routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, cast

from karma.configuration.domain import (
    Change,
    ChangeType,
    Component,
    ComponentType,
    Standing,
    component_config,
    missing,
    model_config,
    rates_config,
    target_of,
)
from karma.core.clock import iso
from karma.models.prices import is_published, price_of

if TYPE_CHECKING:
    from datetime import datetime

    from karma.configuration.service import Listed


class ConfigSummaryView(TypedDict):
    """A component in the list."""

    name: str
    type: ComponentType
    description: str
    enabled: bool
    tags: list[str]
    built_in: bool
    """The component is part of the code: deleting its configuration restores that of the code."""
    version: int
    """Number of its changes."""


def config_summary_view(listed: Listed) -> ConfigSummaryView:
    """Shape a component for lists."""
    return _summary(listed.component, version=listed.version, is_built_in=listed.is_built_in)


def _summary(component: Component, *, version: int, is_built_in: bool) -> ConfigSummaryView:
    return {
        "name": component.name,
        "type": component.type,
        "description": component.description,
        "enabled": component.enabled,
        "tags": list(component.tags),
        "built_in": is_built_in,
        "version": version,
    }


class ModelPriceView(TypedDict):
    """The price of a model from a moment on, in dollars for a million tokens."""

    since: str
    input: float
    output: float
    cache_write: float
    """Tokens that are written into the provider's cache."""
    cache_read: float
    """Tokens that are read from it."""


class ConfigView(ConfigSummaryView):
    """One component."""

    provider: NotRequired[str]
    """Provider of a model; only models have this and the next fields, and of those after `max_tokens` those that are
    set."""
    model: NotRequired[str]
    temperature: NotRequired[float]
    max_tokens: NotRequired[int | None]
    base_url: NotRequired[str]
    secret: NotRequired[str]
    """Name of the key in the deployment's secret, never the key."""
    images: NotRequired[bool]
    context_window: NotRequired[int]
    prices: NotRequired[list[ModelPriceView]]
    fallback: NotRequired[str]
    updated_at: str | None


def config_view(found: Standing) -> ConfigView:
    """Shape a component with all its fields."""
    component = found.component
    if component is None:
        raise missing("")
    of_models = model_config(component.model) if component.model is not None else {}
    shown: dict[str, Any] = {
        **_summary(component, version=found.version, is_built_in=found.is_built_in),
        **of_models,
        "updated_at": iso(found.updated_at) if found.updated_at else None,
    }
    return cast("ConfigView", shown)


class RatesView(TypedDict):
    """Present price of a model, in dollars for a million tokens."""

    basis: Literal["configured", "published", "assumed"]
    """`assumed`: no price is known, and calls count as those of the dearest model that has one."""
    input: float
    output: float
    cache_write: float
    cache_read: float


class ModelView(TypedDict):
    """A model that agents may name, and whoever asks a model directly."""

    name: str
    provider: str
    model: str
    """The provider's id."""
    description: str
    tags: list[str]
    is_default: bool
    """The built-in agent's model."""
    images: bool
    """It reads images."""
    context_window: int | None
    """Tokens that it reads and writes in one call. Null: not configured."""
    max_tokens: int | None
    """Output tokens of one call. Null: the engine's own limit."""
    fallback: str | None
    """Name of the model that answers where it cannot."""
    price: RatesView


class ModelListData(TypedDict):
    """`GET /llm/models`: the models that are configured and enabled."""

    total: int
    models: list[ModelView]


def model_view(component: Component, *, default: str, at: datetime) -> ModelView:
    """Shape a model with its price at a moment; `default` is the name of the built-in agent's model."""
    settings = component.model
    if settings is None:
        raise missing(component.name)
    target = target_of(settings)
    rates = price_of(target, at).rates
    return {
        "name": component.name,
        "provider": settings.provider,
        "model": settings.model,
        "description": component.description,
        "tags": list(component.tags),
        "is_default": component.name == default,
        "images": settings.images,
        "context_window": settings.context_window,
        "max_tokens": settings.max_tokens,
        "fallback": settings.fallback,
        "price": {
            "basis": "configured" if settings.prices else "published" if is_published(target) else "assumed",
            **rates_config(rates),
        },
    }


class ConfigListData(TypedDict):
    """`GET /config`: all components."""

    total: int
    configs: list[ConfigSummaryView]


class ConfigData(TypedDict):
    """`GET /config/{component_name}`."""

    config: ConfigView


class ConfigChangedData(TypedDict):
    """Answer to a change."""

    message: str
    config: ConfigView


class AgioConfigChangedData(TypedDict):
    """Answer to a change in the Agio API."""

    success: bool
    message: str


class ConfigChangeView(TypedDict):
    """An entry of a history."""

    version: int
    change_type: ChangeType
    timestamp: str
    changed_by: str
    """Id of the administrator."""
    old_config: dict[str, Any] | None
    """Configuration before the change. Null: there was none."""
    new_config: dict[str, Any] | None
    """Configuration after the change. Null: it was deleted."""
    rolled_back_to: int | None


def config_change_view(change: Change) -> ConfigChangeView:
    """Shape an entry of a history."""
    return {
        "version": change.version,
        "change_type": change.type,
        "timestamp": iso(change.at),
        "changed_by": change.by,
        "old_config": component_config(change.old) if change.old else None,
        "new_config": component_config(change.new) if change.new else None,
        "rolled_back_to": change.rolled_back_to,
    }


class ConfigHistoryData(TypedDict):
    """`GET /config/{component_name}/history`, newest first."""

    component_name: str
    history: list[ConfigChangeView]
    total: int
    limit: int
    next_cursor: str | None


class AgioConfigHistoryData(TypedDict):
    """`GET /api/config/{component_name}/history`."""

    component_name: str
    history: list[ConfigChangeView]
    total: int
    limit: int
    offset: int

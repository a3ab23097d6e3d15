"""Components of the deployment that admins configure while it runs: models, agents and tools. Frozen; no I/O.

Components that are part of the code are listed as built in, at version 0, before anybody configured anything. The
version of a component is the number of its changes, also across deletions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypedDict

from karma.core.clock import iso
from karma.core.errors import Conflict, InvalidRequest, NotFound, StaleVersion
from karma.core.ids import UserId
from karma.core.records import Record
from karma.models.domain import ANTHROPIC, Price, Rates, Target

MAX_NAME_CHARS: Final = 100
MAX_DESCRIPTION_CHARS: Final = 500
MAX_TAGS: Final = 10
MAX_TAG_CHARS: Final = 50
MAX_TOKENS: Final = 64_000
"""Output tokens of one answer of a model at the most."""
MAX_STORED: Final = 200
"""Stored components at the most: all of them are read at once."""
MAX_VERSION: Final = 10**8 - 1
"""Greatest version for which keys have digits."""
DEFAULT_TEMPERATURE: Final = 0.7
MAX_URL_CHARS: Final = 300
MAX_SECRET_CHARS: Final = 64
MAX_PRICES: Final = 20
MAX_PRICE_USD: Final = 10_000
"""Dollars for a million tokens at the most."""
MAX_CONTEXT_WINDOW: Final = 100_000_000
MAX_FALLBACKS: Final = 3
"""Models that may answer in a model's place, one after the other."""
BUILT_IN_TAG: Final = "built-in"

UNREACHABLE: Final = frozenset("%?")
"""Characters that no new name has, since a gateway may decode a path once more, or end it there."""
_NAME = re.compile(r"[^\x00-\x20\x7f/\ud800-\udfff](?:[^\x00-\x1f\x7f/\ud800-\udfff]*[^\x00-\x20\x7f/\ud800-\udfff])?")


class ComponentType(StrEnum):
    """Kind of a component."""

    MODEL = "model"
    AGENT = "agent"
    TOOL = "tool"


class ChangeType(StrEnum):
    """Kind of a change."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    ROLLED_BACK = "rolled_back"


_IN_MESSAGE = 10


class InvalidConfiguration(InvalidRequest):
    """A configuration breaks the rules of its type; the message says which."""

    code = "INVALID_CONFIGURATION"

    def __init__(self, wrong: Sequence[tuple[str, str]]) -> None:
        """Make the error from pairs of field and message."""
        told = "; ".join(f"{field[:64]}: {message[:200]}" for field, message in wrong[:_IN_MESSAGE])
        details = [{"field": field, "message": message, "type": "value_error"} for field, message in wrong]
        super().__init__(f"Invalid configuration: {told}", details=details)


class ComponentUnavailable(Conflict):
    """A run names a component that is disabled or not configured; `details` name it."""

    code = "COMPONENT_UNAVAILABLE"

    def __init__(self, kind: ComponentType, name: str, why: str) -> None:
        super().__init__(f"{kind.value.capitalize()} '{name}' {why}", details={"type": kind.value, "name": name})


class ComponentChanged(StaleVersion):
    """Another request changed the component after it was read: read it again."""


class ModelSettings(Record, kw_only=True):
    """Fields that only models have."""

    model: str
    """The provider's id of the model that an agent uses when it names this component."""
    provider: str = ANTHROPIC
    temperature: float = DEFAULT_TEMPERATURE
    """Stored and shown only; the model API accepts no sampling parameters, so runs do not send it."""
    max_tokens: int | None = None
    """Output tokens of one call; None: the engine's own limit."""
    base_url: str = ""
    """Address of an OpenAI-compatible API, without a slash at its end; "": the provider's own."""
    secret: str = ""
    """Name of the key in the deployment's secret of models; "": the provider's own key, or none where the address is
    another."""
    images: bool = True
    """The model reads images."""
    context_window: int | None = None
    """Tokens that the model reads and writes in one call: near it, conversations are summarised; None: as published."""
    prices: tuple[Price, ...] = ()
    """Oldest first; (): the published ones, or the dearest of those."""
    fallback: str | None = None
    """Name of the component of the model that answers where this one cannot; None: none does."""


def target_of(settings: ModelSettings) -> Target:
    """Return a configured model as runs ask it."""
    return Target(
        model=settings.model,
        provider=settings.provider,
        base_url=settings.base_url,
        secret=settings.secret,
        images=settings.images,
        max_tokens=settings.max_tokens,
        context_window=settings.context_window,
        prices=settings.prices,
    )


class Component(Record, kw_only=True):
    """One component with its configuration."""

    name: str
    type: ComponentType
    description: str = ""
    enabled: bool = True
    """False: new runs may not use it; running ones go on."""
    tags: tuple[str, ...] = ()
    model: ModelSettings | None = None
    """Set for each model; None for other types."""


class Change(Record, kw_only=True):
    """One entry of a component's history, which is never changed."""

    name: str
    version: int
    """From 1, without gaps."""
    type: ChangeType
    at: datetime
    by: UserId
    old: Component | None
    """The component before the change, which may be the built-in one; None: there was none."""
    new: Component | None
    """The component after the change; None: its configuration was deleted, a built-in one is as in the code again.
    """
    rolled_back_to: int | None = None


class Standing(Record, kw_only=True):
    """The current state of a component; `component` None: there is none of that name (any more)."""

    component: Component | None
    version: int
    """Number of changes so far; 0: it was never configured."""
    is_built_in: bool
    """A component of this name is part of the code."""
    is_stored: bool
    """The component was configured; else it is as in the code."""
    updated_at: datetime | None


def missing(name: str) -> NotFound:
    """Return the error that there is no component of a name."""
    return NotFound(f"Configuration '{name[:MAX_NAME_CHARS]}' not found")


def is_reachable(name: str) -> bool:
    """Tell whether a path can hold a name, at every address: clients take `.` and `..` away, gateways read the rest."""
    return name not in {".", ".."} and not set(name) & UNREACHABLE


def is_name(text: str) -> bool:
    """Tell whether a component may have this name: printable, without `/` and outer spaces, 1 to 100 characters."""
    return len(text) <= MAX_NAME_CHARS and _NAME.fullmatch(text) is not None


def standing(name: str, last: Change | None, built_in: Mapping[str, Component]) -> Standing:
    """Return the state of a component after its last change."""
    stored = last.new if last else None
    return Standing(
        component=stored or built_in.get(name),
        version=last.version if last else 0,
        is_built_in=name in built_in,
        is_stored=stored is not None,
        updated_at=last.at if last else None,
    )


def component_config(component: Component) -> dict[str, Any]:
    """Return a component as clients write it and histories show it."""
    config: dict[str, Any] = {
        "name": component.name,
        "type": component.type.value,
        "description": component.description,
        "enabled": component.enabled,
        "tags": list(component.tags),
    }
    if component.model is not None:
        config |= model_config(component.model)
    return config


_PLAIN: Final = ModelSettings(model="")


def model_config(settings: ModelSettings) -> dict[str, Any]:
    """Return the fields that only models have, as clients write them; of the later ones those that are set."""
    config: dict[str, Any] = {
        "provider": settings.provider,
        "model": settings.model,
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
    }
    for name in ("base_url", "secret", "images", "context_window", "fallback"):
        value = getattr(settings, name)
        if value != getattr(_PLAIN, name):
            config[name] = value
    if settings.prices:
        config["prices"] = [price_config(price) for price in settings.prices]
    return config


def price_config(price: Price) -> dict[str, Any]:
    """Return a price as clients write it, in dollars for a million tokens."""
    return {"since": iso(price.since), **rates_config(price.rates)}


class RatesConfig(TypedDict):
    """Rates as clients write them, in dollars for a million tokens."""

    input: float
    output: float
    cache_write: float
    cache_read: float


def rates_config(rates: Rates) -> RatesConfig:
    """Return rates as clients write them."""
    return {
        "input": rates.input / _MICRO,
        "output": rates.output / _MICRO,
        "cache_write": rates.cache_write / _MICRO,
        "cache_read": rates.cache_read / _MICRO,
    }


_MICRO: Final = 1_000_000


def change_type(old: Component | None, new: Component | None) -> ChangeType:
    """Return the kind of a change that is no rollback."""
    if new is None:
        return ChangeType.DELETED
    return ChangeType.UPDATED if old else ChangeType.CREATED


def built_in_components(
    *, models: Sequence[str], tools: Mapping[str, str], agents: Mapping[str, str]
) -> dict[str, Component]:
    """Return the components that are part of the code: models by id, tools and agents by name with description."""
    tags = (BUILT_IN_TAG,)
    found = [
        *(
            Component(
                name=model,
                type=ComponentType.MODEL,
                description=f"{model} of {ANTHROPIC}",
                tags=tags,
                model=ModelSettings(model=model),
            )
            for model in dict.fromkeys(models)
        ),
        *(Component(name=name, type=ComponentType.AGENT, description=text, tags=tags) for name, text in agents.items()),
        *(Component(name=name, type=ComponentType.TOOL, description=text, tags=tags) for name, text in tools.items()),
    ]
    return {component.name: component for component in found}

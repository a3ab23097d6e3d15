"""Components of the deployment that admins configure while it runs: models, agents and tools. Frozen; no I/O.

What code brings is listed as built in, at version 0, before anybody wrote anything. The version of a component is the
number of its changes, and goes on through deletions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from karma.core.errors import Conflict, InvalidRequest, NotFound, StaleVersion
from karma.core.ids import UserId

MAX_NAME_CHARS: Final = 100
MAX_DESCRIPTION_CHARS: Final = 500
MAX_TAGS: Final = 10
MAX_TAG_CHARS: Final = 50
MAX_TOKENS: Final = 64_000
"""Of one answer of a model."""
MAX_STORED: Final = 200
"""Components that somebody wrote: all of them are read at once."""
MAX_VERSION: Final = 10**8 - 1
"""What a key holds."""
DEFAULT_TEMPERATURE: Final = 0.7
PROVIDER: Final = "anthropic"
BUILT_IN_TAG: Final = "built-in"

_NAME = re.compile(r"[^\x00-\x20\x7f/\ud800-\udfff](?:[^\x00-\x1f\x7f/\ud800-\udfff]*[^\x00-\x20\x7f/\ud800-\udfff])?")


class ComponentType(StrEnum):
    """What can be configured."""

    MODEL = "model"
    AGENT = "agent"
    TOOL = "tool"


class ChangeType(StrEnum):
    """How a component changed."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    ROLLED_BACK = "rolled_back"


_IN_MESSAGE = 10


class InvalidConfiguration(InvalidRequest):
    """A configuration breaks the rules of its type; the message says which."""

    code = "INVALID_CONFIGURATION"

    def __init__(self, wrong: Sequence[tuple[str, str]]) -> None:
        """`wrong` are fields with what is wrong of each."""
        told = "; ".join(f"{field[:64]}: {message[:200]}" for field, message in wrong[:_IN_MESSAGE])
        details = [{"field": field, "message": message, "type": "value_error"} for field, message in wrong]
        super().__init__(f"Invalid configuration: {told}", details=details)


class ComponentUnavailable(Conflict):
    """A run names a component that is disabled, or is configured no more; `details` name it."""

    code = "COMPONENT_UNAVAILABLE"

    def __init__(self, kind: ComponentType, name: str, why: str) -> None:
        super().__init__(f"{kind.value.capitalize()} '{name}' {why}", details={"type": kind.value, "name": name})


class ComponentChanged(StaleVersion):
    """Another request changed the component between our reading of it and our write: read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What only models have."""

    model: str
    """The provider's id: what is called when an agent names the component."""
    provider: str = PROVIDER
    temperature: float = DEFAULT_TEMPERATURE
    """Kept and shown; the model API takes no sampling parameters, so a run does not send it."""
    max_tokens: int | None = None
    """Output tokens a call; None: the engine's own limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One component as it is configured."""

    name: str
    type: ComponentType
    description: str = ""
    enabled: bool = True
    """Disabled: new runs may not use it; those that execute go on."""
    tags: tuple[str, ...] = ()
    model: ModelSettings | None = None
    """Of models only, and of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of a component's history; never changed itself."""

    name: str
    version: int
    """From 1, without gaps."""
    type: ChangeType
    at: datetime
    by: UserId
    old: Component | None
    """What stood before, which may be what code brings; None: nothing did."""
    new: Component | None
    """None: deleted; of a component that is built in, what code brings stands again."""
    rolled_back_to: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A component as it stands; `component` None: there is none of that name (any more)."""

    component: Component | None
    version: int
    """Number of changes so far; 0: nobody wrote anything."""
    is_built_in: bool
    """Code brings one of this name."""
    is_stored: bool
    """Somebody wrote it; else it is what code brings."""
    updated_at: datetime | None


def missing(name: str) -> NotFound:
    """Make the failure that there is no component of a name."""
    return NotFound(f"Configuration '{name[:MAX_NAME_CHARS]}' not found")


def is_name(text: str) -> bool:
    """Tell whether a component may have this name: printable, without `/` and outer spaces, 1 to 100 characters."""
    return len(text) <= MAX_NAME_CHARS and _NAME.fullmatch(text) is not None


def standing(name: str, last: Change | None, built_in: Mapping[str, Component]) -> Standing:
    """Tell how a component stands after its last change."""
    stored = last.new if last else None
    return Standing(
        component=stored or built_in.get(name),
        version=last.version if last else 0,
        is_built_in=name in built_in,
        is_stored=stored is not None,
        updated_at=last.at if last else None,
    )


def component_config(component: Component) -> dict[str, Any]:
    """Shape a component as a client writes it, and as histories show it."""
    config: dict[str, Any] = {
        "name": component.name,
        "type": component.type.value,
        "description": component.description,
        "enabled": component.enabled,
        "tags": list(component.tags),
    }
    if component.model is not None:
        config |= {
            "provider": component.model.provider,
            "model": component.model.model,
            "temperature": component.model.temperature,
            "max_tokens": component.model.max_tokens,
        }
    return config


def change_type(old: Component | None, new: Component | None) -> ChangeType:
    """Name a change that is no rollback."""
    if new is None:
        return ChangeType.DELETED
    return ChangeType.UPDATED if old else ChangeType.CREATED


def built_in_components(
    *, models: Sequence[str], tools: Mapping[str, str], agents: Mapping[str, str]
) -> dict[str, Component]:
    """List what code brings: models by id, tools and agents by name with what they do."""
    tags = (BUILT_IN_TAG,)
    found = [
        *(
            Component(
                name=model,
                type=ComponentType.MODEL,
                description=f"{model} of {PROVIDER}",
                tags=tags,
                model=ModelSettings(model=model),
            )
            for model in dict.fromkeys(models)
        ),
        *(Component(name=name, type=ComponentType.AGENT, description=text, tags=tags) for name, text in agents.items()),
        *(Component(name=name, type=ComponentType.TOOL, description=text, tags=tags) for name, text in tools.items()),
    ]
    return {component.name: component for component in found}

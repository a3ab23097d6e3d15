"""Bodies and answers of the configuration routes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictBool

from karma.configuration.domain import ChangeType, ComponentType
from karma.core.schemas import Body, Data, FreeForm, Version, Whole

SeenVersion = Annotated[Whole, Field(ge=0, examples=[0])]
"""Of the component that was read; 0 is what code brings."""


class ConfigBody(Body):
    """`PUT /config/{component_name}`: what `config` leaves out stays as it is."""

    config: FreeForm
    """`type` (of a new component), `description`, `enabled`, `tags`; of a model also `provider`, `model`,
    `temperature`, `max_tokens`."""
    validate_only: StrictBool = False
    """Say what would be answered, and change nothing."""
    version: SeenVersion | None = None
    """Another one stored answers 409 STALE_VERSION."""


class RollbackBody(Body):
    """`POST /config/{component_name}/rollback`."""

    version: Version
    """What the component was after this change."""


class ConfigSummaryView(Data):
    """A component in the list."""

    name: str
    type: ComponentType
    description: str
    enabled: bool
    tags: list[str]
    built_in: bool
    """Code brings it: deleting it brings that back."""
    version: int
    """Number of its changes."""


class ConfigView(ConfigSummaryView):
    """One component."""

    provider: str | None = None
    """Of models, as the next three."""
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    updated_at: str | None


class ConfigListData(Data):
    """`GET /config`: all of them."""

    total: int
    configs: list[ConfigSummaryView]


class ConfigData(Data):
    """`GET /config/{component_name}`."""

    config: ConfigView


class ConfigChangedData(Data):
    """What a change answers."""

    message: str
    config: ConfigView


class AgioConfigChanged(Data):
    """What a change answers in the Agio API."""

    success: bool
    message: str


class ConfigChangeView(Data):
    """An entry of a history."""

    version: int
    change_type: ChangeType
    timestamp: str
    changed_by: str
    """Id of the administrator."""
    old_config: dict[str, Any] | None
    """Null: there was none."""
    new_config: dict[str, Any] | None
    """Null: deleted."""
    rolled_back_to: int | None


class ConfigHistoryData(Data):
    """`GET /config/{component_name}/history`, newest first."""

    component_name: str
    history: list[ConfigChangeView]
    total: int
    limit: int
    next_cursor: str | None


class AgioConfigHistory(Data):
    """`GET /api/config/{component_name}/history`."""

    component_name: str
    history: list[ConfigChangeView]
    total: int
    limit: int
    offset: int

"""Services of configured components."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from api.services import agents
from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.configuration.current import CurrentConfiguration
    from karma.configuration.domain import Component as ConfiguredComponent
    from karma.configuration.repository import ConfigurationRepository
    from karma.configuration.service import ConfigurationService


@cache
def components() -> ConfigurationRepository:
    """Return the repository of components."""
    from karma.configuration.repository import ConfigurationRepository

    return ConfigurationRepository()


@cache
def built_in() -> Mapping[str, ConfiguredComponent]:
    """Return the components that code defines, by name."""
    from karma.agents.configurable import built_in_components

    return built_in_components(settings().model_id)


@cache
def service() -> ConfigurationService:
    """Return the service of models, agents and tools."""
    from karma.agents.domain import MODELS
    from karma.configuration.service import ConfigurationService

    return ConfigurationService(
        components(),
        clock(),
        built_in=built_in(),
        models=tuple(dict.fromkeys((settings().model_id, *MODELS))),
        has_agent=lambda name: agents.catalogue().has_name(name),
        on_change=current().forget,
    )


@cache
def current() -> CurrentConfiguration:
    """Return the current configuration of components."""
    from karma.configuration.current import CurrentConfiguration

    return CurrentConfiguration(components(), built_in=built_in())

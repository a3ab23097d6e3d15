"""The catalogue of agents, and runs."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.deps import configuration
from api.deps.process import clock, settings

if TYPE_CHECKING:
    from karma.agents.catalogue.service import Catalogue
    from karma.agents.reading import RunReader


@cache
def catalogue() -> Catalogue:
    """Show and change the agents that runs execute."""
    from karma.agents.builtins import declared_tools
    from karma.agents.catalogue.domain import MODELS
    from karma.agents.catalogue.repository import DynamoAgentStore
    from karma.agents.catalogue.service import Catalogue

    tools = [tool.name for tool in declared_tools()]
    return Catalogue(
        DynamoAgentStore(),
        clock(),
        models=(settings().model_id, *MODELS),
        tools=tools,
        more_models=lambda: configuration.service().model_names(),
    )


@cache
def runs() -> RunReader:
    """Show runs and their logs."""
    from karma.agents.reading import RunReader
    from karma.agents.repository import DynamoRunStore

    return RunReader(DynamoRunStore())

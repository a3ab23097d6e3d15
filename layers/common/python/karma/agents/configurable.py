"""Components that admins can configure: the engine's models and tools, and the built-in agent."""

from __future__ import annotations

from collections.abc import Mapping

from karma.agents.domain import BUILT_IN_DESCRIPTION, BUILT_IN_ID, MODELS
from karma.configuration import domain
from karma.tools.server_tools import declared_tools


def built_in_components(model: str) -> Mapping[str, domain.Component]:
    """Return the components that are part of the code; `model` is the deployment's default model."""
    return domain.built_in_components(
        models=(model, *MODELS),
        tools={tool.name: tool.description for tool in declared_tools()},
        agents={BUILT_IN_ID: BUILT_IN_DESCRIPTION},
    )

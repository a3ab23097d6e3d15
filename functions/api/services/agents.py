"""Services of agents and runs."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services import configuration
from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.agents.service import Catalogue
    from karma.runs.control import RunControl
    from karma.runs.reading import RunReader


@cache
def catalogue() -> Catalogue:
    """Return the catalogue of agents."""
    from karma.agents.domain import MODELS
    from karma.agents.repository import AgentRepository
    from karma.agents.service import Catalogue
    from karma.tools.device_tools import declared_tools

    tools = [tool.name for tool in declared_tools()]
    return Catalogue(
        AgentRepository(),
        clock(),
        models=(settings().model_id, *MODELS),
        tools=tools,
        more_models=lambda: configuration.service().model_names(),
    )


@cache
def runs() -> RunReader:
    """Return the reader of runs and their logs."""
    from karma.runs.reading import RunReader
    from karma.runs.repository import RunRepository

    return RunReader(RunRepository())


@cache
def control() -> RunControl:
    """Return the control of runs."""
    from karma.integrations.sqs import SqsQueue
    from karma.runs.control import RunControl
    from karma.runs.repository import RunRepository
    from karma.runs.watchdog import QueuedExecutions, QueueWatchdog

    return RunControl(
        RunRepository(),
        executions=QueuedExecutions(SqsQueue(settings().executions_queue_url)),
        watchdog=QueueWatchdog(SqsQueue(settings().runs_queue_url)),
        clock=clock(),
    )

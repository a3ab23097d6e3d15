"""Services of agents and runs."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services import configuration
from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.agents.service import Catalogue
    from karma.runs.chat_log import ChatLog
    from karma.runs.checkpoints import CheckpointService
    from karma.runs.control import RunControl
    from karma.runs.reading import RunReader
    from karma.runs.steps import StepReader


@cache
def catalogue() -> Catalogue:
    """Return the catalogue of agents."""
    from karma.agents.domain import MODELS
    from karma.agents.repository import AgentRepository
    from karma.agents.service import Catalogue
    from karma.tools.server_tools import declared_tools

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
        agents=catalogue(),
    )


@cache
def steps() -> StepReader:
    """Return the reader of the steps of runs."""
    from karma.runs.checkpoint_repository import CheckpointRepository
    from karma.runs.repository import RunRepository
    from karma.runs.steps import StepReader

    return StepReader(RunRepository(), CheckpointRepository())


@cache
def chat_log() -> ChatLog:
    """Return the reader of runs' logs as events of Agio's chat."""
    from karma.runs.chat_log import ChatLog
    from karma.runs.repository import RunRepository

    return ChatLog(RunRepository())


@cache
def checkpoints() -> CheckpointService:
    """Return the reader of the points of runs, which also labels them."""
    from karma.runs.checkpoint_repository import CheckpointRepository
    from karma.runs.checkpoints import CheckpointService
    from karma.runs.repository import RunRepository

    return CheckpointService(RunRepository(), CheckpointRepository(), clock())

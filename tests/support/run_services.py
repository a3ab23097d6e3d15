"""A service of runs, with an executor that has the same store, model and tools."""

from __future__ import annotations

from collections.abc import Sequence

from karma.agents.service import Catalogue
from karma.billing.allowances import Allowances
from karma.conversations.attachments import Library
from karma.core.clock import Clock
from karma.models.ports import Model
from karma.runs.execution import Executor
from karma.runs.plan import RunLimits
from karma.runs.ports import Configured, Executions, Runs, Watchdog
from karma.runs.service import RunService
from karma.tools.toolbox import Tool
from tests.fakes.runs import RequestedExecutions


def executor(
    *,
    store: Runs,
    model: Model,
    tools: Sequence[Tool],
    library: Library,
    allowances: Allowances,
    clock: Clock,
    limits: RunLimits,
    executions: Executions | None = None,
) -> Executor:
    """Build an executor; requests for executions are kept where none are given."""
    return Executor(
        store=store,
        executions=executions or RequestedExecutions(),
        model=model,
        tools=tools,
        library=library,
        allowances=allowances,
        clock=clock,
        limits=limits,
    )


def run_service(
    *,
    store: Runs,
    watchdog: Watchdog,
    model: Model,
    agents: Catalogue,
    configuration: Configured,
    tools: Sequence[Tool],
    library: Library,
    allowances: Allowances,
    clock: Clock,
    limits: RunLimits,
    executions: Executions | None = None,
) -> RunService:
    """Build a service; requests for executions are kept where none are given."""
    executions = executions or RequestedExecutions()
    return RunService(
        store=store,
        watchdog=watchdog,
        executions=executions,
        executor=executor(
            store=store,
            executions=executions,
            model=model,
            tools=tools,
            library=library,
            allowances=allowances,
            clock=clock,
            limits=limits,
        ),
        agents=agents,
        configuration=configuration,
        library=library,
        allowances=allowances,
        clock=clock,
    )

"""A service of runs, with an executor that has the same store, model and tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from karma.agents.service import Catalogue
from karma.billing.allowances import Allowances
from karma.billing.plans import PlanName
from karma.conversations.attachments import Library
from karma.conversations.domain import ThreadKey
from karma.core.clock import Clock
from karma.identity.domain import Caller
from karma.integrations.mcp import McpClient
from karma.mcp.offering import McpTools
from karma.mcp.secrets import Endpoints
from karma.models.ports import Model
from karma.runs.domain import RunKey
from karma.runs.execution import Executor
from karma.runs.known import Known, ReadKnown
from karma.runs.places import PlaceLeases, Places
from karma.runs.plan import RunLimits
from karma.runs.ports import Configured, Executions, Runs, Watchdog
from karma.runs.recording import RunRecorder
from karma.runs.service import RunService
from karma.tools.toolbox import Tool
from tests.fakes.agents import catalogue
from tests.fakes.configuration import as_built
from tests.fakes.leases import MemoryLeases
from tests.fakes.mcp import MemoryMcpServers, OpenSeal
from tests.fakes.runs import RequestedExecutions


def no_mcp_tools(clock: Clock) -> McpTools:
    """Return what offers the tools of nobody's MCP servers."""
    return McpTools(MemoryMcpServers(), McpClient, lambda: Endpoints(OpenSeal()), clock)


def known_by(store: Runs, allowances: Allowances, mcp: McpTools) -> ReadKnown:
    """Return what reads one after another what `karma.runs.known` reads in one call."""

    def read(caller: Caller, key: RunKey) -> Known:
        allowance, servers = allowances.of(caller.user_id), mcp.servers(caller)
        return Known(before=store.run(key), allowance=allowance, servers=servers)

    return read


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
    mcp: McpTools | None = None,
    agents: Catalogue | None = None,
    configuration: Configured | None = None,
    ask_title: Callable[[ThreadKey], None] = lambda _: None,
    leases: PlaceLeases | None = None,
    plan: PlanName = PlanName.FREE,
) -> Executor:
    """Build an executor; requests for executions are kept where none are given, and places too."""
    executions, leases = executions or RequestedExecutions(), leases or MemoryLeases()
    places = Places(leases, clock, plan_of=lambda _: plan, executions=executions, workers=50)
    return Executor(
        store=store,
        executions=executions,
        places=lambda: places,
        model=model,
        tools=tools,
        library=library,
        allowances=allowances,
        clock=clock,
        limits=limits,
        mcp=mcp or no_mcp_tools(clock),
        agents=agents or catalogue(),
        configuration=configuration or as_built(),
        ask_title=ask_title,
    )


def recorder(
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
    executions: Executions,
    mcp: McpTools | None = None,
) -> RunRecorder:
    """Build a recorder that refuses a run whose model is not configured."""
    mcp = mcp or no_mcp_tools(clock)
    return RunRecorder(
        store=store,
        watchdog=watchdog,
        executions=executions,
        tools=tools,
        limits=limits,
        mcp=mcp,
        agents=agents,
        configuration=configuration,
        library=library,
        known=known_by(store, allowances, mcp),
        clock=clock,
        prepare=model.prepare,
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
    mcp: McpTools | None = None,
) -> RunService:
    """Build a service; requests for executions are kept where none are given."""
    executions = executions or RequestedExecutions()
    records = recorder(
        store=store,
        watchdog=watchdog,
        executions=executions,
        model=model,
        tools=tools,
        limits=limits,
        agents=agents,
        configuration=configuration,
        library=library,
        allowances=allowances,
        clock=clock,
        mcp=mcp,
    )
    executes = executor(
        store=store,
        executions=executions,
        model=model,
        tools=tools,
        library=library,
        allowances=allowances,
        clock=clock,
        limits=limits,
        mcp=mcp,
        agents=agents,
        configuration=configuration,
    )
    return RunService(records, executes, store=store, clock=clock)

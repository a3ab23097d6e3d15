"""Builds the subagents of a run; imported where one is executed whose agent calls others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from karma.conversations.attachments import Library
from karma.core.clock import Clock
from karma.core.ids import AgentId
from karma.identity.domain import Caller
from karma.mcp.offering import McpTools
from karma.models.ports import Model
from karma.runs.log import RunLog
from karma.runs.plan import RunLimits, RunPlan
from karma.runs.ports import Configured, Runs, Sink, StoredStep
from karma.runs.spending import Spending
from karma.runs.subagents.delegation import Crew, Subagents
from karma.runs.subagents.staff import Catalogue, Staff
from karma.runs.subagents.steps import read_steps
from karma.tools.toolbox import Tool


class MakeSubagents(Protocol):
    """Makes the subagents of one run."""

    def __call__(
        self,
        plan: RunPlan,
        left_s: Callable[[], float],
        *,
        log: RunLog,
        sink: Sink,
        spending: Spending,
        caller: Caller,
        limits: RunLimits,
        agent_id: AgentId | None,
        delegated: Sequence[StoredStep],
    ) -> Subagents:
        """Return them; `left_s` tells for how many seconds this process goes on with the run."""
        ...


def crew_of(
    *,
    store: Runs,
    model: Model,
    tools: Sequence[Tool],
    mcp: McpTools,
    library: Library,
    clock: Clock,
    agents: Catalogue,
    configuration: Configured,
    max_tokens: int,
) -> MakeSubagents:
    """Return what makes subagents of what a process has; `tools` are the server's.

    The state that a run shares with its client's application is its own agent's: no other has the tools that change it.
    """
    own = [tool for tool in tools if not tool.writes_state]
    staff = Staff(
        agents, configuration, mcp, model, own_tools=frozenset(tool.name for tool in own), max_tokens=max_tokens
    )
    crew = Crew(store=store, model=model, tools=own, mcp=mcp, library=library, clock=clock, staff=staff)

    def make(
        plan: RunPlan,
        left_s: Callable[[], float],
        *,
        log: RunLog,
        sink: Sink,
        spending: Spending,
        caller: Caller,
        limits: RunLimits,
        agent_id: AgentId | None,
        delegated: Sequence[StoredStep],
    ) -> Subagents:
        return Subagents(
            plan,
            crew,
            log=log,
            sink=sink,
            spending=spending,
            caller=caller,
            limits=limits,
            agent_id=agent_id,
            found=read_steps(delegated, own=plan.run_id),
            left_s=left_s,
        )

    return make

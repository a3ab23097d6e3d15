"""Resolves a subagent when it is called: its agent as it is configured then, as far as its caller may use it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from typing import Final, Protocol

from karma.agents.domain import MAX_DEPTH, Agent, AgentSpec, Subagent
from karma.configuration.current import RunChoice
from karma.configuration.domain import ComponentUnavailable
from karma.core.errors import NotFound
from karma.core.ids import AgentId
from karma.core.records import Record
from karma.identity.domain import Caller
from karma.mcp.offering import McpTools
from karma.models.budgets import BudgetName, NamedBudget
from karma.models.domain import ModelNotConfigured
from karma.models.ports import Model
from karma.runs.ports import Configured
from karma.runs.subagents.steps import Definition
from karma.tools.failures import ToolFailed

MAX_SUBAGENTS_A_RUN: Final = 32
"""Subagents that one run begins at the most; its figures are counted for each of their agents, in one transaction."""


class SubagentFailed(ToolFailed):
    """A call of a subagent has no answer; `code` says why, and is part of the call's result."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Catalogue(Protocol):
    """Finds agents: karma.agents.service."""

    def get(self, agent_id: str) -> Agent:
        """Read an agent, or raise NotFound. Blocks."""


class Call(Record):
    """A call of a subagent."""

    subagent: Subagent
    call_id: str
    parent: str
    """As `Definition.parent`."""
    path: tuple[AgentId, ...]
    """The agents that led to it, the run's own first."""


class Staff:
    """Finds agents that are called by others."""

    def __init__(
        self,
        agents: Catalogue,
        configuration: Configured,
        mcp: McpTools,
        model: Model,
        *,
        own_tools: Collection[str],
        max_tokens: int,
    ) -> None:
        """Build it; `own_tools` are the names of the server's tools that subagents may have."""
        self._agents = agents
        self._configuration = configuration
        self._mcp = mcp
        self._model = model
        self._own_tools = own_tools
        self._max_tokens = max_tokens

    async def define(self, call: Call, caller: Caller) -> Definition:
        """Return who is called, as it is now.

        Raises:
            SubagentFailed: it must not be called from here, does not exist, or is disabled.
            Upstream: the database did not answer.
        """
        name = call.subagent.name
        if call.subagent.agent_id in call.path:
            raise SubagentFailed("SUBAGENT_CYCLE", f"{name} is the agent that asks, or one that it answers to")
        if len(call.path) > MAX_DEPTH:
            raise SubagentFailed("SUBAGENTS_TOO_DEEP", f"Agents call each other {MAX_DEPTH} levels deep at the most")
        agent, choice = await asyncio.to_thread(self._find, call.subagent)
        servers = await asyncio.to_thread(self._mcp.servers, caller)
        offer = await self._mcp.offer(servers, agent.id)
        spec = agent.spec
        return Definition(
            agent_id=agent.id,
            version=agent.version,
            name=name,
            call_id=call.call_id,
            parent=call.parent,
            path=(*call.path, agent.id),
            system=spec.system_prompt,
            target=choice.target,
            fallbacks=tuple(choice.fallbacks),
            reasoning=spec.reasoning,
            max_tokens=choice.target.max_tokens or self._max_tokens,
            max_turns=spec.max_steps,
            tools=tuple(each for each in spec.tools if each in self._own_tools and each not in choice.disabled_tools),
            mcp_tools=offer.tools,
            approvals={
                **{each.name: each.approval for each in offer.tools},
                **{each.tool: each.rule for each in spec.approvals},
            },
            subagents=spec.subagents,
            budgets=_budgets_of(spec),
            day_cost_micros=spec.day_cost_micros,
            compaction=replace(spec.compaction, target=choice.summaries),
        )

    async def with_budgets_of_now(self, definition: Definition) -> Definition:
        """Return a subagent with which another process goes on, with what its agent allows by now.

        What a deleted agent allowed stays.

        Raises:
            Upstream: the database did not answer.
        """
        try:
            spec = (await asyncio.to_thread(self._agents.get, definition.agent_id)).spec
        except NotFound:
            return definition
        return replace(definition, budgets=_budgets_of(spec), day_cost_micros=spec.day_cost_micros)

    def _find(self, subagent: Subagent) -> tuple[Agent, RunChoice]:
        try:
            agent = self._agents.get(subagent.agent_id)
        except NotFound:
            raise SubagentFailed("AGENT_NOT_FOUND", f"The agent of {subagent.name} was deleted") from None
        try:
            spec = agent.spec
            choice = self._configuration.for_run(agent=spec.name, model=spec.model, summaries=spec.compaction.model)
            self._model.prepare(choice.target)
        except ComponentUnavailable as exc:
            raise SubagentFailed(exc.code, exc.message) from None
        except ModelNotConfigured as exc:
            raise SubagentFailed(exc.code, exc.message) from None
        return agent, choice


def _budgets_of(spec: AgentSpec) -> tuple[NamedBudget, ...]:
    return (NamedBudget(name=BudgetName.AGENT, budget=spec.budget),) if spec.budget.is_set else ()

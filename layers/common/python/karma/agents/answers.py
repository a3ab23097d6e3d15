"""Answers of the agent routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from karma.agents.domain import BUILT_IN_ID, Agent, AgentSummary, summary
from karma.core.clock import iso


class AgentSummaryView(TypedDict):
    """An agent in a list."""

    id: str
    name: str
    description: str
    model: str
    tools: list[str]
    tags: list[str]
    built_in: bool
    """The agent is part of the code: it cannot be changed."""
    created_at: str
    updated_at: str
    version: int


def summary_view(agent: AgentSummary) -> AgentSummaryView:
    """Shape an agent for lists."""
    return {
        "id": agent.id,
        "name": agent.name,
        "description": agent.description,
        "model": agent.model,
        "tools": list(agent.tools),
        "tags": list(agent.tags),
        "built_in": agent.id == BUILT_IN_ID,
        "created_at": iso(agent.created_at),
        "updated_at": iso(agent.updated_at),
        "version": agent.version,
    }


class AgentConfigView(TypedDict):
    """Limits and settings of an agent's runs."""

    max_steps: int
    temperature: float


class AgentView(AgentSummaryView):
    """One agent."""

    system_prompt: str
    memory: str | None
    knowledge: str | None
    config: AgentConfigView


def agent_view(agent: Agent) -> AgentView:
    """Shape an agent with all its fields."""
    spec = agent.spec
    return {
        **summary_view(summary(agent)),
        "system_prompt": spec.system_prompt,
        "memory": spec.memory,
        "knowledge": spec.knowledge,
        "config": {"max_steps": spec.max_steps, "temperature": spec.temperature},
    }


class AgentData(TypedDict):
    """`GET /agents/{id}`."""

    agent: AgentView


class AgentListData(TypedDict):
    """`GET /agents`: the built-in one, then the others from the newest on; `page` and `page_size` when asked for."""

    agents: list[AgentSummaryView]
    total: int
    total_capped: bool
    """`total` stopped counting at 1,000, as it does with a tag."""
    limit: int
    next_cursor: str | None
    page: NotRequired[int]
    page_size: NotRequired[int]


class AgioAgentPage(TypedDict):
    """`GET /api/agents`: Agio's paged model."""

    total: int
    items: list[AgentSummaryView]
    limit: int
    offset: int
    has_more: bool

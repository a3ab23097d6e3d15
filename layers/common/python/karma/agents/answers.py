"""Answers of the agent routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from karma.agents.domain import BUILT_IN_ID, Agent, AgentSummary, MultitaskStrategy, Subagent, summary
from karma.core.clock import iso
from karma.models.budgets import Budget
from karma.models.domain import ReasoningEffort
from karma.tools.answers import ApprovalView, approval_views


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


class BudgetView(TypedDict):
    """Upper bounds of what is used; null: there is none."""

    max_tokens: int | None
    max_cost_micros: int | None


class CompactionView(TypedDict):
    """Summarising of a conversation that comes near the context window of its model."""

    enabled: bool
    at_percent: int
    model: str | None
    """Name of the model that summarises; null: the agent's own."""


class AgentConfigView(TypedDict):
    """Limits and settings of an agent's runs."""

    max_steps: int
    temperature: float
    reasoning: ReasoningEffort | None
    compaction: CompactionView
    multitask_strategy: MultitaskStrategy
    budget: BudgetView | None
    """Upper bound for each run; null: its agent sets none."""
    max_cost_micros_per_day: int | None
    """Cost of its runs that each account may have on a day (UTC), in micro-dollars; null: any."""


class SubagentView(TypedDict):
    """Another agent, which this one's model may call like a tool."""

    agent_id: str
    name: str
    """Name of the tool."""
    description: str


def subagent_view(subagent: Subagent) -> SubagentView:
    """Shape an agent that another one may call."""
    return {"agent_id": subagent.agent_id, "name": subagent.name, "description": subagent.description}


class AgentView(AgentSummaryView):
    """One agent."""

    system_prompt: str
    subagents: list[SubagentView]
    approvals: list[ApprovalView]
    memory: str | None
    knowledge: str | None
    config: AgentConfigView


def agent_view(agent: Agent) -> AgentView:
    """Shape an agent with all its fields."""
    spec = agent.spec
    return {
        **summary_view(summary(agent)),
        "system_prompt": spec.system_prompt,
        "subagents": [subagent_view(each) for each in spec.subagents],
        "approvals": approval_views(spec.approvals),
        "memory": spec.memory,
        "knowledge": spec.knowledge,
        "config": {
            "max_steps": spec.max_steps,
            "temperature": spec.temperature,
            "reasoning": spec.reasoning,
            "compaction": {
                "enabled": spec.compaction.enabled,
                "at_percent": spec.compaction.at_percent,
                "model": spec.compaction.model or None,
            },
            "multitask_strategy": spec.multitask_strategy,
            "budget": _budget_view(spec.budget),
            "max_cost_micros_per_day": spec.day_cost_micros,
        },
    }


def _budget_view(budget: Budget) -> BudgetView | None:
    if not budget.is_set:
        return None
    return {"max_tokens": budget.max_tokens, "max_cost_micros": budget.max_cost_micros}


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

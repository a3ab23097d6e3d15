"""Bodies of the agent routes."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StrictBool, StringConstraints

from karma.agents.domain import (
    DEFAULT_STEPS,
    DEFAULT_TEMPERATURE,
    MAX_COMPACTION_PERCENT,
    MAX_DESCRIPTION_CHARS,
    MAX_NAME_CHARS,
    MAX_PROMPT_CHARS,
    MAX_STEPS,
    MAX_SUBAGENTS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_TOOLS,
    MIN_COMPACTION_PERCENT,
    AgentSpec,
    MultitaskStrategy,
    Subagent,
)
from karma.core.ids import AgentId
from karma.core.schemas import COMPOSED, Body, Number, Version, Whole, line
from karma.core.wording import form
from karma.models.budget_body import BudgetBody
from karma.models.budgets import MAX_BUDGET_MICROS, UNLIMITED
from karma.models.domain import Compaction, ReasoningEffort
from karma.tools.approval_body import ApprovalRuleBody
from karma.tools.domain import ToolApproval

_NOT_BLANK = form(r"\S", "must not be blank")


def _distinct(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


Name = Annotated[str, line(MAX_NAME_CHARS)]
Tag = Annotated[str, line(MAX_TAG_CHARS), COMPOSED]
CallName = Annotated[
    str,
    StringConstraints(
        max_length=64,
        pattern=form(r"^[A-Za-z][A-Za-z0-9_-]*$", "must be letters, digits, '-' and '_', and begin with a letter"),
    ),
]


class CompactionBody(Body):
    """Summarising of a conversation that comes near the context window of its model."""

    enabled: StrictBool = True
    """False: nothing is summarised; a run whose conversation is too long fails with `CONTEXT_WINDOW_EXCEEDED`."""
    at_percent: Annotated[Whole, Field(ge=MIN_COMPACTION_PERCENT, le=MAX_COMPACTION_PERCENT)] = 80
    """Share of the model's context window from which on the beginning is summarised before the next call."""
    model: Name | None = None
    """Name of a model that summarises, such as a cheaper one; null: the agent's own."""


class AgentConfigBody(Body):
    """Limits and settings of an agent's runs."""

    max_steps: Annotated[Whole, Field(ge=1, le=MAX_STEPS)] = DEFAULT_STEPS
    """Calls of the model in one run at the most."""
    temperature: Annotated[Number, Field(ge=0, le=1)] = DEFAULT_TEMPERATURE
    """Stored and shown only; the model API accepts no sampling parameters, so runs do not send it."""
    multitask_strategy: MultitaskStrategy = MultitaskStrategy.REJECT
    """Treatment of a thread's active run by a request that does not name one itself."""
    reasoning: ReasoningEffort | None = None
    """Effort of its model's reasoning, which its clients are then shown; null: the model's default, not shown."""
    compaction: CompactionBody = Field(default_factory=CompactionBody)
    budget: BudgetBody | None = None
    """Upper bound for each run, whatever its request allows."""
    max_cost_micros_per_day: Annotated[Whole, Field(ge=1, le=MAX_BUDGET_MICROS)] | None = None
    """Cost of its runs that each account may have on a day (UTC), in micro-dollars; null: any."""


class ApprovalBody(ApprovalRuleBody):
    """A rule by which a person has to approve calls of one of the agent's tools."""

    tool: Name
    """Name of a tool of this agent."""


class SubagentBody(Body):
    """Another agent, which this one's model may call like a tool."""

    agent_id: Name
    """Id or name of the agent; it is kept by its id, as answers show it."""
    name: CallName | None = None
    """Name of the tool; null: it is made of the agent's name."""
    description: Annotated[str, StringConstraints(min_length=1, max_length=MAX_DESCRIPTION_CHARS)] | None = None
    """Description for the model that may call it; null: the agent's own description."""


class AgentBody(Body):
    """An agent as an admin describes it: `POST /agents`."""

    name: Name
    description: Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION_CHARS)] = ""
    model: Name
    """A model that the engine runs, or a configured name of one; for any other the answer lists them."""
    system_prompt: Annotated[str, StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARS, pattern=_NOT_BLANK)]
    tools: Annotated[list[Name], Field(max_length=MAX_TOOLS), AfterValidator(_distinct)] = Field(default_factory=list)
    """Names of built-in tools; without any, the agent only talks."""
    subagents: Annotated[list[SubagentBody], Field(max_length=MAX_SUBAGENTS)] = Field(default_factory=list)
    """Agents that its model may call, each like a tool."""
    approvals: Annotated[list[ApprovalBody], Field(max_length=MAX_TOOLS)] = Field(default_factory=list)
    """Rules by which a person has to approve calls, at most one a tool; tools without one follow their own."""
    tags: Annotated[list[Tag], Field(max_length=MAX_TAGS), AfterValidator(_distinct)] = Field(default_factory=list)
    memory: Name | None = None
    knowledge: Name | None = None
    config: AgentConfigBody = Field(default_factory=AgentConfigBody)

    def spec(self) -> AgentSpec:
        """Return the agent's fields of the body; the catalogue completes its subagents, which are named as given."""
        return AgentSpec(
            name=self.name,
            model=self.model,
            system_prompt=self.system_prompt,
            description=self.description,
            tools=tuple(self.tools),
            subagents=tuple(
                Subagent(agent_id=AgentId(each.agent_id), name=each.name or "", description=each.description or "")
                for each in self.subagents
            ),
            approvals=tuple(ToolApproval(tool=each.tool, rule=each.rule()) for each in self.approvals),
            tags=tuple(self.tags),
            memory=self.memory,
            knowledge=self.knowledge,
            max_steps=self.config.max_steps,
            temperature=self.config.temperature,
            reasoning=self.config.reasoning,
            compaction=Compaction(
                enabled=self.config.compaction.enabled,
                at_percent=self.config.compaction.at_percent,
                model=self.config.compaction.model or "",
            ),
            multitask_strategy=self.config.multitask_strategy,
            day_cost_micros=self.config.max_cost_micros_per_day,
            budget=self.config.budget.budget() if self.config.budget else UNLIMITED,
        )


_CONFIG_BEYOND_AGIO: Final = {
    "multitask_strategy": "multitask_strategy",
    "reasoning": "reasoning",
    "compaction": "compaction",
    "budget": "budget",
    "max_cost_micros_per_day": "day_cost_micros",
}
"""Members of an agent's `config` that the Agio API does not have, and the fields of an agent that they set."""


class ReplaceAgentBody(AgentBody):
    """`PUT /agents/{id}`: fields left out get their defaults, as in a new agent."""

    version: Version | None = None
    """Version that the caller read; when the stored one differs, the answer is 409 STALE_VERSION."""

    def spec_over(self, stored: AgentSpec) -> AgentSpec:
        """Return the agent's fields of a body of the Agio API, whose clients do not know all of them.

        What they do not know stays as it is stored: an edit of the prompt must not take a person's approval away.
        """
        spec = self.spec()
        given = self.config.model_fields_set
        kept = {field: getattr(stored, field) for name, field in _CONFIG_BEYOND_AGIO.items() if name not in given}
        if "subagents" not in self.model_fields_set:
            kept["subagents"] = stored.subagents
        if "approvals" not in self.model_fields_set:
            names = {*spec.tools, *(each.name for each in kept.get("subagents", spec.subagents))}
            kept["approvals"] = tuple(each for each in stored.approvals if each.tool in names)
        return replace(spec, **kept)

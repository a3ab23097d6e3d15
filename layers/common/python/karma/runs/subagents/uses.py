"""Use by each agent that was called within a run, as the run shows it (`Run.delegated`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from karma.conversations.domain import Json
from karma.core.ids import AgentId, RunId
from karma.models.budgets import Spent
from karma.models.domain import Usage
from karma.runs.subagents.steps import Delegations, Used


@dataclass
class _Use:
    calls: int = 0
    turns: int = 0
    spent: Spent = field(default_factory=Spent)
    usage: Usage = field(default_factory=Usage)


class Uses:
    """Use by the agents that a run has called: parts of the run's use."""

    def __init__(self, found: Delegations, *, own: RunId) -> None:
        """Begin with what is stored of the run `own`."""
        self._by_agent: dict[AgentId, _Use] = {}
        for _, agent, used in found.steps:
            self.add(agent, used)
        begun = Counter(each.definition.agent_id for each in found.transcripts.values() if each.begun_by == own)
        for agent, calls in begun.items():
            self._of(agent).calls += calls
        self.begun = begun.total()
        """Subagents that had begun in the run by then."""

    def call(self, agent_id: AgentId) -> None:
        """Count a subagent that begins."""
        self._of(agent_id).calls += 1

    def add(self, agent_id: AgentId, used: Used) -> None:
        """Count what a step has used for its agent."""
        use = self._of(agent_id)
        use.turns += used.turns
        use.spent += used.spent
        use.usage += used.usages.total

    def wire(self) -> tuple[Json, ...]:
        """Return them as they are stored with the run."""
        return tuple(
            {
                "agent_id": agent,
                "calls": use.calls,
                "turns": use.turns,
                "tokens": use.spent.tokens,
                "cost_micros": use.spent.cost_micros,
                "input_tokens": use.usage.input_tokens or 0,
                "output_tokens": use.usage.output_tokens or 0,
                "cached_input_tokens": use.usage.cached_input_tokens or 0,
            }
            for agent, use in sorted(self._by_agent.items())
        )

    def _of(self, agent_id: AgentId) -> _Use:
        return self._by_agent.setdefault(agent_id, _Use())

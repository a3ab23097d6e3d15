"""Ports of the agent catalogue; the second implementation of each is in tests/fakes/agents.py."""

from __future__ import annotations

from typing import Protocol

from karma.agents.domain import Agent, AgentSummary
from karma.core.ids import AgentId
from karma.core.requests import RepeatableRequest


class Agents(Protocol):
    """A store of agents. All calls block; each write is one transaction."""

    def get(self, agent_id: AgentId) -> Agent | None:
        """Read an agent, consistently; None: it does not exist."""

    def holder(self, name: str) -> AgentId | None:
        """Find the agent that has a name, consistently; None: the name is free."""

    def made_by(self, request: RepeatableRequest) -> AgentId | None:
        """Return the id of the agent that a request created, consistently; None: it created none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that created it asked for something else.
        """

    def create(self, agent: Agent, *, request: RepeatableRequest | None) -> None:
        """Store a new agent, and the record of `request`.

        Raises:
            AlreadyExists: another agent has the name, or a request with this key created an agent within the last 25
                hours; `made_by` names it.
        """

    def replace(self, old: Agent, new: Agent) -> None:
        """Store `new`, which has the next version, in place of `old`.

        Raises:
            AlreadyExists: another agent has the new name.
            AgentChanged: `old` is not the stored one any more.
        """

    def delete(self, agent: Agent) -> None:
        """Delete an agent; its name is free again.

        Raises:
            AgentChanged: `agent` is not the stored one any more.
        """

    def page(self, *, tag: str, after: str, limit: int) -> list[AgentSummary]:
        """List agents, newest first, those after the id `after`, "" for the first page, and with `tag`, "" for all."""

    def count(self, *, tag: str, most: int) -> int:
        """Count agents; those of a tag up to `most`."""

"""Ports of the agent catalogue; the second implementation of each is in tests/fakes/agents.py."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from karma.agents.domain import Agent, AgentSummary
from karma.core.ids import AgentId


class NameHolder(NamedTuple):
    """The agent that has a name, and the token of the request that created it; "" when the request had none."""

    agent_id: AgentId
    request_token: str


class Agents(Protocol):
    """A store of agents. All calls block; each write is one transaction."""

    def get(self, agent_id: AgentId) -> Agent | None:
        """Read an agent, consistently; None: it does not exist."""

    def holder(self, name: str) -> NameHolder | None:
        """Find the agent that has a name, consistently; None: the name is free."""

    def create(self, agent: Agent, *, request_token: str) -> None:
        """Store a new agent.

        Raises:
            AlreadyExists: another agent has the name.
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

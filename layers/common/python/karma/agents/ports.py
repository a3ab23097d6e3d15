"""What the catalogue needs from outside; its second implementation is in tests/fakes/agents.py."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from karma.agents.domain import Agent, AgentSummary
from karma.core.ids import AgentId


class NameHolder(NamedTuple):
    """Whose a name is, and which request took it; "" when that named itself by no key."""

    agent_id: AgentId
    request_token: str


class AgentStore(Protocol):
    """Agents at rest. All calls block; each write is one transaction."""

    def get(self, agent_id: AgentId) -> Agent | None:
        """Read one, consistently."""

    def holder(self, name: str) -> NameHolder | None:
        """Find whose a name is, consistently."""

    def create(self, agent: Agent, *, request_token: str) -> None:
        """Store a new agent.

        Raises:
            AlreadyExists: its name is taken.
        """

    def replace(self, old: Agent, new: Agent) -> None:
        """Store `new`, which has the next version, in place of `old`.

        Raises:
            AlreadyExists: the new name is taken.
            AgentChanged: `old` is not the stored one any more.
        """

    def delete(self, agent: Agent) -> None:
        """Delete an agent; its name is free again.

        Raises:
            AgentChanged: `agent` is not the stored one any more.
        """

    def page(self, *, tag: str, after: str, limit: int) -> list[AgentSummary]:
        """List agents, newest first, those behind the id `after`; "" is no tag, and the first page."""

    def count(self, *, tag: str, most: int) -> int:
        """Count agents; with a tag no further than `most`."""

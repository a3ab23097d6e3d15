"""In-memory stand-in for the agent catalogue's store. It passes the same contract suite as DynamoDB's."""

from karma.agents.domain import Agent, AgentChanged, AgentSummary, folded, summary
from karma.agents.service import Catalogue
from karma.core.errors import AlreadyExists
from karma.core.ids import AgentId
from karma.core.requests import RepeatableRequest
from tests.fakes.requests import MemoryRequests
from tests.fakes.runs import SetClock


class MemoryAgents:
    """Agents in dictionaries."""

    def __init__(self) -> None:
        self.agents: dict[AgentId, Agent] = {}
        self.names: dict[str, AgentId] = {}
        self.requests = MemoryRequests()

    def get(self, agent_id: AgentId) -> Agent | None:
        return self.agents.get(agent_id)

    def holder(self, name: str) -> AgentId | None:
        return self.names.get(folded(name))

    def made_by(self, request: RepeatableRequest) -> AgentId | None:
        made = self.requests.noted("", request)
        return AgentId(made) if made else None

    def create(self, agent: Agent, *, request: RepeatableRequest | None) -> None:
        self.requests.require_new("", request)
        self._take(agent)
        self.agents[agent.id] = agent
        self.requests.note("", request, agent.id)

    def replace(self, old: Agent, new: Agent) -> None:
        self._require(old)
        if folded(old.spec.name) != folded(new.spec.name):
            self._take(new)
            del self.names[folded(old.spec.name)]
        self.agents[new.id] = new

    def delete(self, agent: Agent) -> None:
        self._require(agent)
        del self.agents[agent.id]
        del self.names[folded(agent.spec.name)]

    def page(self, *, tag: str, after: str, limit: int) -> list[AgentSummary]:
        found = [agent for agent in self._tagged(tag) if not after or agent.id < after]
        return [summary(agent) for agent in sorted(found, key=lambda agent: agent.id, reverse=True)][:limit]

    def count(self, *, tag: str, most: int) -> int:
        found = len(self._tagged(tag))
        return min(found, most) if tag else found

    def _tagged(self, tag: str) -> list[Agent]:
        return [agent for agent in self.agents.values() if not tag or tag in agent.spec.tags]

    def _take(self, agent: Agent) -> None:
        if folded(agent.spec.name) in self.names:
            raise AlreadyExists("name: another agent has it")
        self.names[folded(agent.spec.name)] = agent.id

    def _require(self, seen: Agent) -> None:
        stored = self.agents.get(seen.id)
        if stored is None or stored.version != seen.version:
            raise AgentChanged(f"Agent {seen.id} was changed by another request; read it again")


def catalogue(
    *, model: str = "claude-test", tools: tuple[str, ...] = ("echo",), more_models: tuple[str, ...] = ()
) -> Catalogue:
    """Return a catalogue in memory; `more_models` are names that the configuration has."""
    return Catalogue(
        MemoryAgents(), SetClock(), models=(model, "claude-other"), tools=tools, more_models=lambda: more_models
    )

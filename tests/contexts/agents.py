"""Declarations of agents for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import Any

from karma.agents.domain import Agent, AgentSpec
from karma.agents.repository import AgentRepository
from karma.core.ids import AgentId, new_id
from karma.core.requests import RETENTION
from tests.fakes.agents import MemoryAgents
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Call, Checks, Fakes, Scenarios, made
from tests.support.requests import asked
from tests.support.rows import NOW, AccountRows


class AgentRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.agents = AgentRepository()

    def new_agent(self, **changes: Any) -> Agent:
        name = changes.pop("name", f"agent {self.id}")
        spec = AgentSpec(name=name, model="m", system_prompt="Be brief.", tags=("x", "y"))
        return Agent(id=AgentId(self.id), spec=spec, created_at=NOW, updated_at=NOW, version=1)

    @cached_property
    def agent(self) -> Agent:
        agent = self.new_agent()
        self.agents.create(agent, request=asked(agent.id))
        return agent


FAKES: Fakes = {MemoryAgents: (AgentRepository,)}


def _replaced(r: AgentRows) -> Call:
    old = r.agent
    spec = replace(old.spec, name=f"renamed {r.id}", tags=("y", "z"))
    return lambda: r.agents.replace(old, replace(old, spec=spec, version=2))


SCENARIOS = Scenarios[AgentRows](
    AgentRows,
    {
        "AgentRepository.get": made(lambda r: r.agent, lambda r, agent: r.agents.get(agent.id)),
        "AgentRepository.holder": made(lambda r: r.agent, lambda r, agent: r.agents.holder(agent.spec.name)),
        "AgentRepository.made_by": made(lambda r: r.agent, lambda r, agent: r.agents.made_by(asked(agent.id))),
        "AgentRepository.create": made(lambda r: r.new_agent(), lambda r, a: r.agents.create(a, request=asked(a.id))),
        "AgentRepository.replace": _replaced,
        "AgentRepository.delete": made(lambda r: r.agent, lambda r, agent: r.agents.delete(agent)),
        "AgentRepository.page": made(lambda r: r.agent, lambda r, _: r.agents.page(tag="x", after="", limit=5)),
        "AgentRepository.count": made(lambda r: r.agent, lambda r, _: r.agents.count(tag="x", most=5)),
    },
)


def _agent(world: World, _: str, __: Mapping[str, str]) -> str:
    return str(world.create("admin", "/api/v1/agents", _new_agent(world, "admin"))["agent"]["id"])


def _new_agent(_: World, __: str) -> dict[str, Any]:
    return {"name": f"agent-{new_id()}", "model": "claude-sonnet-5-5", "system_prompt": "Help."}


OBJECTS: Objects = {"agent_id": _agent}

SHARED = {"agent_id"}

BODIES: Bodies = {
    "POST /api/v1/agents": _new_agent,
    "PUT /api/v1/agents/{agent_id}": _new_agent,
    "POST /api/agents": _new_agent,
    "PUT /api/agents/{agent_id}": _new_agent,
}


def _made_agent_over(rows: AgentRows) -> None:
    agent = rows.agent
    assert rows.agents.made_by(asked(agent.id, at=NOW + RETENTION - timedelta(seconds=1)))
    assert not rows.agents.made_by(asked(agent.id, at=NOW + RETENTION))
    another = replace(rows.new_agent(name="another"), id=AgentId(new_id()))
    rows.agents.create(another, request=asked(agent.id, at=NOW + RETENTION))


EXPIRES = Checks[AgentRows](AgentRows, {"agent_request": _made_agent_over})

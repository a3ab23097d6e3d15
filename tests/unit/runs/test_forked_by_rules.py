"""A run that goes on from a point is a new run: it is admitted by the agent of now, also for calls of then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from karma.agents.domain import Agent
from karma.agents.service import Catalogue
from karma.core.errors import NotFound, ValidationFailed
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import Run, RunStatus
from karma.runs.modifications import Modifications
from karma.runs.points import write_point_id
from karma.runs.setup import load_setup
from karma.tools.domain import ApprovalPolicy, ApprovalRule, ToolApproval
from tests.fakes.agents import catalogue
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller
from tests.support.forks import execute, forks
from tests.support.lost_runs import KEY, THREAD, TOOLS, Life, World, begin


@pytest.fixture
def world() -> World:
    world = World()
    begin(world, Life(None))
    return world


def points(world: World) -> list[str]:
    service = CheckpointService(world.store, MemoryCheckpoints(world.store), world.clock)
    return [write_point_id(each.id) for each in service.page(KEY.user_id, KEY.run_id, limit=1000)]


class Edited(Catalogue):
    """Agents whose admin has edited them since the run."""

    def __init__(self, **edits: Any) -> None:
        self._found = catalogue(tools=TOOLS)
        self.edits: dict[str, Any] = edits

    def find(self, ref: str) -> Agent:
        agent = self._found.find(ref)
        return replace(agent, spec=replace(agent.spec, **self.edits))


def asks_about(*tools: str) -> tuple[ToolApproval, ...]:
    rule = ApprovalRule(policy=ApprovalPolicy.ALWAYS)
    return tuple(ToolApproval(tool=tool, rule=rule) for tool in tools)


@pytest.mark.parametrize("how", ["fork", "restore_as_run"])
class TestWhatTheAgentIsNow:
    def begun(self, world: World, how: str, nth: int, wanted: Modifications | None = None) -> Run:
        run: Run = getattr(forks(world), how)(caller(), points(world)[nth], wanted or Modifications(), key=None).run
        return run

    def effects_of(self, world: World, run: Run) -> tuple[Run, set[str]]:
        """Let a run be executed, and return it with the names of the tools that were called in it."""
        world.effects.clear()
        world.done.clear()
        execute(world, run.key)
        return world.store.runs_by_key[run.key], {tool for tool, _ in world.effects}

    def test_asks_about_each_call_that_has_to_be_approved_by_now(self, world: World, how: str) -> None:
        asked = set[str]()
        for nth in range(len(points(world))):
            for tool in TOOLS:
                world.given_agents = Edited(approvals=asks_about(tool))
                ended, made = self.effects_of(world, self.begun(world, how, nth))
                assert tool not in made
                if ended.status is RunStatus.INTERRUPTED:
                    asked.add(tool)
                    found = world.store.interrupts(KEY.user_id, list(ended.interrupt_ids))
                    assert {each.call and each.call.name for each in found.values()} == {tool}
                world.store.threads[THREAD] = replace(world.store.threads[THREAD], interrupts=())
        assert asked == set(TOOLS)

    def test_asks_no_more_about_calls_that_need_not_be_approved_any_more(self, how: str) -> None:
        world = World()
        world.given_agents = Edited(approvals=asks_about("look"))
        begin(world, Life(None))
        assert world.store.runs_by_key[KEY].status is RunStatus.INTERRUPTED
        world.given_agents = Edited()
        ended, made = self.effects_of(world, self.begun(world, how, -1))
        assert (ended.status, made) == (RunStatus.FINISHED, {"look", "again"})

    def test_does_not_call_what_the_agent_has_not_any_more(self, world: World, how: str) -> None:
        for nth in range(len(points(world))):
            for tool in TOOLS:
                world.given_agents = Edited(tools=tuple(each for each in TOOLS if each != tool))
                run = self.begun(world, how, nth)
                assert tool not in load_setup(world.store.setups[run.key]).tools
                ended, made = self.effects_of(world, run)
                assert (ended.status, tool in made) == (RunStatus.FINISHED, False)

    def test_refuses_a_named_tool_that_the_agent_has_not(self, world: World, how: str) -> None:
        world.given_agents = Edited(tools=("look", "ask"))
        runs = len(world.store.runs_by_key)
        with pytest.raises(ValidationFailed) as refused:
            self.begun(world, how, 0, Modifications(tools=("look", "again")))
        assert "modifications.tools.1" in str(refused.value.details)
        assert "look, again" not in str(refused.value.details)
        assert len(world.store.runs_by_key) == runs

    def test_a_named_tool_is_asked_about_where_the_agent_asks(self, world: World, how: str) -> None:
        world.given_agents = Edited(approvals=asks_about("again", "look"))
        run = self.begun(world, how, 0, Modifications(tools=("again",)))
        assert set(load_setup(world.store.setups[run.key]).approvals) == {"again"}
        _, made = self.effects_of(world, run)
        assert made == set()

    def test_is_not_found_where_the_agent_is_deleted(self, world: World, how: str) -> None:
        class Deleted(Catalogue):
            def __init__(self) -> None:
                pass

            def find(self, ref: str) -> Agent:
                raise NotFound(ref)

        world.given_agents = Deleted()
        with pytest.raises(NotFound):
            self.begun(world, how, 0)
        assert len(world.store.runs_by_key) == 1

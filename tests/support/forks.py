"""Runs from which others go on: the service that forks and restores, over the world of lost_runs.py."""

from __future__ import annotations

from dataclasses import replace

from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import LEASE, RunKey
from karma.runs.forking import ForkService
from karma.runs.plan import RunLimits
from karma.runs.ports import Configured
from tests.fakes.attachments import library
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.configuration import as_built
from tests.fakes.drafts import MemoryDrafts
from tests.support.lost_runs import Handle, Life, World, live
from tests.support.plans import allowances
from tests.support.run_services import no_mcp_tools


def forks(world: World, life: Life | None = None, *, configuration: Configured | None = None) -> ForkService:
    """Return the service of a process, which may know another configuration than those that execute runs."""
    life = life or Life(None)
    store = Handle(world.store, life)
    points = CheckpointService(store, Handle(MemoryCheckpoints(world.store), life), world.clock)
    return ForkService(
        points,
        store=store,
        watchdog=Handle(world.watchdog, life),
        executions=Handle(world.executions, life),
        tools=[replace(tool, permission="device:control") for tool in world.tools(life)],
        limits=RunLimits(),
        mcp=no_mcp_tools(world.clock),
        agents=world.agents(),
        configuration=configuration or as_built(),
        library=library(),
        allowances=allowances(clock=world.clock, a_day=world.day_cost_micros),
        drafts=Handle(MemoryDrafts(world.store), life),
        clock=world.clock,
    )


def execute(world: World, key: RunKey, life: Life | None = None) -> None:
    """Let a process take a run from the queue."""
    world.clock.pass_by(LEASE)
    live(lambda: world.executor(life or Life(None)).go_on(key))

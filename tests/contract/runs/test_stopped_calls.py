"""Runs that are stopped, by the journal of their model's server: it is left within a second, and called no more.

Real clients call a real server over sockets. Three runs are at work at a time: one streams to its client, one runs in
the background, and one has called the agent of the two as a subagent. Each is stopped by every kind of request, and by
a budget.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

import pytest

from karma.conversations.domain import ThreadHead, ThreadKey, TitleSource
from karma.core import secrets
from karma.core.clock import monotonic
from karma.core.ids import RunId, ThreadId
from karma.core.purge import PurgeAttempt
from karma.models.budgets import Budget
from karma.models.domain import ANTHROPIC, OPENAI
from karma.runs.domain import RunStatus
from karma.runs.purge import RunsPurge
from karma.threads.deletion import ThreadRemover
from local.waiting import until
from tests.fakes.billing import MemoryQueue
from tests.support.agui import verify
from tests.support.faulty_server import FaultyServer, stream
from tests.support.journaled_runs import BACKGROUND, MODES, STREAM, SUBAGENT, USER, Scene, anthropic_talk, openai_talk
from tests.support.model_server import message, tool_use
from tests.support.subagents import SubagentWorld

WITHIN_S = 1.0
SEEN_WITHIN_S = 0.05
TRIES = 4
"""On a machine that does other things, too: each try is a scene of its own."""


class Heads:
    """The threads of a store of runs, as their deletion reads them; it makes nothing but the wish."""

    def __init__(self, world: SubagentWorld) -> None:
        self._world = world

    def get(self, key: ThreadKey) -> ThreadHead:
        now = self._world.clock.now()
        return ThreadHead(
            key=key,
            title="",
            title_from=TitleSource.WORDS,
            created_at=now,
            updated_at=now,
            agent_id=None,
            active_run_id=self._world.store.thread(key).active_run_id,
            message_count=1,
            version=1,
        )

    def begin(self, head: ThreadHead, *, at: datetime, due_at: datetime) -> None:
        """Make no tombstone: the wish alone is looked at."""


def cancel(scene: Scene) -> None:
    for mode in MODES:
        scene.control().cancel(USER, RunId(mode), reason="enough")


def pause(scene: Scene) -> None:
    for mode in MODES:
        scene.control().pause(USER, RunId(mode))


def kill(scene: Scene) -> None:
    stopped = scene.control().stop_agent(USER, scene.agent.id)
    assert {run.key.run_id for run in stopped.runs} == {STREAM, BACKGROUND}
    assert [run.key.run_id for run in stopped.within] == [SUBAGENT]


def delete_threads(scene: Scene) -> None:
    threads = cast("Any", Heads(scene.world))
    remover = ThreadRemover(
        threads=threads,
        deletions=threads,
        wishes=scene.world.store,
        queue=cast("Any", MemoryQueue()),
        clock=scene.world.clock,
    )
    for mode in MODES:
        remover.delete(ThreadKey(USER, ThreadId(mode)))


def delete_account(scene: Scene) -> None:
    purge = RunsPurge(
        store=cast("Any", scene.world.store), attachments=cast("Any", scene.world.attachments), clock=scene.world.clock
    )
    now = scene.world.clock.now()
    assert purge.end_runs(PurgeAttempt(user_id=USER, requested_at=now, ends_at=monotonic() + 20, settled=False))


@dataclass(frozen=True)
class Ways:
    """A way to stop runs, and how those end that it stops."""

    stop: Callable[[Scene], None]
    status: RunStatus
    end: dict[str, Any]
    """Members of the last event that the run's client is sent."""
    of_caller: RunStatus | None = None
    """The end of the run whose subagent is stopped; None: as the others."""


CANCELLED_END = {"type": "RUN_FINISHED", "outcome": {"type": "cancelled"}}
WAYS = {
    "cancel": Ways(cancel, RunStatus.CANCELLED, CANCELLED_END),
    "kill switch": Ways(kill, RunStatus.CANCELLED, CANCELLED_END, of_caller=RunStatus.FINISHED),
    "thread deleted": Ways(delete_threads, RunStatus.CANCELLED, CANCELLED_END),
    "account deleted": Ways(delete_account, RunStatus.FAILED, {"type": "RUN_ERROR", "code": "OWNER_LOST"}),
    "pause": Ways(pause, RunStatus.PAUSED, {"type": "CUSTOM", "name": "karma.run_paused"}),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        known = {"api_key": "sk-test", "mine": {"api_key": "sk-mine", "base_url": f"{running.url}/v1"}}
        monkeypatch.setitem(secrets._kept, "secret", (monotonic() + 3600, known))
        yield running


async def stopped(scene: Scene, way: Ways) -> tuple[float, float]:
    """Stop three runs that speak; return the seconds until the last was left, of the request and of its being seen."""
    tasks = await scene.begin()
    await scene.until_all_speak()
    asked_at = monotonic()
    await asyncio.to_thread(way.stop, scene)
    await asyncio.wait_for(asyncio.gather(*tasks), 20)
    left: dict[str, float] = {}
    for mode in MODES:
        (call,) = scene.calls(mode)
        # The server's thread may not have read of it yet.
        has_ended = partial(lambda call: not call.is_open, call)
        await asyncio.to_thread(until, has_ended, deadline_s=15, what=f"the end of {mode}", pause_s=0.005)
        assert call.left_at is not None
        left[mode] = call.left_at
    return max(left.values()) - asked_at, max(left[mode] - scene.seen.get(mode, asked_at) for mode in MODES)


def check_ends(scene: Scene, way: Ways) -> None:
    for mode in MODES:
        run, is_caller = scene.run(mode), mode == SUBAGENT and way.of_caller is not None
        assert run.status is (way.of_caller if is_caller else way.status), mode
        for events in (scene.log(mode), *([scene.frames[mode].events] if mode in scene.frames else ())):
            verify(events, complete=run.status is not RunStatus.PAUSED)
            if not is_caller:
                assert {name: events[-1].get(name) for name in way.end} == way.end, mode


def check_money(scene: Scene) -> None:
    """The count is what the runs say that they cost, and all that was reserved where nobody could say."""
    runs = [scene.run(mode) for mode in MODES]
    assert all(run.cost_micros is None or 0 < run.cost_micros <= run.reserved_micros for run in runs)
    held = [run.reserved_micros if run.cost_micros is None else run.cost_micros for run in runs]
    if RunStatus.PAUSED in {run.status for run in runs}:
        assert scene.spent() >= sum(held)  # what is reserved for the rest is held
    else:
        assert scene.spent() == sum(held)


CASES = [
    *((name, ANTHROPIC, False) for name in WAYS),
    ("cancel", OPENAI, False),
    ("cancel", ANTHROPIC, True),
    ("account deleted", ANTHROPIC, True),
]


@pytest.mark.req("R-A-18")
@pytest.mark.parametrize(("name", "provider", "is_silent"), CASES)
def test_the_model_is_left_within_a_second_and_called_no_more(
    server: FaultyServer, name: str, provider: str, is_silent: bool
) -> None:
    way, took = WAYS[name], (0.0, 0.0)

    async def play() -> tuple[float, float]:
        server.calls.clear()
        talk = anthropic_talk() if provider == ANTHROPIC else openai_talk()
        scene = Scene(server, talk, provider, scout=(lambda _: talk.silent) if is_silent else None)
        try:
            took = await stopped(scene, way)
            check_ends(scene, way)
            check_money(scene)
            made = len(server.calls)
            await scene.come_late()
            assert len(server.calls) == made
            assert not scene.titles
            return took
        finally:
            await scene.world.model.close()

    for _ in range(TRIES):
        took = asyncio.run(play())
        if took[0] <= WITHIN_S and took[1] <= SEEN_WITHIN_S:
            break
    assert took[0] <= WITHIN_S
    assert took[1] <= SEEN_WITHIN_S


@pytest.mark.req("R-A-18")
def test_a_paused_run_calls_its_model_once_more_when_it_is_resumed_within_its_agent_s_new_budget(
    server: FaultyServer,
) -> None:
    talk, allowed = anthropic_talk(), 5_000

    async def play() -> None:
        scene = Scene(server, talk)
        try:
            await stopped(scene, WAYS["pause"])
            scene.scout = lambda _: talk.says("Found.")
            for agent in (scene.agent, scene.lead):
                spec = replace(agent.spec, budget=Budget(max_tokens=allowed))
                scene.world.agents.replace(agent.id, spec, version=None)
            scene.world.clock.pass_by(timedelta(milliseconds=1))
            for mode in MODES:
                scene.control().resume(USER, RunId(mode))
            await asyncio.gather(*scene.go_on())
            for mode in MODES:
                first, second = scene.calls(mode)
                assert first.request["max_tokens"] > second.request["max_tokens"] > 0
                assert second.request["max_tokens"] < allowed
                assert second.answered_at is not None
                verify(scene.log(mode))
                run = scene.run(mode)
                assert (run.status, run.turns) == (RunStatus.FINISHED, 2)
            check_money(scene)
            assert {each.thread_id for each in scene.titles} == set(MODES)
            made = len(server.calls)
            await scene.come_late()
            assert len(server.calls) == made
        finally:
            await scene.world.model.close()

    asyncio.run(play())


@pytest.mark.req("R-A-18")
def test_a_run_of_many_turns_calls_no_more_when_its_budget_is_spent(server: FaultyServer) -> None:
    turn = message(tool_use("toolu_1", "echo", '{"word":"hi"}'), stop_reason="tool_use", output_tokens=300)

    async def play() -> None:
        # A subagent's own agent's budget would end its call alone.
        scene = Scene(
            server,
            anthropic_talk(),
            scout=lambda _: stream(*turn),
            budget=Budget(max_tokens=4_000),
            lead_budget=Budget(max_tokens=3_000),
        )
        try:
            tasks = await scene.begin()
            await asyncio.wait_for(asyncio.gather(*tasks), 20)
            made = len(server.calls)
            assert all(each.answered_at is not None for each in server.calls)
            for mode in MODES:
                run, calls = scene.run(mode), scene.calls(mode)
                assert len(calls) > 3
                assert run.status is RunStatus.INTERRUPTED
                last = scene.log(mode)[-1]
                (question,) = last["outcome"]["interrupts"]
                assert (last["outcome"]["type"], question["reason"]) == ("interrupt", "budget_exceeded")
                # Each answer is told as it was told by the server, and of the last the bound was kept.
                lead = 18 if mode == SUBAGENT else 0
                assert (run.usage or {}).get("totalTokens") == 311 * len(calls) + lead <= 4_000
                assert calls[-1].request["max_tokens"] < calls[0].request["max_tokens"]
            check_money(scene)
            await scene.come_late()
            assert len(server.calls) == made
            assert not scene.titles
        finally:
            await scene.world.model.close()

    asyncio.run(play())

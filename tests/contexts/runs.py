"""Declarations of runs for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cached_property

from karma.billing.allowances import Metric
from karma.conversations.domain import History, Message, Thread, ThreadKey
from karma.core.ids import AgentId, RunId, ThreadId, UserId, new_id
from karma.models.domain import Usage, Usages
from karma.runs.domain import Checkpoint, Progress, Run, RunEnd, RunKey, RunPause, RunStatus, Segment, Wish
from karma.runs.repository import RunRepository
from tests.fakes.runs import MemoryRuns
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Call, Fakes, Scenarios, made
from tests.support.plans import limited
from tests.support.rows import LATER, NOW, AccountRows


def begin(user_id: UserId, run_id: str, *, at: datetime = NOW, agent: str | None = None) -> Run:
    """Store a run that has begun, with a lease until `at`."""
    store = RunRepository()
    key = RunKey(user_id, RunId(run_id))
    thread = ThreadKey(user_id, ThreadId(f"thread-of-{run_id}"))
    run = Run(
        key=key,
        thread_id=thread.thread_id,
        status=RunStatus.RUNNING,
        model="m",
        created_at=at,
        agent_id=AgentId(agent) if agent else None,
        agent_version=3 if agent else None,
    )
    first = Segment(
        key=key, n=1, writer="w", epoch=1, lease_until=at, events=(b'{"type":"RUN_STARTED"}', b'{"type":"CUSTOM"}')
    )
    store.start(run, thread=store.thread(thread), segment=first, messages=())
    return run


def record(user_id: UserId, run_id: str, *, at: datetime = NOW, agent: str | None = None) -> None:
    """Store a run that has finished."""
    run = begin(user_id, run_id, at=at, agent=agent)
    key, thread = run.key, ThreadKey(user_id, run.thread_id)
    last = Segment(
        key=key, n=2, writer="w", epoch=1, lease_until=at, events=(b'{"type":"RUN_FINISHED"}',), terminal=True
    )
    how = RunEnd(
        status=RunStatus.FINISHED,
        at=at + timedelta(seconds=2),
        turns=1,
        usages=({"provider": "anthropic", "model": "m", "inputTokens": 3, "totalTokens": 5},),
        cost_micros=40,
    )
    RunRepository().finish(last, how, thread=thread)


class RunRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.runs = RunRepository()

    @property
    def thread_key(self) -> ThreadKey:
        return ThreadKey(self.ada.id, ThreadId("t1"))

    @property
    def thread(self) -> Thread:
        return self.runs.thread(self.thread_key)

    def run(self, run_id: str = "r1") -> Run:
        return Run(
            key=RunKey(self.ada.id, RunId(run_id)),
            thread_id=self.thread_key.thread_id,
            status=RunStatus.RUNNING,
            model="m",
            created_at=NOW,
            agent_id=AgentId("karma"),
            agent_version=1,
        )

    def segment(self, n: int = 1, *, of: Run | None = None, terminal: bool = False) -> Segment:
        return Segment(
            key=(of or self.run()).key, n=n, writer="w1", epoch=1, lease_until=LATER, events=(b"{}",), terminal=terminal
        )

    @property
    def said(self) -> Message:
        return Message(id=new_id(), role="user", content="hi")

    def history(self, n: int) -> History:
        return History(self.thread_key, n, (self.said,))

    @cached_property
    def running(self) -> Run:
        run = self.run()
        self.runs.start(run, thread=self.thread, segment=self.segment(), messages=(self.said,), setup=b"s")
        return run

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            n=2,
            epoch=1,
            position=1,
            progress=Progress(turns=1, usages=Usages({("anthropic", "m"): Usage(3, 2)}), spent_micros=40),
        )

    @cached_property
    def second(self) -> Run:
        """Return a run in a thread that has had one."""
        end = RunEnd(status=RunStatus.FINISHED, at=LATER)
        self.runs.finish(self.segment(2, of=self.running, terminal=True), end, thread=self.thread_key)
        return self.run("r2")


FAKES: Fakes = {MemoryRuns: (RunRepository,)}


def _started(r: RunRows) -> Call:
    run, thread = r.run(), r.thread
    takes = [limited(run.key.user_id, Metric.RUNS)]
    said, kept = (r.said,), {"a": 1}
    first = r.segment()
    return lambda: r.runs.start(
        run, thread=thread, segment=first, messages=said, setup=b"s", attachments=kept, reservations=takes
    )


def _finished(r: RunRows) -> Call:
    gives_back = limited(r.running.key.user_id, Metric.MODEL_SPEND, 2).adjusted(-1)
    how = RunEnd(status=RunStatus.FINISHED, at=LATER, usages=[{"inputTokens": 1}], cost_micros=1, correction=gives_back)
    return lambda: r.runs.finish(r.segment(2, terminal=True), how, thread=r.thread_key, history=r.history(1))


def _wished(r: RunRows) -> Run:
    r.runs.wish(r.running.key, Wish.PAUSE, at=NOW)
    return r.running


def _paused(r: RunRows) -> Run:
    r.runs.pause(r.segment(2, of=_wished(r)), RunPause(at=NOW))
    paused = r.runs.run(r.running.key)
    assert paused is not None
    return paused


SCENARIOS = Scenarios[RunRows](
    RunRows,
    {
        "RunRepository.thread": made(lambda r: r.running, lambda r, _: r.thread),
        "RunRepository.start": _started,
        "RunRepository.unkept": made(lambda r: r.running, lambda r, _: r.runs.unkept(r.ada.id, ["a", "b"])),
        "RunRepository.append": made(
            lambda r: r.running,
            lambda r, _: r.runs.append(r.segment(2), history=r.history(1), checkpoint=r.checkpoint),
        ),
        "RunRepository.extend": made(
            lambda r: r.running, lambda r, run: r.runs.extend(run.key, limited(run.key.user_id, Metric.MODEL_SPEND, 2))
        ),
        "RunRepository.take": made(
            lambda r: r.ada.id, lambda r, user_id: r.runs.take(limited(user_id, Metric.MODEL_SPEND, 2))
        ),
        "RunRepository.settle": made(
            lambda r: r.ada.id, lambda r, user_id: r.runs.settle(limited(user_id, Metric.MODEL_SPEND, 2).adjusted(-1))
        ),
        "RunRepository.setup": made(lambda r: r.running, lambda r, run: r.runs.setup(run.key)),
        "RunRepository.last_checkpoint": made(lambda r: r.running, lambda r, run: r.runs.last_checkpoint(run.key)),
        "RunRepository.finish": _finished,
        "RunRepository.wish": made(lambda r: r.running, lambda r, run: r.runs.wish(run.key, Wish.NEXT, at=NOW)),
        "RunRepository.wishes": made(lambda r: r.running, lambda r, run: r.runs.wishes(run.key)),
        "RunRepository.pause": made(
            _wished, lambda r, _: r.runs.pause(r.segment(2), RunPause(at=NOW, turns=1, cost_micros=3))
        ),
        "RunRepository.resume": made(_paused, lambda r, run: r.runs.resume(r.segment(3), run, at=LATER)),
        "RunRepository.paused_before": made(_paused, lambda r, _: r.runs.paused_before(LATER, limit=5)),
        "RunRepository.active": made(
            lambda r: r.running, lambda r, _: r.runs.active(r.ada.id, AgentId("karma"), limit=5)
        ),
        "RunRepository.withdraw": made(_wished, lambda r, run: r.runs.withdraw(run.key, Wish.PAUSE)),
        "RunRepository.tail": made(lambda r: r.running, lambda r, run: r.runs.tail(run.key)),
        "RunRepository.segments": made(lambda r: r.running, lambda r, run: r.runs.segments(run.key, after=0, limit=5)),
        "RunRepository.run": made(lambda r: r.running, lambda r, run: r.runs.run(run.key)),
        "RunRepository.runs": made(
            lambda r: r.running, lambda r, _: r.runs.runs(r.ada.id, limit=5, start=None, agent_id=AgentId("karma"))
        ),
        "RunRepository.count": made(lambda r: r.running, lambda r, _: r.runs.count(r.ada.id)),
        "RunRepository.count_of_agent": made(
            lambda r: r.running, lambda r, _: r.runs.count_of_agent(r.ada.id, AgentId("karma"), most=5)
        ),
        "RunRepository.owners": made(lambda r: r.running, lambda r, run: r.runs.owners(run.key.run_id)),
    },
)


def _run(world: World, owner: str, _: Mapping[str, str]) -> str:
    run_id = new_id()
    record(world.person(owner).id, run_id)
    return run_id


def _lost_run(world: World, owner: str, _: Mapping[str, str]) -> str:
    return begin(world.person(owner).id, new_id()).key.run_id


OBJECTS: Objects = {
    "run_id": _run,
    "run_id of POST /api/v1/runs/{run_id}/cancel": _lost_run,
    "run_id of POST /api/runs/{run_id}/cancel": _lost_run,
    "run_id of POST /api/v1/runs/{run_id}/pause": _lost_run,
    "run_id of POST /api/runs/{run_id}/pause": _lost_run,
    "run_id of POST /api/v1/runs/{run_id}/resume": _lost_run,
    "run_id of POST /api/runs/{run_id}/resume": _lost_run,
}

BODIES: Bodies = {
    "POST /api/v1/runs/{run_id}/cancel": lambda *_: {"reason": "a test"},
    "POST /api/v1/agents/{agent_id}/stop": lambda *_: {"reason": "a test"},
    "POST /api/agent": lambda *_: {"messages": [{"role": "user", "content": "Hello"}]},
    "POST /api/chat": lambda *_: {"agent_id": "karma", "message": "Hello"},
    "POST /api/v1/chat": lambda *_: {"agent_id": "karma", "message": "Hello"},
    "POST /api/v1/llm/messages": lambda *_: {"messages": [{"role": "user", "content": "Hello"}], "stream": True},
    "POST /api/v1/agent": lambda *_: {"messages": [{"role": "user", "content": "Hello"}]},
}

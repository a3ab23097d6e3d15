"""Declarations of runs for the tests of all rings, more than 450 lines of one world; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from karma.billing.allowances import Metric
from karma.conversations.domain import History, Message, Thread, ThreadKey, ToolCall
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import AgentId, RunId, ThreadId, UserId, new_id
from karma.identity.domain import Caller, Role
from karma.models.domain import Usage, Usages
from karma.runs.checkpoint_repository import CheckpointRepository
from karma.runs.domain import Checkpoint, CheckpointKind, Progress, Run, RunEnd, RunKey, RunPause, RunStatus, Segment
from karma.runs.draft_repository import DraftRepository
from karma.runs.events import run_started
from karma.runs.interrupts import MAX_INTERRUPTS, Interrupt, Reason
from karma.runs.points import (
    MAX_POINT_DESCRIPTION_CHARS,
    MAX_POINT_TAGS,
    MAX_TAG_CHARS,
    Earlier,
    Noted,
    PointId,
    RunPoint,
    label_of,
    write_point_id,
)
from karma.runs.repository import RunRepository
from karma.runs.setup import RunSetup, dump_setup
from karma.runs.wishes import Needs, Wish
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.drafts import MemoryDrafts
from tests.fakes.runs import MemoryRuns
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Call, Fakes, Pages, Scenarios, made
from tests.support.delegated import delegated_by
from tests.support.plans import limited
from tests.support.requests import asked
from tests.support.rows import LATER, NOW, AccountRows


def begin(
    user_id: UserId, run_id: str, *, at: datetime = NOW, agent: str | None = None, setup: bytes = b"", **of: Any
) -> Run:
    """Store a run that has begun, with a lease until `at`."""
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
        **of,
    )
    started = b'{"type":"RUN_STARTED","threadId":"%b","runId":"%b"}' % (run.thread_id.encode(), run_id.encode())
    first = Segment(key=key, n=1, writer="w", epoch=1, lease_until=at, events=(started, b'{"type":"CUSTOM"}'))
    RunRepository().start(run, thread=RunRepository().thread(thread), segment=first, messages=(), setup=setup)
    return run


def record(user_id: UserId, run_id: str, *, at: datetime = NOW, agent: str | None = None, **of: Any) -> None:
    """Store a run that has finished."""
    run = begin(user_id, run_id, at=at, agent=agent, **of)
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
        stop_reason="end",
    )
    RunRepository().finish(last, how, thread=thread)


class RunRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.runs = RunRepository()
        self.points = CheckpointRepository()
        self.drafts = DraftRepository()

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

    @property
    def label(self) -> RunPoint:
        return RunPoint(
            id=PointId(self.running.key.run_id, 2, label_of("Mine", ())),
            kind=CheckpointKind.MANUAL,
            position=1,
            steps=1,
            messages=2,
            total_tokens=5,
            cost_micros=40,
            status=RunStatus.RUNNING,
            at=NOW,
            description="Mine",
        )

    @cached_property
    def labelled(self) -> RunPoint:
        """Return a label of a run that has a checkpoint."""
        self.runs.append(self.segment(2, of=self.running), history=self.history(1), checkpoint=self.checkpoint)
        self.points.label(self.running.key, self.label, at=NOW, request=asked("l"))
        return self.label

    @cached_property
    def in_queue(self) -> Run:
        """Return a run that waits for the running one."""
        self.running  # noqa: B018  made here
        run = replace(self.run("r2"), status=RunStatus.QUEUED)
        self.runs.start(run, thread=self.thread, segment=self.segment(of=run), messages=(), setup=b"s")
        return run

    @cached_property
    def second(self) -> Run:
        """Return a run in a thread that has had one."""
        end = RunEnd(status=RunStatus.FINISHED, at=LATER)
        self.runs.finish(self.segment(2, of=self.running, terminal=True), end, thread=self.thread_key)
        return self.run("r2")


FAKES: Fakes = {
    MemoryRuns: (RunRepository,),
    MemoryCheckpoints: (CheckpointRepository,),
    MemoryDrafts: (DraftRepository,),
}


def _drafted(r: RunRows) -> ThreadKey:
    key = ThreadKey(r.ada.id, ThreadId("draft"))
    r.drafts.begin(key, at=NOW, removed_at=LATER)
    return key


def _needs(r: RunRows, active: Run) -> Needs:
    """Return what another run needs that is to take the place of the active one."""
    attached: Any = {"type": "image", "source": {"type": "file", "value": "a1"}}
    shown = Message(id=new_id(), role="user", content=(attached,))
    takes = [limited(active.key.user_id, Metric.RUNS)]
    return Needs(run=r.run("r2").key, messages=(shown,), attachments={"a2": 3}, reservations=takes)


def _started(r: RunRows) -> Call:
    run, thread = r.run(), r.thread
    takes = [limited(run.key.user_id, Metric.RUNS)]
    said, kept = (r.said,), {"a": 1}
    first = r.segment()
    return lambda: r.runs.start(
        run,
        thread=thread,
        segment=first,
        messages=said,
        setup=b"s",
        attachments=kept,
        reservations=takes,
        checkpoint=replace(r.checkpoint, n=1),
    )


def _finished(r: RunRows) -> Call:
    gives_back = limited(r.running.key.user_id, Metric.MODEL_SPEND, 2).adjusted(-1)
    how = RunEnd(status=RunStatus.FINISHED, at=LATER, usages=[{"inputTokens": 1}], cost_micros=1, correction=gives_back)
    return lambda: r.runs.finish(r.segment(2, terminal=True), how, thread=r.thread_key, history=r.history(1))


def _wished(r: RunRows) -> Run:
    r.runs.wish(r.running.key, Wish.PAUSE, at=NOW)
    return r.running


def _given_its_turn(r: RunRows) -> Call:
    queued = r.in_queue
    r.runs.finish(
        r.segment(2, of=r.running, terminal=True), RunEnd(status=RunStatus.FINISHED, at=LATER), thread=r.thread_key
    )
    thread = r.thread
    begun = replace(queued, status=RunStatus.RUNNING, follows=thread.latest, begins_at=2, answers=1)
    return lambda: r.runs.take_turn(begun, thread, (r.said,), at=LATER)


def _paused(r: RunRows) -> Run:
    r.runs.pause(r.segment(2, of=_wished(r)), RunPause(at=NOW))
    paused = r.runs.run(r.running.key)
    assert paused is not None
    return paused


def question(run: Run, n: int = 1) -> Interrupt:
    """Return a question of a run about a call."""
    return Interrupt(
        key=run.key,
        n=n,
        thread_id=run.thread_id,
        call=ToolCall(f"c{n}", "echo", "{}"),
        made_by=run.key.run_id,
        reason=Reason.TOOL_CALL,
        message="Allow it?",
        response_schema={"type": "object"},
        expires_at=LATER,
    )


def _interrupted(r: RunRows) -> Interrupt:
    asked = question(r.running)
    how = RunEnd(status=RunStatus.INTERRUPTED, at=LATER, interrupts=(asked,))
    r.runs.finish(r.segment(2, of=r.running, terminal=True), how, thread=r.thread_key)
    return asked


def _delegating(r: RunRows) -> Run:
    run = r.running
    r.runs.append(r.segment(2), delegated=delegated_by(r.running))
    return run


def _note(rows: RunRows, by: Noted) -> None:
    tx = Transaction()
    rows.runs.noting(by, Earlier(1, "r"))(tx)
    tx.commit()


def _noted(r: RunRows) -> Noted:
    return Noted(r.running.key, asked("r"))


SCENARIOS = Scenarios[RunRows](
    RunRows,
    {
        "RunRepository.thread": made(lambda r: r.running, lambda r, _: r.thread),
        "RunRepository.start": _started,
        "RunRepository.restore": made(lambda r: r.second, lambda r, _: r.runs.restore(r.thread, position=0, at=LATER)),
        "RunRepository.restored_by": made(_noted, lambda r, by: r.runs.restored_by(by)),
        "RunRepository.noting": made(_noted, _note),
        "RunRepository.unkept": made(lambda r: r.running, lambda r, _: r.runs.unkept(r.ada.id, ["a", "b"])),
        "RunRepository.append": made(
            lambda r: r.running,
            lambda r, _: r.runs.append(
                r.segment(2), history=r.history(1), checkpoint=r.checkpoint, delegated=delegated_by(r.running)
            ),
        ),
        "RunRepository.delegated": made(_delegating, lambda r, run: r.runs.delegated(run.key)),
        "RunRepository.extend": made(
            lambda r: r.running, lambda r, run: r.runs.extend(run.key, limited(run.key.user_id, Metric.MODEL_SPEND, 2))
        ),
        "RunRepository.take": made(
            lambda r: r.ada.id, lambda r, user_id: r.runs.take(limited(user_id, Metric.MODEL_SPEND, 2))
        ),
        "RunRepository.settle": made(
            lambda r: r.ada.id, lambda r, user_id: r.runs.settle(limited(user_id, Metric.MODEL_SPEND, 2).adjusted(-1))
        ),
        "RunRepository.turns": made(lambda r: r.running, lambda r, _: r.runs.turns(r.thread_key)),
        "RunRepository.take_turn": _given_its_turn,
        "RunRepository.make_way": made(
            lambda r: r.running,
            lambda r, run: r.runs.make_way(r.thread_key, run.key.run_id, at=NOW, needs=_needs(r, run)),
        ),
        "RunRepository.setup": made(lambda r: r.running, lambda r, run: r.runs.setup(run.key)),
        "RunRepository.whole": made(lambda r: r.running, lambda r, run: r.runs.whole(run.key)),
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
        "RunRepository.expiring": made(_interrupted, lambda r, _: r.runs.expiring(LATER + timedelta(days=1), limit=5)),
        "RunRepository.put_off": made(
            _interrupted, lambda r, asked: r.runs.put_off(asked.key, asked.n, until=LATER + timedelta(hours=1))
        ),
        "RunRepository.lapse": made(_interrupted, lambda r, asked: r.runs.lapse(asked, at=LATER)),
        "RunRepository.interrupts": made(
            _interrupted, lambda r, asked: r.runs.interrupts(r.ada.id, [asked.id, "r9/1", "x"])
        ),
        "RunRepository.withdraw": made(_wished, lambda r, run: r.runs.withdraw(run.key, Wish.PAUSE)),
        "RunRepository.tail": made(lambda r: r.running, lambda r, run: r.runs.tail(run.key)),
        "RunRepository.segments": made(lambda r: r.running, lambda r, run: r.runs.segments(run.key, after=0, limit=5)),
        "RunRepository.run": made(lambda r: r.running, lambda r, run: r.runs.run(run.key)),
        "RunRepository.versioned": made(lambda r: r.running, lambda r, run: r.runs.versioned(run.key)),
        "RunRepository.runs": made(
            lambda r: r.running, lambda r, _: r.runs.runs(r.ada.id, limit=5, start=None, agent_id=AgentId("karma"))
        ),
        "RunRepository.count": made(lambda r: r.running, lambda r, _: r.runs.count(r.ada.id)),
        "RunRepository.count_of_agent": made(
            lambda r: r.running, lambda r, _: r.runs.count_of_agent(r.ada.id, AgentId("karma"), most=5)
        ),
        "CheckpointRepository.points": made(
            lambda r: r.labelled, lambda r, _: r.points.points(r.running.key, limit=5, after=(1, ""))
        ),
        "CheckpointRepository.point": made(
            lambda r: r.labelled, lambda r, label: r.points.point(r.running.key, label.id)
        ),
        "CheckpointRepository.labelled_by": made(
            lambda r: r.labelled, lambda r, _: r.points.labelled_by(r.running.key, asked("l"))
        ),
        "CheckpointRepository.label": made(
            lambda r: r.label, lambda r, label: r.points.label(r.running.key, label, at=NOW, request=asked("l"))
        ),
        "DraftRepository.begin": made(
            lambda r: r.ada, lambda r, _: r.drafts.begin(r.thread_key, at=NOW, removed_at=LATER)
        ),
        "DraftRepository.add": made(_drafted, lambda r, key: r.drafts.add(key, (r.said,), n=0, at=NOW)),
        "RunRepository.owners": made(lambda r: r.running, lambda r, run: r.runs.owners(run.key.run_id)),
    },
)


def _run(world: World, owner: str, _: Mapping[str, str]) -> str:
    run_id = new_id()
    record(world.person(owner).id, run_id)
    return run_id


def _lost_run(world: World, owner: str, _: Mapping[str, str]) -> str:
    return begin(world.person(owner).id, new_id()).key.run_id


PAGES: Pages = {
    "runs/{run_id}/checkpoints": (
        1_000,
        6 * (MAX_POINT_DESCRIPTION_CHARS + MAX_POINT_TAGS * MAX_TAG_CHARS) + 1_000,
    ),
    "runs/{run_id}": (MAX_INTERRUPTS, 8_000),
}


def _checkpoint(world: World, owner: str, _: Mapping[str, str]) -> str:
    run = begin(world.person(owner).id, new_id())
    progress = Progress(turns=1, usages=Usages(), spent_micros=40, messages=1)
    point = Checkpoint(n=2, epoch=1, position=0, progress=progress, kind=CheckpointKind.TURN, at=NOW)
    said = History(ThreadKey(run.key.user_id, run.thread_id), 0, (Message(id=new_id(), role="user", content="hi"),))
    segment = Segment(key=run.key, n=2, writer="w", epoch=1, lease_until=NOW, events=(b"{}",))
    RunRepository().append(segment, history=said, checkpoint=point)
    return write_point_id(PointId(run.key.run_id, point.n))


def plain_setup(user_id: UserId) -> bytes:
    """Return what a run of an agent without tools was started with, as it is stored."""
    caller = Caller(
        user_id=user_id, role=Role.USER, method="jwt", scopes=frozenset(), email_verified=True, name="Ada", avatar=""
    )
    return dump_setup(
        RunSetup(
            caller=caller,
            system=("You help.",),
            tools=(),
            frontend_tools=(),
            max_tokens=100,
            max_turns=2,
            speaks=(1, 0),
            asides=(),
        )
    )


def ended_run(user_id: UserId) -> str:
    """Store a run that has ended, with what it was started with, and return the id of a point of it."""
    store = RunRepository()
    key, thread = RunKey(user_id, RunId(new_id())), ThreadKey(user_id, ThreadId(new_id()))
    run = Run(key=key, thread_id=thread.thread_id, status=RunStatus.RUNNING, model="m", created_at=NOW, answers=0)
    started = run_started(thread_id=run.thread_id, run_id=key.run_id)
    first = Segment(key=key, n=1, writer="w", epoch=1, lease_until=NOW, events=(started.data,))
    point = Checkpoint(n=1, epoch=1, position=0, progress=Progress(messages=1), kind=CheckpointKind.FORK, at=NOW)
    said = (Message(id=new_id(), role="user", content="hi"),)
    store.start(
        run, thread=store.thread(thread), segment=first, messages=said, setup=plain_setup(user_id), checkpoint=point
    )
    last = replace(first, n=2, events=(b'{"type":"RUN_FINISHED"}',), terminal=True)
    store.finish(last, RunEnd(status=RunStatus.FINISHED, at=NOW, last_message=0), thread=thread)
    return write_point_id(PointId(key.run_id, 1))


def _point_to_go_on_from(world: World, owner: str, _: Mapping[str, str]) -> str:
    return ended_run(world.person(owner).id)


OBJECTS: Objects = {
    "run_id": _run,
    **{
        f"checkpoint_id of POST {prefix}/checkpoints/{{checkpoint_id}}/{what}": _point_to_go_on_from
        for prefix in ("/api", "/api/v1")
        for what in ("restore", "fork")
    },
    "checkpoint_id": _checkpoint,
    "run_id of POST /api/v1/runs/{run_id}/cancel": _lost_run,
    "run_id of POST /api/runs/{run_id}/cancel": _lost_run,
    "run_id of POST /api/v1/runs/{run_id}/pause": _lost_run,
    "run_id of POST /api/runs/{run_id}/pause": _lost_run,
    "run_id of POST /api/v1/runs/{run_id}/resume": _lost_run,
    "run_id of POST /api/runs/{run_id}/resume": _lost_run,
}

BODIES: Bodies = {
    "POST /api/v1/runs": lambda *_: {"message": "Hello"},
    "POST /api/v1/runs/{run_id}/cancel": lambda *_: {"reason": "a test"},
    "POST /api/v1/agents/{agent_id}/stop": lambda *_: {"reason": "a test"},
    **{
        f"POST {prefix}/runs/{{run_id}}/checkpoints": lambda *_: {"description": "a test", "tags": ["x"]}
        for prefix in ("/api", "/api/v1")
    },
    **{
        f"POST {prefix}/checkpoints/{{checkpoint_id}}/{what}": lambda *_: {"modifications": {"message": "Go on"}}
        for prefix in ("/api", "/api/v1")
        for what in ("restore", "fork")
    },
    "POST /api/agent": lambda *_: {"messages": [{"role": "user", "content": "Hello"}]},
    "POST /api/chat": lambda *_: {"agent_id": "karma", "message": "Hello"},
    "POST /api/v1/chat": lambda *_: {"agent_id": "karma", "message": "Hello"},
    "POST /api/v1/llm/messages": lambda *_: {"messages": [{"role": "user", "content": "Hello"}], "stream": True},
    "POST /api/v1/agent": lambda *_: {"messages": [{"role": "user", "content": "Hello"}]},
}

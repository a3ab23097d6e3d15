"""A thread is deleted while everything of it goes on: whatever the order, only its tombstone is left."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from karma.conversations.deletion_repository import ThreadDeletionRepository
from karma.conversations.domain import History, Message, Thread, ThreadChange, ThreadKey
from karma.conversations.items import thread_pk
from karma.conversations.purge import empty_messages
from karma.conversations.repository import ThreadRepository
from karma.core.dynamo.access import get
from karma.core.dynamo.items import Key
from karma.core.dynamo.leases import DynamoLeases
from karma.core.errors import AppError
from karma.core.ids import AgentId, RunId, ThreadId, UserId, new_id
from karma.identity.accounts.deletion import SETTLES_AFTER
from karma.runs.attachment_removal import AttachmentsRemoval
from karma.runs.attachment_repository import AttachmentRepository
from karma.runs.domain import (
    LEASE,
    Checkpoint,
    OwnershipLost,
    Progress,
    Run,
    RunEnd,
    RunKey,
    RunPause,
    RunStatus,
    Segment,
)
from karma.runs.events import run_started
from karma.runs.items import ATTACHMENT, AttachmentItem, run_pk, user_pk
from karma.runs.places import NoPlace, Places
from karma.runs.ports import DelegatedWork, StoredStep
from karma.runs.removal import GRACE, RunsRemoval
from karma.runs.removal_repository import RunRemovalRepository
from karma.runs.repository import RunRepository
from karma.runs.watchdog import Inspector
from karma.runs.wishes import Wish
from karma.threads.deletion import FORGET_AFTER, ThreadCascade, ThreadRemover, requeue_due
from tests.contexts.runs import plain_setup
from tests.fakes.attachments import MemoryAttachments
from tests.fakes.billing import MemoryQueue
from tests.fakes.runs import RequestedExecutions, SetClock
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.interleaving import play, watch
from tests.support.stack import Context, Drain, SqsEvent, Stack

INTERLEAVINGS = int(os.environ.get("INTERLEAVINGS", "6"))
"""Seeds that are played, of the run's number (tests/support/seeds.py)."""
CLEAN = (AppError, OwnershipLost)
"""Errors with which whoever writes to a thread may end that is deleted meanwhile."""
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
EVENTS = (run_started(thread_id="t1", run_id="r").data,)


@dataclass
class Queue(MemoryQueue):
    """Takes messages whatever their delay."""

    def send(self, body: str, *, delay_s: int = 0) -> None:
        del delay_s
        super().send(body)


@dataclass
class Scene:
    """A thread of an account that has another one, and the services of one process."""

    user_id: UserId = field(default_factory=open_account)
    clock: SetClock = field(default_factory=lambda: SetClock(NOW))
    queue: Queue = field(default_factory=Queue)
    runs: RunRepository = field(default_factory=RunRepository)
    threads: ThreadRepository = field(default_factory=ThreadRepository)
    deletions: ThreadDeletionRepository = field(default_factory=ThreadDeletionRepository)
    attachments: MemoryAttachments = field(default_factory=MemoryAttachments)
    executions: RequestedExecutions = field(default_factory=RequestedExecutions)

    def __post_init__(self) -> None:
        self.key = ThreadKey(self.user_id, ThreadId("t1"))
        self.remover = ThreadRemover(
            threads=self.threads, deletions=self.deletions, wishes=self.runs, queue=self.queue, clock=self.clock
        )
        removal = RunsRemoval(
            store=self.runs, removals=RunRemovalRepository(), executions=self.executions, clock=self.clock
        )
        self.cascade = ThreadCascade(
            deletions=self.deletions,
            runs=removal,
            attachments=AttachmentsRemoval(AttachmentRepository(), self.attachments),
            messages=empty_messages,
            queue=self.queue,
            clock=self.clock,
        )

    def run(self, run_id: str, thread_id: str = "t1") -> Run:
        return Run(
            key=RunKey(self.user_id, RunId(run_id)),
            thread_id=ThreadId(thread_id),
            status=RunStatus.RUNNING,
            model="m",
            created_at=self.clock.now(),
            agent_id=AgentId("karma"),
        )

    def start(self, run_id: str, thread_id: str = "t1", *, thread: Thread | None = None) -> Run:
        run = self.run(run_id, thread_id)
        thread = thread or self.runs.thread(ThreadKey(self.user_id, run.thread_id))
        said = Message(id=new_id(), role="user", content=f"This is {run_id}")
        self.runs.start(
            run, thread=thread, segment=self.segment(run, 1), messages=(said,), setup=plain_setup(self.user_id)
        )
        return run

    def segment(self, run: Run, n: int, *, terminal: bool = False) -> Segment:
        until = self.clock.now() + LEASE
        return Segment(key=run.key, n=n, writer="w", epoch=1, lease_until=until, events=EVENTS, terminal=terminal)

    def go_on(self, run: Run, *, position: int) -> None:
        """Write what a run with one turn writes: text, the turn with its checkpoint, and its end."""
        key = ThreadKey(self.user_id, run.thread_id)
        answer = Message(id=new_id(), role="assistant", content="words")
        self.runs.append(self.segment(run, 2))
        point = Checkpoint(n=3, epoch=1, position=position, progress=Progress(turns=1))
        self.runs.append(self.segment(run, 3), history=History(key, position, (answer,)), checkpoint=point)
        how = RunEnd(status=RunStatus.FINISHED, at=self.clock.now(), last_message=position)
        self.runs.finish(self.segment(run, 4, terminal=True), how, thread=key)

    def delete(self) -> None:
        self.remover.delete(self.key)

    def advance(self) -> None:
        self.cascade.advance(self.key)

    def settle(self) -> None:
        """Let the time pass in which a process of the request's moment may write; then the deletion ends."""
        self.clock.pass_by(SETTLES_AFTER + timedelta(minutes=1))
        for _ in range(4):
            if self.cascade.advance(self.key):
                return
        pytest.fail("the deletion does not end")

    def items(self, stack: Stack) -> list[dict[str, Any]]:
        pages = stack.aws("dynamodb").get_paginator("scan").paginate
        found = [item for page in pages(TableName=stack.tables["agents"]) for item in page["Items"]]
        return [item for item in found if self.user_id in str(item)]

    def assert_only_its_tombstone_is_left(self, stack: Stack, *, others: int = 1) -> None:
        """Of the thread its tombstone is left; the account's other thread is as it was."""
        left = [item for item in self.items(stack) if "other" not in item["pk"]["S"]]
        kinds = sorted(item["type"]["S"] for item in left)
        assert kinds == ["run_counter", "thread"]
        [tombstone] = [item for item in left if item["type"]["S"] == "thread"]
        assert tombstone["pk"]["S"] == thread_pk(self.key)
        assert not {"title", "agent_id", "active_run_id"} & tombstone.keys()
        since_now_s = int(tombstone["expires_at"]["N"]) - int((NOW + FORGET_AFTER).timestamp())
        assert 0 <= since_now_s <= 2 * GRACE.total_seconds()
        assert self.runs.count(self.user_id) == others
        assert [head.key.thread_id for head in self.threads.page(self.user_id, limit=9, below=None)] == ["other"]


def cleanly(act: Callable[[], object]) -> Callable[[], None]:
    def guarded() -> None:
        with suppress(*CLEAN):
            act()

    return guarded


def test_in_whatever_order_only_the_tombstone_is_left(stack: Stack, request: pytest.FixtureRequest, seed: int) -> None:
    watch()
    request.getfixturevalue("kept_clients")
    orders = set()
    for nth in range(seed, seed + INTERLEAVINGS):
        scene = Scene()
        other = scene.start("other", "other")
        scene.go_on(scene.start("r1"), position=1)
        running = scene.start("r2")
        before = scene.runs.thread(scene.key)

        def next_run(scene: Scene = scene) -> None:
            scene.go_on(scene.start("r3"), position=4)

        def late_run(scene: Scene = scene, thread: Thread = before) -> None:
            scene.start("r4", thread=replace(thread, active_run_id=None))

        def goes(scene: Scene = scene) -> None:
            scene.advance()
            scene.clock.pass_by(GRACE + timedelta(seconds=1))
            scene.advance()

        def watch_over(scene: Scene = scene, run: Run = running) -> None:
            inspector = Inspector(scene.runs, RequestedExecutions(), scene.clock)
            inspector.look(run.key)
            scene.runs.wish(run.key, Wish.NEXT, at=scene.clock.now())

        actors: dict[str, Callable[[], object]] = {
            "delete": scene.delete,
            "run": lambda scene=scene, run=running: scene.go_on(run, position=3),  # type: ignore[misc]
            "next run": next_run,
            "late run": late_run,
            "rename": lambda scene=scene: scene.threads.change(  # type: ignore[misc]
                scene.key, ThreadChange(title="New"), version=None, at=scene.clock.now()
            ),
            "other thread": lambda scene=scene, run=other: scene.go_on(run, position=1),  # type: ignore[misc]
            "goes": goes,
            "watchdog": watch_over,
        }
        orders.add(tuple(play(nth, {name: cleanly(act) for name, act in actors.items()})))
        assert scene.threads.get(scene.key) is None, f"seed {nth}"
        for act in actors.values():  # each is delivered once more
            cleanly(act)()
        scene.settle()
        scene.delete()
        scene.advance()
        try:
            scene.assert_only_its_tombstone_is_left(stack)
        except AssertionError as exc:
            raise AssertionError(f"seed {nth}") from exc
    assert len(orders) == INTERLEAVINGS


@pytest.mark.parametrize("written", range(4))
def test_a_run_that_writes_on_is_ended_and_cannot_write(stack: Stack, written: int) -> None:
    """Its process does not read wishes: it is stuck in a tool, or has lost its network for a while."""
    scene = Scene()
    scene.start("other", "other")
    run = scene.start("r1")
    answer = Message(id="a", role="assistant", content="words")
    writes: list[Callable[[], None]] = [
        lambda: scene.runs.append(scene.segment(run, 2)),
        lambda: scene.runs.append(scene.segment(run, 3), history=History(scene.key, 1, (answer,))),
        lambda: scene.runs.finish(
            scene.segment(run, 4, terminal=True), RunEnd(status=RunStatus.FINISHED, at=NOW), thread=scene.key
        ),
    ]
    for write in writes[:written]:
        write()
    scene.delete()
    scene.advance()
    if written < len(writes):
        alive = scene.runs.run(run.key)
        assert alive is not None  # its owner may still end it by itself
        assert scene.runs.wishes(run.key) == {Wish.CANCEL: "Its thread was deleted"}
        scene.clock.pass_by(GRACE)
        scene.advance()
    assert scene.runs.run(run.key) is None
    assert scene.runs.runs(scene.user_id, limit=5, start=None).runs[0].key.run_id == "other"
    for write in writes[written : written + 1]:  # after which its process stops
        with pytest.raises(OwnershipLost):
            write()
    scene.settle()
    scene.assert_only_its_tombstone_is_left(stack)


def test_whoever_waits_for_the_place_of_a_run_that_goes_is_woken_at_once(stack: Stack) -> None:
    """A lost process held it: nobody else gives it back, and its time would be over after a quarter of an hour."""
    scene = Scene()
    run = scene.start("r1")
    places = Places(
        DynamoLeases("agents"), scene.clock, plan_of=lambda _: "free", executions=scene.executions, workers=50
    )
    places.take(run, epoch=1, until=None)
    places.take(scene.run("other", "other"), epoch=1, until=None)
    waits = scene.run("waits", "third")
    with pytest.raises(NoPlace):
        places.take(waits, epoch=1, until=None)
    scene.delete()
    scene.clock.pass_by(GRACE + timedelta(seconds=1))
    scene.advance()
    assert list(scene.executions.woken) == [waits.key]
    places.take(waits, epoch=1, until=None)
    scene.executions.woken.clear()
    scene.advance()
    assert not scene.executions.woken, "the place has another holder by now"
    scene.settle()


def test_a_paused_run_is_cancelled_at_once(stack: Stack) -> None:
    scene = Scene()
    scene.start("other", "other")
    run = scene.start("r1")
    assert scene.runs.wish(run.key, Wish.PAUSE, at=NOW)
    handed_over = replace(scene.segment(run, 2), lease_until=NOW)
    scene.runs.pause(handed_over, RunPause(at=NOW))
    scene.delete()
    scene.clock.pass_by(timedelta(seconds=1))
    scene.advance()
    assert scene.runs.run(run.key) is None
    scene.settle()
    scene.assert_only_its_tombstone_is_left(stack)


def test_runs_that_wait_for_their_turn_go_with_it(stack: Stack) -> None:
    scene = Scene()
    scene.go_on(scene.start("other", "other"), position=1)
    scene.start("r1")
    for name in ("r2", "r3"):
        waits = replace(scene.run(name), status=RunStatus.QUEUED)
        first = replace(scene.segment(waits, 1), epoch=0, lease_until=scene.clock.now() - LEASE)
        scene.runs.start(
            waits, thread=scene.runs.thread(scene.key), segment=first, messages=(), setup=plain_setup(scene.user_id)
        )
    scene.delete()
    scene.clock.pass_by(GRACE + timedelta(seconds=1))
    scene.advance()
    scene.settle()
    scene.assert_only_its_tombstone_is_left(stack)


@pytest.mark.parametrize("older", [1, 2, 3])
def test_runs_from_before_threads_knew_theirs_are_found(stack: Stack, older: int) -> None:
    scene = Scene()
    scene.start("other", "other")
    for i in range(3):
        scene.go_on(scene.start(f"r{i}"), position=2 * i + 1)
    keys = [
        (thread_pk(scene.key), "last_run_id"),
        *((run_pk(scene.run(f"r{i}").key), "previous_run_id") for i in (0, 1)),
    ]
    for pk, attribute in keys[1:]:
        stack.aws("dynamodb").update_item(
            TableName=stack.tables["agents"],
            Key={"pk": {"S": pk}, "sk": {"S": "HEAD"}},
            UpdateExpression=f"REMOVE {attribute}",
        )
    scene.delete()
    scene.advance()
    scene.settle()
    scene.assert_only_its_tombstone_is_left(stack)


def test_a_deletion_whose_message_was_lost_is_enqueued_by_the_sweep(
    stack: Stack, drain: Drain, lambda_context: Context
) -> None:
    stack.use("sweeps.queues")
    scene = Scene()
    scene.start("r1")
    scene.delete()
    scene.queue.bodies.clear()
    assert requeue_due(scene.deletions, scene.queue, scene.clock) == 0  # the message may still come

    from background.sweeps.queues import lambda_handler

    assert lambda_handler({"sweep": "deletions"}, lambda_context) == {"changed": 1}  # the scene's clock is behind
    assert lambda_handler({"sweep": "deletions"}, lambda_context) == {"changed": 0}
    (message,) = drain(stack.queues["deletions"])
    assert orjson.loads(message["Body"]) == {"user_id": scene.user_id, "thread_id": "t1"}


def test_the_function_wakes_who_waits_for_the_place_of_a_run_that_goes(
    stack: Stack, drain: Drain, sqs_event: SqsEvent, lambda_context: Context
) -> None:
    stack.use("deletion")
    user_id = UserId(new_id())
    open_account(user_id)
    scene = Scene(user_id=user_id, clock=SetClock(datetime.now(UTC) - 2 * GRACE))
    places = Places(
        DynamoLeases("agents"), scene.clock, plan_of=lambda _: "free", executions=scene.executions, workers=50
    )
    places.take(scene.start("r1"), epoch=1, until=None)
    places.take(scene.run("other", "other"), epoch=1, until=None)
    waits = scene.run("waits", "third")
    with pytest.raises(NoPlace):
        places.take(waits, epoch=1, until=None)
    scene.delete()

    from background.deletion import lambda_handler

    lambda_handler(sqs_event([{"user_id": user_id, "thread_id": "t1"}]), lambda_context)
    (message,) = drain(stack.queues["executions"])
    woken = orjson.loads(message["Body"])
    assert (woken["user_id"], woken["run_id"]) == waits.key


@pytest.mark.parametrize("is_settled", [True, False] if os.environ.get("CRASHES") == "all" else [True])
def test_a_crash_of_the_consumer_leaves_what_a_whole_go_leaves(
    stack: Stack, sqs_event: SqsEvent, is_settled: bool
) -> None:
    user_id, asked_at = UserId(new_id()), datetime.now(UTC) - (2 * SETTLES_AFTER if is_settled else 2 * GRACE)

    def seed() -> dict[str, Any]:
        open_account(user_id)
        scene = Scene(user_id=user_id, clock=SetClock(asked_at))
        scene.go_on(scene.start("r1"), position=1)
        scene.start("r2")
        scene.delete()
        return sqs_event([{"user_id": user_id, "thread_id": "t1"}])

    stack.use("deletion")
    report = CrashTest(
        entry=f"{Path(__file__).parents[1] / 'identity' / 'deletion_entry.py'}:handle",
        aws=stack.aws,
        tables=[stack.tables["agents"]],
        seed=seed,
        normalise=lambda item: {name: item.get(name) for name in ("type", "sk", "value", "status", "title")},
        accept=lambda answer: answer == {"batchItemFailures": []},
        max_calls=80,
    ).run()
    assert report.points > 10
    kinds = sorted(item["type"]["S"] for item in Scene(user_id=user_id).items(stack))
    fence = ["run", "run", "run_counter", "segment", "segment", "thread", "thread_deletion"]
    assert kinds == (["run_counter", "thread"] if is_settled else fence)


@pytest.mark.fault("F-29zi")
def test_a_long_result_within_a_subagent_goes_with_the_last_thread_that_has_its_work(stack: Stack) -> None:
    """Of the run in which it began, and of a fork with a copy of that."""
    scene = Scene()
    run = scene.start("r1")
    name = new_id()
    key = Key(user_pk(scene.user_id), f"{ATTACHMENT}{name}")
    step = StoredStep(run.key.run_id, "sub_1", 0, b"", run.key.run_id, attachments=(name,))
    scene.runs.append(scene.segment(run, 2), delegated=DelegatedWork([step], thread=scene.key))
    fork = scene.run("other", "other")
    thread = scene.runs.thread(ThreadKey(scene.user_id, fork.thread_id))
    copy = step._replace(run_id=fork.key.run_id)
    first = scene.segment(fork, 1)
    scene.runs.start(
        fork, thread=thread, segment=first, messages=(), setup=plain_setup(scene.user_id), delegated=[copy]
    )
    held = get(AttachmentItem, key, consistent=True)
    assert held is not None
    assert (held.threads, held.is_tracked) == ({"t1", "other"}, True)
    scene.delete()
    scene.clock.pass_by(GRACE + timedelta(seconds=1))
    scene.advance()
    scene.settle()
    assert list(AttachmentRepository().released(scene.key)) == []
    held = get(AttachmentItem, key, consistent=True)
    assert held is not None
    assert held.threads == {"other"}
    scene.key = thread.key
    scene.delete()
    scene.clock.pass_by(GRACE + timedelta(seconds=1))
    scene.advance()
    scene.settle()
    assert get(AttachmentItem, key, consistent=True) is None

"""Turns of runs that wait for the runs of their thread that came before (docs/adr/0049).

    the end of a run      asks for a process for the first run of the queue that still waits
    that process          gives the run its turn, by one transaction: it runs, and has its thread and its messages
    the watchdog          looks at each run that waits, asks for a process where its turn came unnoticed, and cancels it
                          after an hour in which nothing began or ended in its thread

What its request meant is decided with the turn, by the thread as it is then: which calls get a result because the
conversation goes on without one, and which questions are passed over (docs/adr/0048). While it waited, calls that were
at work have given theirs, and the runs before it have asked.

A run that is cancelled while it waits stays in the list until the next turn; whoever reads the list passes it over.

A run that waits does not pass over what its thread's user was asked: its turn has not come while it would, and a
question may still be answered. The run that answers goes before those that wait, and so does one that brings nothing
but results of the client's calls, since what is asked beside these is shown after them. The hour does not go by
meanwhile, nor while the run before it is paused, but for a run of a schedule, which is out of date by then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from karma.agents.domain import MultitaskStrategy
from karma.conversations.branches import add_later
from karma.conversations.domain import Message, Thread, ThreadChanged, ThreadKey
from karma.conversations.state import EMPTY, MAX_STATE_BYTES, State, changes_of, with_changes, without_user
from karma.core.clock import epoch_ms
from karma.core.errors import Conflict
from karma.core.ids import RunId, UserId
from karma.identity.domain import Caller
from karma.runs.budgets import at_its_turn
from karma.runs.domain import BUSY_RETRY_S, MAX_PAUSE, OwnershipLost, Run, RunKey, RunStatus, ThreadBusy
from karma.runs.events import state_after
from karma.runs.interrupts import Interrupt
from karma.runs.ports import Executions, Runs
from karma.runs.resuming import questions_of, resolve
from karma.runs.setup import RunSetup, load_setup, user_of

MAX_QUEUE = 20
"""Runs that wait for one thread at the most."""

MAX_QUEUED = timedelta(hours=1)
"""Time after which a run that still waits for its turn is cancelled, if nothing began or ended in its thread."""

QUEUE_EXPIRED_REASON = "Its turn had not come within an hour"
"""`cancel_reason` of a run that waited for too long."""

_TRIES = 3


class QueueFull(Conflict):
    """As many runs wait for the thread as may."""

    code = "QUEUE_FULL"

    def __init__(self) -> None:
        super().__init__(f"{MAX_QUEUE} runs wait for this thread already", details={"allowed": MAX_QUEUE})
        self.headers["Retry-After"] = str(BUSY_RETRY_S)


class RunIsQueued(Conflict):
    """The run waits for its turn, and cannot be paused."""

    code = "RUN_QUEUED"

    def __init__(self, run: Run) -> None:
        super().__init__("The run waits for its turn; cancel it instead", details={"run_id": run.key.run_id})


def waiting(store: Runs, user_id: UserId, queue: Sequence[RunId]) -> Iterator[RunId]:
    """Yield the runs of a thread's queue that still wait, in order; one read each."""
    for run_id in queue:
        run = store.run(RunKey(user_id, run_id))
        if run is not None and run.status is RunStatus.QUEUED:
            yield run_id


class QueuePlace(NamedTuple):
    """The place of a new run in its thread."""

    waits: bool
    """It has to wait for its turn."""
    thread: Thread
    """The thread, whose queue has those that still wait."""


def has_waiting(store: Runs, user_id: UserId, interrupts: Sequence[str], *, now: datetime) -> bool:
    """Tell whether one of these questions may still be answered; no read where there is none."""
    found = store.interrupts(user_id, interrupts) if interrupts else {}
    return any(each.is_waiting(now) for each in found.values())


def place_of(
    store: Runs, thread: Thread, strategy: MultitaskStrategy, *, answers: bool = False, is_held: bool = False
) -> QueuePlace:
    """Tell whether a new run has to wait for its turn; one read for each run of the queue, none where there is none.

    One that `answers` questions, or calls beside which something is asked, goes before those that wait; one that
    `is_held` waits for questions to be answered.

    Raises:
        ThreadBusy: others wait for theirs, and the run would not.
        QueueFull: as many wait as may.
    """
    waits = strategy is MultitaskStrategy.ENQUEUE
    goes_first = answers or strategy in {MultitaskStrategy.INTERRUPT, MultitaskStrategy.ROLLBACK}
    if not thread.queue or goes_first:
        return QueuePlace(waits and (is_held or thread.active_run_id is not None), thread)
    queue = tuple(waiting(store, thread.key.user_id, thread.queue))
    if queue and not waits:  # also before it ends an active run whose client has left: it would be refused then
        raise ThreadBusy(thread.active_run_id or queue[0], waits=thread.active_run_id is None)
    if waits and len(queue) >= MAX_QUEUE:
        raise QueueFull
    must = is_held or bool(queue) or thread.active_run_id is not None
    return QueuePlace(waits and must, replace(thread, queue=queue))


def wake_next(store: Runs, executions: Executions, thread: ThreadKey) -> None:
    """Ask for a process for the run of a thread whose turn it is; nothing where none waits, or one is active."""
    turns = store.turns(thread)
    if turns.active is None:
        run_id = next(waiting(store, thread.user_id, turns.queue), None)
        if run_id is not None:
            executions.request(RunKey(thread.user_id, run_id))


class Wait(NamedTuple):
    """Progress of a run that waits for its turn."""

    is_turn: bool
    """It may begin."""
    since: datetime
    """Moment since which nothing has begun, ended or been asked in its thread; of a schedule's run, its creation."""
    held_until: datetime | None
    """Moment until which somebody may answer a question of its thread that its turn would pass over, or resume the run
    before it, which is paused; None: it waits for nobody."""


def wait_of(store: Runs, run: Run, *, now: datetime) -> Wait:
    """Read how far a run is that waits for its turn.

    A read each for the thread, its questions, its active run and those before it in the queue.
    """
    user_id = run.key.user_id
    turns = store.turns(ThreadKey(user_id, run.thread_id))
    first = next(waiting(store, user_id, turns.queue), None)
    asked = store.interrupts(user_id, turns.interrupts).values() if turns.interrupts else ()
    since = run.created_at
    if not run.schedule_id:
        over = (each.answer.at if each.answer else each.expires_at for each in asked if not each.is_waiting(now))
        since = max([since, *([turns.changed_at] if turns.changed_at else ()), *over])
    held_until = None
    if turns.active is None:
        held_until = max((each.expires_at for each in asked if each.is_waiting(now)), default=None)
    elif (active := store.run(RunKey(user_id, turns.active))) is not None and not run.schedule_id:
        held_until = active.paused_at and active.paused_at + MAX_PAUSE
        # At most what it was paused in all, also before that moment: the hour is for threads that nothing moves.
        since = min(now, since + timedelta(milliseconds=active.paused_ms))
    is_first = turns.active is None and first == run.key.run_id
    if is_first and held_until is not None and not _passes_over(store, run, asked):
        held_until = None
    return Wait(is_first and held_until is None, since, held_until)


def _passes_over(store: Runs, run: Run, asked: Iterable[Interrupt]) -> bool:
    """Tell whether a run's turn passes questions over: results of the client's calls leave those about calls open."""
    if run.schedule_id or any(each.call is None for each in asked):
        return True
    stored = store.setup(run.key)
    return stored is None or brings_words(load_setup(stored).waiting)


def brings_words(messages: Iterable[Message]) -> bool:
    """Tell whether messages have anything beside results of calls."""
    return any(each.role != "tool" for each in messages)


def given(store: Runs, key: RunKey, caller: Caller) -> State:
    """Return the state with which a run was told to begin, as it is kept; one read."""
    first = [data for segment in store.segments(key, after=0, limit=1) for data in segment.events]
    return State(without_user(state_after(first), user_of(caller)))


def changes_beside(store: Runs, thread: Thread, state: object, caller: Caller) -> dict[str, Any]:
    """Return what a client has changed of the state of a thread behind whose runs it waits; two reads.

    It holds what the thread has, or still what the last runs before it began with.
    """
    before = [*([thread.active_run_id] if thread.active_run_id else []), *(RunId(each) for each in thread.queue)]
    ends = dict.fromkeys([*before[:1], *before[-1:]])
    held = [given(store, RunKey(thread.key.user_id, each), caller).value for each in ends]
    return changes_of(without_user(state, user_of(caller)), [(thread.state or EMPTY).value, *held])


def _at_its_turn(store: Runs, run: Run, setup: RunSetup, thread: Thread) -> State:
    """Return the state of a thread with what a run's client has changed: its runs may have changed it, too."""
    own = State(with_changes((thread.state or EMPTY).value, setup.changes or {}))
    # Together they may be too large; and a release did not note the changes.
    is_usable = setup.changes is not None and own.size <= MAX_STATE_BYTES
    return own if is_usable else given(store, run.key, setup.caller)


def give_turn(store: Runs, run: Run, *, own: Collection[str], at: datetime) -> Run | None:
    """Let a queued run run, behind all that its thread has by now; None: its turn has not come, or it has ended.

    Its turn has not come either while it would pass over a question that may still be answered, nor while a request may
    be about to begin in the place of the run before it, which makes way.

    `own` are the names of the server's tools; those of MCP servers and subagents are in the run's setup.
    """
    for _ in range(_TRIES):
        thread = store.thread(ThreadKey(run.key.user_id, run.thread_id))
        first = next(waiting(store, run.key.user_id, thread.queue), None)
        if thread.is_deleted or thread.active_run_id is not None or first != run.key.run_id:
            return None
        if thread.making_way is not None and thread.making_way.is_awaited(at):
            return None
        stored = store.setup(run.key)
        setup = load_setup(stored) if stored else None
        questions = questions_of(store, thread, (), user_id=run.key.user_id, now=at)
        brought, more = (setup.waiting, setup.more_names) if setup else ((), frozenset[str]())
        again = setup.repeatable if setup else ()
        messages = add_later(thread, brought, own={*own, *more}, waiting=questions.results, repeatable=again)
        conversation = [*thread.conversation(thread.latest).messages, *messages]
        resolved = resolve(questions, conversation, by=run.key.run_id, now=at, has_news=bool(messages))
        passes_over = any(each.interrupt.is_waiting(at) for each in resolved.answered)
        if passes_over or (run.schedule_id and questions.may_be_answered):
            return None
        state = _at_its_turn(store, run, setup, thread) if setup and setup.has_state else None
        size = thread.next_message + len(messages)
        answers = size - 1 if messages else thread.latest
        begun = replace(run, status=RunStatus.RUNNING, follows=thread.latest, begins_at=size, answers=answers)
        begun = replace(begun, paused_ms=max(0, epoch_ms(at) - epoch_ms(run.created_at)))
        begun = replace(begun, budgets=at_its_turn(run, thread.spending))
        try:
            answered, left = resolved.answered, resolved.left
            store.take_turn(begun, thread, messages, state=state, answers=answered, left=left, at=at)
        except ThreadChanged:
            continue
        except OwnershipLost:
            return None
        return begun
    return None

"""Takes runs over whose process was lost or has handed them over: reads where they were, and claims their logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from karma.conversations.attachments import Library
from karma.conversations.domain import Thread, ThreadKey, ToolCall
from karma.conversations.history import awaited_calls, late_results
from karma.conversations.state import EMPTY, State, with_user
from karma.core.clock import Clock
from karma.core.ids import new_id
from karma.core.records import Record
from karma.models.domain import ModelNotConfigured, Target
from karma.models.ports import Model
from karma.runs import events
from karma.runs.domain import (
    ENGINE_SCHEMA,
    LEASE,
    MAX_TAKE_OVERS,
    NOT_EXECUTED,
    Checkpoint,
    OwnershipLost,
    Progress,
    Run,
    RunErrorCode,
    RunKey,
    RunStatus,
    Segment,
)
from karma.runs.ending import cancel_lost, end_lost, pause_lost, read_log
from karma.runs.holdings import free_place
from karma.runs.interrupts import Interrupt
from karma.runs.plan import RunLimits, RunPlan, lost_turn
from karma.runs.ports import Executions, Runs, StoredStep
from karma.runs.setup import RunSetup, load_setup, target_of, user_of
from karma.runs.turns import give_turn, wake_next
from karma.runs.wishes import Wish, WishesChanged, cancel_reason, stopped_agents

if TYPE_CHECKING:
    from karma.core.leases import Lease
    from karma.runs.places import Places


class TakenRun(Record):
    """A run that this process has taken over."""

    plan: RunPlan
    setup: RunSetup
    run: Run
    last_message: int | None
    """Position of the last message that an earlier process has stored for it; None: none has."""
    claim: Segment
    """The segment by which this process became the writer of its log."""
    subagents: Sequence[str]
    """Subagents that its clients see at work."""
    delegated: Sequence[StoredStep]
    """The stored work of its subagents."""
    place: Lease
    """Its account's place among those who execute."""


class Taker:
    """Takes runs over for one process."""

    def __init__(
        self,
        store: Runs,
        model: Model,
        library: Library,
        clock: Clock,
        *,
        limits: RunLimits,
        own_tools: frozenset[str],
        places: Places,
        executions: Executions,
    ) -> None:
        """Build it; `own_tools` are the names of the server's tools."""
        self._places, self._executions = places, executions
        self._store = store
        self._model = model
        self._library = library
        self._clock = clock
        self._limits = limits
        self._own_tools = own_tools

    def take(self, key: RunKey, deadline: datetime | None) -> TakenRun | None:
        """Take a run over, and claim its log; None: it is alive, has ended or does not exist. Blocks.

        Raises:
            NoPlace: its account has no place for it; it waits.
            Upstream: the database could not be reached, or the model is not configured.
        """
        tail, run = self._store.tail(key), self._store.run(key)
        now = self._clock.now()
        if tail is None or tail.terminal or not tail.is_expired(now) or run is None:
            return None
        if run.engine_schema > ENGINE_SCHEMA:
            return None
        if run.status is RunStatus.QUEUED:
            run = give_turn(self._store, run, own=self._own_tools, at=now)
        if run is None or run.status is not RunStatus.RUNNING:
            return None
        stored, checkpoint = self._store.setup(key), self._store.last_checkpoint(key)
        setup = load_setup(stored) if stored else None
        if not self._is_callable(run, tail, setup):
            return None
        until = run.created_at + timedelta(seconds=self._limits.run_timeout_s, milliseconds=run.paused_ms)
        delegated = self._delegated_of(key, setup)
        steps = max((each.epoch for each in delegated if each.by == key.run_id), default=1)
        tried = tail.epoch - max(checkpoint.epoch if checkpoint else 1, steps, run.resumed_epoch)
        try:
            wishes = self._store.wishes(key)
            reason = cancel_reason(wishes)
            if reason is not None:
                cancel_lost(self._store, tail, run, now, reason=reason)
            elif Wish.PAUSE in wishes:
                pause_lost(self._store, tail, run, now)
            elif setup is None or tried >= MAX_TAKE_OVERS or now >= until:
                end_lost(self._store, tail, run, now)
            else:
                place, claimant = self._places.take(run, epoch=tail.epoch + 1, until=deadline), new_id()
                try:
                    claim = partial(self._claim, tail, claimant)
                    taken = self._own(run, claim, setup, checkpoint, delegated, place, until=until, deadline=deadline)
                except Exception:
                    self._withdraw(tail, place, claimant)
                    raise
                taken.plan.stopped = stopped_agents(wishes)
                return taken
            free_place(self._store, self._executions, tail, at=now)
            wake_next(self._store, self._executions, ThreadKey(key.user_id, run.thread_id))
            return None
        except OwnershipLost:
            return None  # its writer, or another process, wrote first
        except WishesChanged:
            return self.take(key, deadline)  # each time because of another request

    def _withdraw(self, known: Segment, place: Lease, claimant: str) -> None:
        """Give back the place of a run that this process could not take over, except to who may execute it.

        Another process of the same epoch has the same place. One of an earlier epoch, which was only slow, has it again
        if this process took it from that.
        """
        tail, epoch = self._store.tail(known.key), known.epoch + 1
        if tail is None or tail.terminal or tail.writer == claimant or tail.epoch > epoch:
            self._places.leave(place)
        elif tail.epoch < epoch:
            if place.before:
                self._places.give_way(place)
            else:
                self._places.leave(place)

    def _is_callable(self, run: Run, tail: Segment, setup: RunSetup | None) -> bool:
        """Tell whether a run's model can be called; one that nobody has executed fails otherwise.

        Raises:
            ModelNotConfigured: the model of a run that has been executed lost its key, which may come back.
        """
        try:
            self._model.prepare(target_of(run, setup))
        except ModelNotConfigured:
            if tail.epoch != NOT_EXECUTED:
                raise
            with suppress(OwnershipLost):
                end_lost(self._store, tail, run, self._clock.now(), code=RunErrorCode.MODEL_NOT_CONFIGURED)
                free_place(self._store, self._executions, tail, at=self._clock.now())
            return False
        return True

    def _own(
        self,
        run: Run,
        take: Callable[..., Segment],
        setup: RunSetup,
        checkpoint: Checkpoint | None,
        delegated: Sequence[StoredStep],
        place: Lease,
        *,
        until: datetime,
        deadline: datetime | None,
    ) -> TakenRun:
        thread = self._thread_of(run)
        log = read_log(self._store, run.key)
        position = checkpoint.position if checkpoint else run.answers
        # Read before the segment is written: had another process written since, this segment would be refused.
        conversation = thread.conversation(position)
        messages = list(late_results(conversation.messages))
        opened = events.open_after(data for each in log for data in each.events)
        begun, state, news = _states(log, thread, setup)
        claim = take([*opened.closing(), *news], shows=position)
        run = self._store.run(run.key) or run  # with all that the lost process has reserved for it
        asks_anew = bool(messages) and messages[-1].role == "user"
        target, left = target_of(run, setup), setup.left or self._left(setup, thread)
        awaited = awaited_calls(conversation.messages) if setup.decisions or left or not asks_anew else ()
        # Calls that waited for an answer are made, or asked about again, before there is a checkpoint; no late ones.
        is_begun = bool(checkpoint or setup.decisions or left or setup.carried)
        plan = RunPlan(
            run_id=run.key.run_id,
            thread=thread.key,
            target=target,
            fallbacks=setup.fallbacks,
            reasoning=setup.reasoning,
            max_turns=setup.max_turns,
            system=setup.system,
            messages=messages,
            compacted=conversation.compacted,
            compaction=setup.compaction,
            stored=thread.next_message,
            last=position,
            speaks=setup.speaks,
            frontend_tools=setup.frontend_tools,
            is_kept=bool(checkpoint) or all(self._library.has(run.key.user_id, each) for each in messages[-1:]),
            pending=() if is_begun else self._pending(awaited, setup),
            until=until,
            deadline=deadline,
            asks_title=thread.asks_title,
            approvals=setup.approvals,
            decisions=setup.decisions,
            left=left,
            budgets=run.budgets,
            progress=_progress(checkpoint, target, delegated, run),
            subagents=setup.subagents,
            carried=setup.carried,
            state=state,
            begun=begun,
            user=user_of(setup.caller),
            lost=lost_turn(run.key.run_id, log, awaited if is_begun else (), after=checkpoint.n if checkpoint else 0),
        )
        return TakenRun(plan, setup, run, position if checkpoint else None, claim, opened.subagents, delegated, place)

    def _pending(self, awaited: Sequence[ToolCall], setup: RunSetup) -> list[ToolCall]:
        """Return the calls of the client's tools among those that have no result."""
        own = self._own_tools | setup.more_names
        return [call for call in awaited if call.name not in own]

    def _thread_of(self, run: Run) -> Thread:
        thread = self._store.thread(ThreadKey(run.key.user_id, run.thread_id))
        if thread.is_deleted:
            raise OwnershipLost(f"the thread of run {run.key.run_id} is being deleted")
        return thread

    def _delegated_of(self, key: RunKey, setup: RunSetup | None) -> list[StoredStep]:
        """Read what is stored of a run's subagents; no call for one whose agent calls no others."""
        if setup is None or not setup.subagents:
            return []
        runs = [RunKey(key.user_id, each) for each in (*setup.carried, key.run_id)]
        return [step for each in runs for step in self._store.delegated(each)]

    def _claim(self, tail: Segment, writer: str, told: Sequence[events.Event], *, shows: int) -> Segment:
        """Write the segment behind the last one, by which this process owns the run.

        It always shows the conversation: the lost process may have sent text that it did not commit any more.
        """
        claim = Segment(
            key=tail.key,
            n=tail.n + 1,
            writer=writer,
            epoch=tail.epoch + 1,
            lease_until=self._clock.now() + LEASE,
            events=tuple(event.data for event in told),
            shows=shows,
        )
        self._store.append(claim)
        return claim

    def _left(self, setup: RunSetup, thread: Thread) -> tuple[Interrupt, ...]:
        """Return the questions that a run of the queue left open when its turn came; setups have those of others."""
        if not setup.waiting or not thread.interrupts:
            return ()
        from karma.runs.left_questions import left_of  # few runs are left with any

        return left_of(self._store, setup, thread)


def _states(log: Sequence[Segment], thread: Thread, setup: RunSetup) -> tuple[State, State, Sequence[events.Event]]:
    """Return the state as a run began to be executed, the one that it goes on with, and what tells of that."""
    if log[-1].epoch == NOT_EXECUTED and (not setup.has_state or setup.changes is not None):
        # Runs before it, whose end it waited for, may have changed what it begins with.
        told = events.state_after(data for each in log for data in each.events)
        kept = State(with_user((thread.state or EMPTY).value, user_of(setup.caller)))
        return kept, kept, events.state_changed(told, kept.value)
    first = next((each.n for each in log if each.epoch != NOT_EXECUTED), len(log))
    begun = events.state_after(data for each in log if each.n <= first for data in each.events)
    state = events.state_after((data for each in log if each.n > first for data in each.events), begun)
    return State(begun), State(state), ()


def _progress(checkpoint: Checkpoint | None, target: Target, delegated: Sequence[StoredStep], run: Run) -> Progress:
    """Return what a run has done by its last checkpoint, with what its subagents have used since."""
    done = Progress()
    if checkpoint is not None:
        done = replace(checkpoint.progress, usages=checkpoint.progress.usages.named(target))
    if not delegated:
        return done
    from karma.runs.subagents.steps import progress_after

    return progress_after(done, delegated, own=run.key.run_id, after=checkpoint.n if checkpoint else 0)

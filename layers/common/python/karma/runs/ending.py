"""Ends, pauses and resumes runs that no process executes: their process is lost, or another one has not begun.

Who does it writes the segment behind the last one of its log, on condition that nobody else did: a process that was
only slow, or another one that takes the run over, loses it or keeps it, and the run ends once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from karma.conversations.domain import History, Message, Thread, ThreadKey, ToolCall
from karma.conversations.history import awaited_calls, stopped
from karma.conversations.repair import arguments_of
from karma.core.ids import new_id
from karma.core.observability import count, logger
from karma.runs import events
from karma.runs.calls import NOT_BEGUN, not_made, result_message, told_of
from karma.runs.decisions import NOTHING_GIVEN, failure
from karma.runs.domain import (
    ERROR_MESSAGES,
    MAX_PAUSE,
    NOBODYS,
    NOT_EXECUTED,
    PAUSE_EXPIRED_REASON,
    OwnershipLost,
    Run,
    RunEnd,
    RunErrorCode,
    RunKey,
    RunPause,
    RunStatus,
    Segment,
)
from karma.runs.pause_events import run_paused, run_resumed
from karma.runs.ports import Runs
from karma.runs.setup import RunSetup, load_setup
from karma.runs.words import answered_in
from karma.tools.json_arguments import is_readable
from karma.tools.toolbox import ToolOutcome


def end_lost(
    store: Runs, tail: Segment, run: Run, now: datetime, *, code: RunErrorCode = RunErrorCode.OWNER_LOST
) -> None:
    """End a run as failed whose process is lost and that no other may go on with, or that none can begin with.

    Where a process has executed it, clients are shown the conversation anew, as when another takes it over: the lost
    one may have sent a part of an answer, also one that it did not commit any more.

    Raises:
        OwnershipLost: another process wrote the next segment, or has ended the run.
    """
    from karma.runs.reckoning import reckoned  # local, as the next: few runs end so

    terminal = events.run_error(message=ERROR_MESSAGES[code], code=code)
    stored, checkpoint, log = store.setup(run.key), store.last_checkpoint(run.key), read_log(store, run.key)
    setup = load_setup(stored) if stored else None
    how = RunEnd(status=RunStatus.FAILED, was=run.status, at=now, error_code=code.value)
    if checkpoint is not None and setup is not None and (setup.left or setup.waiting):
        thread = store.thread(ThreadKey(run.key.user_id, run.thread_id))
        how = _with_ends(how, store, run, setup, thread, thread.conversation(checkpoint.position).messages)
    how = reckoned(store, run, log, setup, checkpoint, how)
    left = opened(log)
    if stored is not None and tail.epoch != NOT_EXECUTED:
        closing = left.closing()
        shown = _next(tail, now, closing, shows=checkpoint.position if checkpoint else run.answers)
        how = replace(how, withdrawal=shown)
        for event in closing:
            left.follow(event)
    _end(store, tail, run, how, [*left.ending(), terminal])
    if code is RunErrorCode.OWNER_LOST:
        count("RunOwnerLost")


def cancel_lost(store: Runs, tail: Segment, run: Run, now: datetime, *, reason: str) -> None:
    """End a run that no process executes as cancelled; calls of the server's tools that it left open get a result.

    Raises:
        OwnershipLost: another process wrote the next segment, or has ended the run.
    """
    from karma.runs.reckoning import reckoned

    log = read_log(store, run.key)
    speaks = events.spoken_in(log[0].events[0])
    checkpoint = store.last_checkpoint(run.key)
    position = checkpoint.position if checkpoint else run.answers
    results: Sequence[Message] = ()
    history, said = None, None
    thread: Thread | None = None
    messages: Sequence[Message] = ()
    stored = store.setup(run.key)
    setup = load_setup(stored) if stored else None
    # One that goes on from answers has calls of an earlier run to make before it has a checkpoint.
    if checkpoint is not None or (setup is not None and setup.decisions):
        thread = store.thread(ThreadKey(run.key.user_id, run.thread_id))
        messages = thread.conversation(position).messages
        said = answered_in(messages)
        results = _missing_results(setup, messages, has_begun=tail.epoch != NOT_EXECUTED)
        history = History(thread.key, thread.next_message, tuple(results), position) if results else None
    how = RunEnd(
        status=RunStatus.CANCELLED,
        was=run.status,
        at=now,
        cancel_reason=reason,
        last_message=history.last if history else position,
        response=said,
    )
    if thread is not None:
        how = _with_ends(how, store, run, setup, thread, [*messages, *results])
    how = reckoned(store, run, log, setup, checkpoint, how)
    code = RunErrorCode.CANCELLED
    terminal = events.run_cancelled(
        thread_id=run.thread_id,
        run_id=run.key.run_id,
        message=ERROR_MESSAGES[code],
        code=code,
        usage=how.usages,
        speaks=speaks,
    )
    _end(store, tail, run, how, [*opened(log).ending(told_of(results, speaks)), terminal], history=history)
    count("RunCancelled")


def pause_lost(store: Runs, tail: Segment, run: Run, now: datetime) -> None:
    """Pause a run that no process executes, as somebody wished, with the use by it that its log has.

    What is reserved for it stays so: whoever resumes it goes on with that.

    Raises:
        WishesChanged: nobody wishes that any more, or the run is to be cancelled.
        OwnershipLost: another process wrote the next segment, or has ended the run.
    """
    from karma.runs.reckoning import reckoned

    stored, checkpoint, log = store.setup(run.key), store.last_checkpoint(run.key), read_log(store, run.key)
    setup = load_setup(stored) if stored else None
    used = reckoned(store, run, log, setup, checkpoint, RunEnd(status=RunStatus.CANCELLED, was=run.status, at=now))
    how = RunPause(at=now, turns=used.turns, usages=used.usages, cost_micros=used.cost_micros, delegated=used.delegated)
    store.pause(_next(tail, now, [*opened(log).closing(), run_paused(run.key.run_id)]), how)
    logger.info("run.paused", run_id=run.key.run_id, epoch=tail.epoch + 1)
    count("RunPaused")


def resume_paused(store: Runs, tail: Segment, run: Run, now: datetime) -> None:
    """Let a paused run run again; a process has to be asked for that takes it over.

    Raises:
        OwnershipLost: somebody else has resumed the run, or ended it.
    """
    store.resume(_next(tail, now, [run_resumed(run.key.run_id)]), run, at=now)
    logger.info("run.resumed", run_id=run.key.run_id, epoch=tail.epoch + 1)
    count("RunResumed")


def end_expired(store: Runs, run: Run, now: datetime) -> bool:
    """Cancel a run that was paused for longer than it may be; False: it was not, or somebody else was first."""
    tail = store.tail(run.key)
    if tail is None or run.paused_at is None or now < run.paused_at + MAX_PAUSE:
        return False
    try:
        cancel_lost(store, tail, run, now, reason=PAUSE_EXPIRED_REASON)
    except OwnershipLost:
        return False
    return True


def read_log(store: Runs, key: RunKey, *, after: int = 0, until: int | None = None) -> list[Segment]:
    """Read all segments above `after`, up to `until`; None: to the last one."""
    segments: list[Segment] = []
    while until is None or after < until:
        page = store.segments(key, after=after, limit=200 if until is None else min(200, until - after))
        if not page:
            break
        segments.extend(page)
        after = page[-1].n
    return segments if until is None else [segment for segment in segments if segment.n <= until]


def opened(log: Sequence[Segment]) -> events.OpenItems:
    """Return what is open behind the segments of a whole log."""
    return events.open_after(data for segment in log for data in segment.events)


def _missing_results(setup: RunSetup | None, messages: Sequence[Message], *, has_begun: bool) -> list[Message]:
    """Make results for the calls of the last turn that have none, except those that the client's tools answer."""
    frontend = {tool.name for tool in setup.frontend_tools} if setup else set()
    awaited = [call for call in awaited_calls(messages) if call.name not in frontend or not is_readable(call)]
    repeatable = setup.repeatable if setup else ()
    results: list[Message] = []
    for call in awaited:
        decision = setup.decisions.get(call.id) if setup else None
        if decision is not None and decision.outcome is not None:
            results.append(result_message(call, decision.outcome))
        elif decision is not None and decision.form is not None:
            results.append(result_message(call, ToolOutcome(failure(NOTHING_GIVEN), failed=True)))
        elif not may_be_made(call, setup):
            results.append(not_made(call))
        elif has_begun or not _would_begin(call, setup):
            results.append(stopped(call, repeatable=repeatable))
        else:
            results.append(not_made(call, NOT_BEGUN))
    return results


def _with_ends(
    how: RunEnd, store: Runs, run: Run, setup: RunSetup | None, thread: Thread, messages: Sequence[Message]
) -> RunEnd:
    """Add to an end what becomes of the questions that the run was left with, as `with_ends`."""
    if setup is None or not (setup.left or setup.waiting):
        return how
    from karma.runs.left_questions import left_of, with_ends  # few runs are left with any

    return with_ends(how, run.key, left_of(store, setup, thread), messages)


def _would_begin(call: ToolCall, setup: RunSetup | None) -> bool:
    """Tell whether no run before this one, which has not begun, may have made a call."""
    if setup is None or any(call.name == each.name for each in setup.subagents):
        return False
    decision = setup.decisions.get(call.id)
    return decision is None or not decision.is_repeated


def may_be_made(call: ToolCall, setup: RunSetup | None) -> bool:
    """Tell whether a lost process may have made a call: one that waited for an answer it has not."""
    rule = setup.approvals.get(call.name) if setup else None
    decision = setup.decisions.get(call.id) if setup else None
    if setup is None or decision is not None:
        return decision is None or decision.outcome is None
    if any(each.call is not None and call.id == each.call.id for each in setup.left):
        return False
    return rule is None or not rule.applies_to(arguments_of(call.arguments))


def _end(
    store: Runs,
    tail: Segment,
    run: Run,
    how: RunEnd,
    last_events: Sequence[events.Event],
    *,
    history: History | None = None,
) -> None:
    last = _next(tail, how.at, last_events, terminal=True)
    if how.withdrawal is not None:
        last = replace(last, n=last.n + 1, writer=how.withdrawal.writer)
    store.finish(last, how, thread=ThreadKey(tail.key.user_id, run.thread_id), history=history)
    logger.warning("run.ended_without_owner", run_id=tail.key.run_id, epoch=last.epoch, status=how.status.value)


def _next(
    tail: Segment,
    now: datetime,
    last_events: Sequence[events.Event],
    *,
    terminal: bool = False,
    shows: int | None = None,
) -> Segment:
    """Make the segment behind the last one, of a writer that has no lease."""
    return Segment(
        key=tail.key,
        n=tail.n + 1,
        writer=new_id(),
        epoch=tail.epoch + 1,
        lease_until=now + NOBODYS,
        events=tuple(event.data for event in last_events),
        shows=shows,
        terminal=terminal,
    )

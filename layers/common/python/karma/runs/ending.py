"""Ends, pauses and resumes runs that no process executes: their process is lost, or another one has not begun.

Who does it writes the segment behind the last one of its log, on condition that nobody else did: a process that was
only slow, or another one that takes the run over, loses it or keeps it, and the run ends once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from karma.conversations.domain import History, Message, ThreadKey
from karma.conversations.history import awaited_calls, stopped
from karma.core.ids import new_id
from karma.core.observability import count, logger
from karma.runs import events
from karma.runs.calls import told_of
from karma.runs.domain import (
    ERROR_MESSAGES,
    MAX_PAUSE,
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
from karma.runs.ports import Runs
from karma.runs.setup import load_setup
from karma.runs.spending import reserved_for
from karma.tools.toolbox import is_readable


def end_lost(store: Runs, tail: Segment, run: Run, now: datetime) -> None:
    """End a run whose process is lost and that no other may go on with, as failed.

    Raises:
        OwnershipLost: another process wrote the next segment, or has ended the run.
    """
    code = RunErrorCode.OWNER_LOST
    terminal = events.run_error(message=ERROR_MESSAGES[code], code=code)
    how = RunEnd(status=RunStatus.FAILED, at=now, error_code=code.value)
    _end(store, tail, run, how, [*_closing(read_log(store, run.key)), terminal])
    count("RunOwnerLost")


def cancel_lost(store: Runs, tail: Segment, run: Run, now: datetime, *, reason: str) -> None:
    """End a run that no process executes as cancelled; calls of the server's tools that it left open get a result.

    Raises:
        OwnershipLost: another process wrote the next segment, or has ended the run.
    """
    was_paused = run.status is RunStatus.PAUSED
    log = read_log(store, run.key)
    speaks = events.spoken_in(log[0].events[0])
    checkpoint = store.last_checkpoint(run.key)
    position = checkpoint.position if checkpoint else run.answers
    results: Sequence[Message] = ()
    history = None
    if checkpoint is not None:
        thread = store.thread(ThreadKey(run.key.user_id, run.thread_id))
        results = _missing_results(store, run, [thread.messages[each] for each in thread.path_to(position)])
        history = History(thread.key, thread.next_message, tuple(results), position) if results else None
    code = RunErrorCode.CANCELLED
    terminal = events.run_cancelled(
        thread_id=run.thread_id,
        run_id=run.key.run_id,
        message=ERROR_MESSAGES[code],
        code=code,
        usage=run.usages if was_paused else (),
        speaks=speaks,
    )
    is_known = was_paused and run.cost_micros is not None
    how = RunEnd(
        status=RunStatus.CANCELLED,
        was=run.status,
        at=now,
        cancel_reason=reason,
        turns=run.turns if is_known else checkpoint.progress.turns if checkpoint else 0,
        usages=run.usages if is_known else (),
        cost_micros=run.cost_micros if is_known else None,
        correction=reserved_for(run).adjusted((run.cost_micros or 0) - run.reserved_micros) if is_known else None,
        last_message=history.last if history else position,
    )
    _end(store, tail, run, how, [*_closing(log), *told_of(results, speaks), terminal], history=history)
    count("RunCancelled")


def pause_lost(store: Runs, tail: Segment, run: Run, now: datetime) -> None:
    """Pause a run that no process executes, as somebody wished.

    Raises:
        WishesChanged: nobody wishes that any more, or the run is to be cancelled.
        OwnershipLost: another process wrote the next segment, or has ended the run.
    """
    last_events = [*_closing(read_log(store, run.key)), events.run_paused(run.key.run_id)]
    store.pause(_next(tail, now, last_events), RunPause(at=now))
    logger.info("run.paused", run_id=run.key.run_id, epoch=tail.epoch + 1)
    count("RunPaused")


def resume_paused(store: Runs, tail: Segment, run: Run, now: datetime) -> None:
    """Let a paused run run again; a process has to be asked for that takes it over.

    Raises:
        OwnershipLost: somebody else has resumed the run, or ended it.
    """
    store.resume(_next(tail, now, [events.run_resumed(run.key.run_id)]), run, at=now)
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


def read_log(store: Runs, key: RunKey, *, after: int = 0) -> list[Segment]:
    """Read all segments above `after`."""
    segments: list[Segment] = []
    while True:
        page = store.segments(key, after=segments[-1].n if segments else after, limit=200)
        if not page:
            return segments
        segments.extend(page)


def _closing(log: Sequence[Segment]) -> list[events.Event]:
    return events.open_after(data for segment in log for data in segment.events).closing()


def _missing_results(store: Runs, run: Run, messages: Sequence[Message]) -> list[Message]:
    """Make results for the calls of the last turn that have none, except those that the client's tools answer."""
    stored = store.setup(run.key)
    frontend = {tool.name for tool in load_setup(stored).frontend_tools} if stored else set()
    return [stopped(call) for call in awaited_calls(messages) if call.name not in frontend or not is_readable(call)]


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
    store.finish(last, how, thread=ThreadKey(tail.key.user_id, run.thread_id), history=history)
    logger.warning("run.ended_without_owner", run_id=tail.key.run_id, epoch=last.epoch, status=how.status.value)


def _next(tail: Segment, now: datetime, last_events: Sequence[events.Event], *, terminal: bool = False) -> Segment:
    """Make the segment behind the last one, of a writer that has no lease."""
    return Segment(
        key=tail.key,
        n=tail.n + 1,
        writer=new_id(),
        epoch=tail.epoch + 1,
        lease_until=now,
        events=tuple(event.data for event in last_events),
        terminal=terminal,
    )

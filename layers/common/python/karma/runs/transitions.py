"""Transitions of a run from state to state, as `karma.runs.domain` draws them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from karma.core.errors import Conflict
from karma.runs.domain import TRANSITIONS, Run, RunEnd, RunPause, RunStatus


def end(run: Run, how: RunEnd) -> Run:
    """Apply the end of a run.

    Raises:
        Conflict: the run has ended already.
    """
    if run.status is not how.was or how.status not in TRANSITIONS[run.status]:
        raise Conflict(f"Run {run.key.run_id} is {run.status}")
    return replace(
        run,
        status=how.status,
        finished_at=how.at,
        error_code=how.error_code,
        cancel_reason=how.cancel_reason,
        stop_reason=how.stop_reason,
        turns=how.turns,
        steps=how.steps,
        usages=tuple(how.usages),
        cost_micros=how.cost_micros,
        delegated=how.delegated,
        pending_tool_call_ids=how.pending_tool_call_ids,
        interrupt_ids=how.interrupt_ids,
        last_message=how.last_message,
        response=how.response,
        paused_at=None,
    )


def pause(run: Run, how: RunPause) -> Run:
    """Apply the pause of a run that is running."""
    return replace(
        run,
        status=RunStatus.PAUSED,
        paused_at=how.at,
        turns=how.turns,
        usages=tuple(how.usages),
        cost_micros=how.cost_micros,
        delegated=how.delegated,
        reserved_micros=run.reserved_micros + (how.correction.difference if how.correction else 0),
    )


def resume(run: Run, *, at: datetime, epoch: int) -> Run:
    """Apply the end of a run's pause; what it did until then is known again when it ends."""
    return replace(
        run,
        status=RunStatus.RUNNING,
        paused_at=None,
        paused_ms=paused_until(run, at),
        resumed_epoch=epoch,
        turns=0,
        usages=(),
        cost_micros=None,
        delegated=(),
    )


def paused_until(run: Run, at: datetime) -> int:
    """Return the milliseconds for which a run was paused until a moment, in all its pauses."""
    now_ms = round((at - run.paused_at).total_seconds() * 1000) if run.paused_at is not None else 0
    return run.paused_ms + max(0, now_ms)

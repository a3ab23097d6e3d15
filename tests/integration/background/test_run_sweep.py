"""Runs that were paused for too long are ended by the sweep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from karma.core.ids import UserId, new_id
from karma.runs.domain import MAX_PAUSE, PAUSE_EXPIRED_REASON, Run, RunPause, RunStatus, Segment, Wish
from karma.runs.repository import RunRepository
from tests.contexts.runs import begin
from tests.support.accounts import open_account
from tests.support.stack import Context, Stack


def paused(store: RunRepository, user_id: UserId, *, at: datetime) -> Run:
    run = begin(user_id, new_id(), at=at)
    store.wish(run.key, Wish.PAUSE, at=at)
    segment = Segment(key=run.key, n=2, writer="w", epoch=1, lease_until=at, events=())
    store.pause(segment, RunPause(at=at, turns=1, cost_micros=0))
    return run


def test_only_those_whose_week_is_over_are_cancelled(stack: Stack, lambda_context: Context) -> None:
    stack.use("sweeps.tables")
    user_id, now, store = open_account(), datetime.now(UTC), RunRepository()
    old = paused(store, user_id, at=now - MAX_PAUSE - timedelta(minutes=1))
    young = paused(store, user_id, at=now - timedelta(days=6))

    from background.sweeps.tables import lambda_handler

    assert lambda_handler({"sweep": "runs"}, lambda_context) == {"changed": 1}
    assert lambda_handler({"sweep": "runs"}, lambda_context) == {"changed": 0}
    ended, waiting = store.run(old.key), store.run(young.key)
    assert ended is not None
    assert waiting is not None
    assert (ended.status, ended.cancel_reason, ended.turns) == (RunStatus.CANCELLED, PAUSE_EXPIRED_REASON, 1)
    assert waiting.status is RunStatus.PAUSED

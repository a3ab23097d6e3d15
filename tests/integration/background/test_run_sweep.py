"""Runs that were paused for too long are ended by the sweep."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from karma.conversations.domain import ThreadKey
from karma.core.ids import UserId, new_id
from karma.runs.domain import MAX_PAUSE, PAUSE_EXPIRED_REASON, Run, RunEnd, RunPause, RunStatus, Segment
from karma.runs.expiry import read_expiry
from karma.runs.interrupts import Interrupt
from karma.runs.repository import RunRepository
from karma.runs.wishes import Wish
from tests.contexts.runs import begin, question
from tests.support.accounts import open_account
from tests.support.stack import Context, Drain, Stack


def paused(store: RunRepository, user_id: UserId, *, at: datetime) -> Run:
    run = begin(user_id, new_id(), at=at)
    store.wish(run.key, Wish.PAUSE, at=at)
    segment = Segment(key=run.key, n=2, writer="w", epoch=1, lease_until=at, events=())
    store.pause(segment, RunPause(at=at, turns=1, cost_micros=0))
    return run


def waiting_question(user_id: UserId, *, at: datetime) -> Interrupt:
    """Let a run end with a question that may wait until a moment."""
    run, store = begin(user_id, new_id(), at=at), RunRepository()
    asked = replace(question(run), expires_at=at)
    last = Segment(key=run.key, n=2, writer="w", epoch=1, lease_until=at, events=(), terminal=True)
    end = RunEnd(status=RunStatus.INTERRUPTED, at=at, interrupts=(asked,))
    store.finish(last, end, thread=ThreadKey(user_id, run.thread_id))
    return asked


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


def test_a_message_is_sent_about_questions_whose_time_is_over(
    stack: Stack, lambda_context: Context, drain: Drain
) -> None:
    stack.use("sweeps.queues")
    user_id, now = open_account(), datetime.now(UTC)
    over = waiting_question(user_id, at=now - timedelta(minutes=1))
    waiting_question(user_id, at=now + timedelta(minutes=5))

    from background.sweeps.queues import lambda_handler

    assert lambda_handler({"sweep": "interrupts"}, lambda_context) == {"changed": 1}
    assert lambda_handler({"sweep": "interrupts"}, lambda_context) == {"changed": 0}  # put off
    (sent,) = drain(stack.queues["short_work"])
    assert read_expiry(sent["Body"]) == (over.key, over.n)

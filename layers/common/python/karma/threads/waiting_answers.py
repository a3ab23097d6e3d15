"""Answers of the routes that list runs of a thread and open questions of all of them."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from karma.conversations.domain import ThreadHead
from karma.runs.answers import InterruptView, RunView, interrupt_view
from karma.runs.interrupts import Interrupt
from karma.threads.domain import name_in_urls


class ThreadRunsData(TypedDict):
    """`GET /threads/{name}/runs`, newest first."""

    runs: list[RunView]
    limit: int
    next_cursor: str | None


class WaitingInterruptView(InterruptView):
    """A question that waits for an answer."""

    run_id: str
    """The run that asked."""
    thread_id: str
    """Its thread, which a request that answers names as `threadId`."""
    thread_name: str
    """Name of the thread in URLs."""
    thread_title: str | None


def waiting_view(head: ThreadHead, question: Interrupt, *, now: datetime) -> WaitingInterruptView:
    """Shape an open question of a thread."""
    return {
        **interrupt_view(question, now=now),
        "run_id": question.key.run_id,
        "thread_id": head.key.thread_id,
        "thread_name": name_in_urls(head.key.thread_id),
        "thread_title": head.title or None,
    }


class InterruptListData(TypedDict):
    """`GET /interrupts`."""

    interrupts: list[WaitingInterruptView]
    limit: int
    next_cursor: str | None

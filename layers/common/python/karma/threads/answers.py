"""Answers of the thread routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from karma.conversations.domain import ThreadHead, TitleSource
from karma.core.clock import iso
from karma.threads.domain import name_in_urls


class ThreadBudgetView(TypedDict):
    """Limit of all runs of a thread, and the use by those that have ended."""

    max_tokens: int | None
    """Tokens of input and output together; null: as many as one likes."""
    max_cost_micros: int | None
    """Micro-dollars; null: as much as one likes."""
    spent_tokens: int
    spent_cost_micros: int


class ThreadView(TypedDict):
    """A thread without its messages."""

    id: str
    name: str
    """Name in URLs: the id, or another text where a path cannot have it."""
    title: str | None
    """Null while nothing was said in words."""
    title_from: TitleSource
    agent_id: str | None
    """Agent of its newest run. Null in threads from before there were agents."""
    active_run_id: str | None
    budget: ThreadBudgetView
    message_count: int
    """Messages of all branches, results of tools included, when its newest run began or ended."""
    created_at: str
    updated_at: str
    """Start or end of its newest run, by which the list is sorted."""
    version: int


def thread_view(head: ThreadHead) -> ThreadView:
    """Shape a thread for lists."""
    return {
        "id": head.key.thread_id,
        "name": name_in_urls(head.key.thread_id),
        "title": head.title or None,
        "title_from": head.title_from,
        "agent_id": head.agent_id,
        "active_run_id": head.active_run_id,
        "budget": {
            "max_tokens": head.spending.max_tokens,
            "max_cost_micros": head.spending.max_cost_micros,
            "spent_tokens": head.spending.tokens,
            "spent_cost_micros": head.spending.cost_micros,
        },
        "message_count": head.message_count,
        "created_at": iso(head.created_at),
        "updated_at": iso(head.updated_at),
        "version": head.version,
    }


class ThreadListData(TypedDict):
    """`GET /threads`, the newest activity first."""

    threads: list[ThreadView]
    limit: int
    next_cursor: str | None


class ThreadData(TypedDict):
    """A thread without its messages."""

    thread: ThreadView


class BranchData(TypedDict):
    """`GET /threads/{name}`."""

    thread: ThreadView
    messages: list[Mapping[str, object]]
    """AG-UI messages of the newest branch, the last of them: they are in the order in which they were said."""
    limit: int
    next_cursor: str | None
    """Leads to the messages before these."""

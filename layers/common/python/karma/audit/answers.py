"""Answers of the audit log's route: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TypedDict

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.clock import iso
from karma.core.schemas import ShownMoment


class AuditEntryView(TypedDict):
    """A security event."""

    id: str
    user_id: str
    event: AuditEvent
    at: ShownMoment
    actor_id: str | None
    """Id of the user who acted; null: an unauthenticated caller, or an operator."""
    address: str | None
    user_agent: str | None
    request_id: str | None
    details: dict[str, str]


def audit_entry_view(entry: AuditEntry) -> AuditEntryView:
    """Shape an entry of the audit log."""
    return {
        "id": entry.id,
        "user_id": entry.user_id,
        "event": entry.event,
        "at": iso(entry.at),
        "actor_id": entry.actor_id,
        "address": entry.source.address,
        "user_agent": entry.source.user_agent,
        "request_id": entry.source.request_id,
        "details": dict(entry.details),
    }


class AuditEntryListData(TypedDict):
    """Some security events, newest first."""

    entries: list[AuditEntryView]
    limit: int
    next_cursor: str | None

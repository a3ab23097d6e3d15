"""Answers of the audit log's route."""

from __future__ import annotations

from datetime import datetime

from karma.audit.domain import AuditEvent
from karma.core.schemas import Data


class AuditEntryOut(Data):
    """A security event."""

    id: str
    user_id: str
    event: AuditEvent
    at: datetime
    actor_id: str | None
    """Who did it; null: nobody who had proven who they are, or an operator."""
    address: str | None
    user_agent: str | None
    request_id: str | None
    details: dict[str, str]


class AuditData(Data):
    """Some security events, newest first."""

    entries: list[AuditEntryOut]
    limit: int
    next_cursor: str | None

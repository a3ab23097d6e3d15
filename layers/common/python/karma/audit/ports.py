"""Ports of the audit log; the second implementation is in tests/fakes/identity.py."""

from __future__ import annotations

from datetime import date, datetime
from typing import Protocol

from karma.audit.domain import AuditPage, AuditQuery
from karma.core.ids import UserId


class AuditLog(Protocol):
    """A store of entries; karma.audit.repository has the consistency of each call."""

    def of_user(self, user_id: UserId, asked: AuditQuery, *, now: datetime) -> AuditPage: ...  # noqa: D102
    def of_day(self, day: date, asked: AuditQuery, *, now: datetime) -> AuditPage: ...  # noqa: D102

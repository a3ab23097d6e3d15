"""What the audit log needs from outside; its second implementation is in tests/fakes/identity.py."""

from __future__ import annotations

from datetime import date, datetime
from typing import Protocol

from karma.audit.domain import AuditPage, AuditQuery
from karma.core.ids import UserId


class AuditLog(Protocol):
    """Where entries are stored; see karma.audit.repository for what each promises."""

    def of_user(self, user_id: UserId, asked: AuditQuery, *, now: datetime) -> AuditPage: ...  # noqa: D102
    def of_day(self, day: date, asked: AuditQuery, *, now: datetime) -> AuditPage: ...  # noqa: D102

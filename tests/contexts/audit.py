"""Declarations of the audit log for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property

from karma.audit.domain import RETENTION, AuditEntry, AuditQuery
from karma.audit.repository import AuditRepository
from karma.audit.transactional import note_once_a_minute
from tests.support.contexts import Checks, Scenarios, made
from tests.support.rows import NOW, AccountRows


class AuditRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.audit = AuditRepository()

    @cached_property
    def noted(self) -> AuditEntry:
        note_once_a_minute(self.entry)
        return self.entry


SCENARIOS = Scenarios[AuditRows](
    AuditRows,
    {
        "AuditRepository.of_user": made(
            lambda r: r.ada, lambda r, ada: r.audit.of_user(ada.id, AuditQuery(limit=5), now=NOW)
        ),
        "AuditRepository.of_day": lambda r: lambda: r.audit.of_day(NOW.date(), AuditQuery(limit=5), now=NOW),
    },
)


def _audit_over(rows: AuditRows) -> None:
    at = rows.noted.at + RETENTION
    assert rows.audit.of_user(rows.ada.id, AuditQuery(limit=5), now=at).entries
    assert not rows.audit.of_user(rows.ada.id, AuditQuery(limit=5), now=at + timedelta(milliseconds=1)).entries
    assert not rows.audit.of_day(NOW.date(), AuditQuery(limit=5), now=at + timedelta(milliseconds=1)).entries


EXPIRES = Checks[AuditRows](AuditRows, {"audit_entry": _audit_over})

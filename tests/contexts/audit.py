"""Declarations of the audit log for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from karma.audit.domain import AuditQuery
from karma.audit.repository import AuditRepository
from tests.support.contexts import Scenarios, made
from tests.support.rows import NOW, AccountRows


class AuditRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.audit = AuditRepository()


SCENARIOS = Scenarios[AuditRows](
    AuditRows,
    {
        "AuditRepository.of_user": made(
            lambda r: r.ada, lambda r, ada: r.audit.of_user(ada.id, AuditQuery(limit=5), now=NOW)
        ),
        "AuditRepository.of_day": lambda r: lambda: r.audit.of_day(NOW.date(), AuditQuery(limit=5), now=NOW),
    },
)

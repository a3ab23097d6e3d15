"""How other contexts write the audit log: with what happened, in one transaction."""

from __future__ import annotations

from karma.core.dynamo.transaction import Transaction
from karma.identity.audit import AuditEntry
from karma.identity.repository import audit


def record_in(tx: Transaction, entry: AuditEntry) -> None:
    """Write a line of an account's log with everything else of a transaction."""
    audit.append(tx, entry)

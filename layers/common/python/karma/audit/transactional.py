"""Adds entries of the audit log to another context's transaction, so that entry and event are stored together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from karma.core.dynamo.transaction import Transaction

if TYPE_CHECKING:
    from karma.audit.domain import AuditEntry


def add_audit_entry(tx: Transaction, entry: AuditEntry) -> None:
    """Add an entry to an account's audit log, and its notice if the event has one."""
    from karma.audit import repository  # local: who imports this module for its reads alone does without

    repository.append(tx, entry)


def note_once_a_minute(entry: AuditEntry) -> None:
    """Write an entry by itself, unless its account has one of the same event in the same minute.

    For events that anybody can cause as often as they like, such as a refused login.
    """
    from karma.audit import repository  # local, as above

    repository.append_once_a_minute(entry)

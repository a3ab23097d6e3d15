"""The audit log in the identity table: appended in the transaction of what happened."""

from __future__ import annotations

from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.access import put
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.identity.audit import RETENTION, AuditEntry, AuditEvent, Source
from karma.identity.repository.items import AuditItem, audit_key


def append(tx: Transaction, entry: AuditEntry) -> None:
    """Write an entry with everything else of a transaction."""
    tx.put(_item(entry))


def append_alone(entry: AuditEntry) -> None:
    """Write an entry of something that changes nothing else, such as a refused login; a repeat changes nothing."""
    try:
        put(_item(entry))
    except ConditionFailed:
        return


def entry_of(item: AuditItem) -> AuditEntry:
    """Return an entry as it was appended."""
    return AuditEntry(
        id=item.id,
        user_id=UserId(item.user_id),
        event=AuditEvent(item.event),
        at=parse_iso(item.created_at),
        actor_id=UserId(item.actor_id) if item.actor_id else None,
        source=Source(address=item.address, user_agent=item.user_agent, request_id=item.request_id),
        details=dict(item.details),
    )


def _item(entry: AuditEntry) -> AuditItem:
    return AuditItem(
        *audit_key(entry.user_id, entry.id),
        id=entry.id,
        user_id=entry.user_id,
        event=entry.event.value,
        actor_id=entry.actor_id,
        address=entry.source.address,
        user_agent=entry.source.user_agent,
        request_id=entry.source.request_id,
        details=dict(entry.details),
        created_at=iso(entry.at),
        expires_at=epoch_ms(entry.at + RETENTION) // 1000,
    )

"""The audit log in the identity table: entries are added in the transaction of the event, read, and never changed.

Nothing else touches `AuditItem` (tests/unit/audit/test_log.py). IAM cannot grant access by sort key or type, so
a function that may update sessions could also update an entry: only the code prevents it.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from pynamodb.attributes import JSONAttribute, UnicodeAttribute

from karma.audit.announcements import notice_of, standing_notice_of
from karma.audit.domain import RETENTION, AuditEntry, AuditEvent, AuditPage, AuditQuery, Source
from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.newest import END, newest
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.notices.transactional import add_notice

_PREFIX = "AUDIT#"
_SHARDS = 4
"""Partitions of a day's log in the index: together they take 4,000 entries a second."""
_A_DAY = timedelta(days=1)


class AuditItem(Item, discriminator="audit_entry"):
    """An entry of the audit log."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "identity"

    id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    event = UnicodeAttribute()
    actor_id = UnicodeAttribute(null=True)
    address = UnicodeAttribute(null=True)
    user_agent = UnicodeAttribute(null=True)
    request_id = UnicodeAttribute(null=True)
    details = JSONAttribute()


def audit_key(user_id: UserId, position: str) -> Key:
    """Return the key of an entry of a user's audit log; see `audit_position`."""
    return Key(f"USER#{user_id}", f"{_PREFIX}{position}")


def audit_position(entry_id: str, at: datetime) -> str:
    """Return the sort key of an entry after its prefix: its moment and its id."""
    return f"{iso(at)}#{entry_id}"


def audit_day(day: str, shard: int) -> str:
    """Return the partition of the index with a part of a day's events in all accounts."""
    return f"AUDIT#{day}#{shard}"


def append(tx: Transaction, entry: AuditEntry) -> None:
    """Add an entry, and its notice if the event has one, to a transaction."""
    tx.put(_item(entry, audit_position(entry.id, entry.at)))
    _announce(tx, entry)


def append_once_a_minute(entry: AuditEntry) -> None:
    """Write an entry unless its account has one of the same event in the same minute.

    For events that anybody can cause as often as they like, such as a refused login.
    """
    tx = Transaction()
    tx.put(_item(entry, audit_position(entry.event.value, entry.at.replace(second=0, microsecond=0))))
    _announce(tx, entry)
    try:
        tx.commit()
    except ConditionFailed:
        return


def _announce(tx: Transaction, entry: AuditEntry) -> None:
    for notice in (notice_of(entry), standing_notice_of(entry)):
        if notice is not None:
            add_notice(tx, notice)


class AuditRepository:
    """Reads the log; expired entries are not shown, whether DynamoDB has deleted them or not."""

    def of_user(self, user_id: UserId, asked: AuditQuery, *, now: datetime) -> AuditPage:
        """Read a page of an account's log, strongly consistent."""
        partition = audit_key(user_id, "").pk
        return _page([partition], asked, oldest=now - RETENTION, newest_at=now + _A_DAY, prefix=_PREFIX)

    def of_day(self, day: date, asked: AuditQuery, *, now: datetime) -> AuditPage:
        """Read a page of a day's events (UTC) in all accounts, eventually consistent."""
        partitions = [audit_day(day.isoformat(), shard) for shard in range(_SHARDS)]
        start = datetime.combine(day, time(), UTC)
        oldest, newest_at = max(start, now - RETENTION), min(start, now) + _A_DAY
        return _page(partitions, asked, oldest=oldest, newest_at=newest_at, index=True)


def _page(
    partitions: list[str],
    asked: AuditQuery,
    *,
    oldest: datetime,
    newest_at: datetime,
    prefix: str = "",
    index: bool = False,
) -> AuditPage:
    since = max(asked.since or oldest, oldest)
    until = min(asked.until or newest_at, newest_at)
    if since >= until:
        return AuditPage(entries=[], below=None)
    page = newest(
        AuditItem,
        partitions,
        limit=asked.limit,
        prefix=prefix,
        since=iso(since),
        below=min(asked.below or END, iso(until)),
        index=index,
        filter_condition=AuditItem.event == asked.event.value if asked.event else None,
    )
    return AuditPage(entries=[_entry(item) for item in page.items], below=page.below)


def _entry(item: AuditItem) -> AuditEntry:
    return AuditEntry(
        id=item.id,
        user_id=UserId(item.user_id),
        event=AuditEvent(item.event),
        at=parse_iso(item.created_at),
        actor_id=UserId(item.actor_id) if item.actor_id else None,
        source=Source(address=item.address, user_agent=item.user_agent, request_id=item.request_id),
        details=dict(item.details),
    )


def _item(entry: AuditEntry, position: str) -> AuditItem:
    return AuditItem(
        *audit_key(entry.user_id, position),
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
        gsi1pk=audit_day(entry.at.astimezone(UTC).date().isoformat(), int(entry.id[-1], 16) % _SHARDS),
        gsi1sk=position,
    )

"""Notices in the identity table.

| item | pk | sk | gsi1pk | gsi1sk |
| --- | --- | --- | --- | --- |
| notice, unread | USER#<user id> | NOTICE#<id> | UNREAD#<user id> | NOTICE#<id> |
| notice, read | USER#<user id> | NOTICE#<id> | | |

Ids sort by time, so a list read backwards begins with the newest, and ends where ids are older than `RETENTION`. The
partition is deleted with its account.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pynamodb.attributes import JSONAttribute, UnicodeAttribute

from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.access import count, get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.ids import UserId, first_id
from karma.notices.domain import Notice, NoticeType

_NOTICE = "NOTICE#"
_END = _NOTICE + "~"
"""Sorts after every notice."""


def notice_key(user_id: UserId, notice_id: str) -> Key:
    """Return the key of a notice."""
    return Key(f"USER#{user_id}", f"{_NOTICE}{notice_id}")


def unread_pk(user_id: UserId) -> str:
    """Return the partition of the index with an account's unread notices."""
    return f"UNREAD#{user_id}"


class NoticeTable(Item):
    """Base of the items of notices in the identity table."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "identity"


class NoticeItem(NoticeTable, discriminator="notice"):
    """A notice."""

    kind = UnicodeAttribute()
    data = JSONAttribute()
    read_at = UnicodeAttribute(null=True)


class NoticeRepository:
    """Notices over DynamoDB."""

    def page(self, user_id: UserId, *, unread: bool, since: datetime, below: str, limit: int) -> Sequence[Notice]:
        """See Notices; one Query, eventually consistent when only unread ones are asked for."""
        oldest = _oldest(since)
        end = f"{_NOTICE}{below}" if below else _END
        if end <= oldest:
            return []
        sort_key = NoticeTable.gsi1sk if unread else NoticeTable.sk
        # `below` itself is in between, too.
        page = query(
            NoticeTable,
            unread_pk(user_id) if unread else notice_key(user_id, "").pk,
            sort_key.between(oldest, end),
            limit=limit + 1,
            forward=False,
            consistent=not unread,
            index=NoticeTable.gsi1 if unread else None,
        )
        found = [_notice(item) for item in page.items if isinstance(item, NoticeItem)]
        return [notice for notice in found if notice.id != below][:limit]

    def count_unread(self, user_id: UserId, *, since: datetime, most: int) -> int:
        """See Notices; one Query, eventually consistent."""
        bound = NoticeTable.gsi1sk.between(_oldest(since), _END)
        return count(NoticeTable, unread_pk(user_id), bound, most=most, index=NoticeTable.gsi1)

    def get(self, user_id: UserId, notice_id: str) -> Notice | None:
        """See Notices; one Get."""
        item = get(NoticeItem, notice_key(user_id, notice_id), consistent=True)
        return _notice(item) if item else None

    def mark_read(self, user_id: UserId, notice_id: str, *, at: datetime) -> Notice | None:
        """See Notices; one Update, and one Get when it was read before or is not there."""
        try:
            item = update(
                NoticeItem(*notice_key(user_id, notice_id)),
                [
                    NoticeItem.read_at.set(iso(at)),
                    NoticeItem.updated_at.set(iso(at)),
                    NoticeItem.gsi1pk.remove(),
                    NoticeItem.gsi1sk.remove(),
                ],
                NoticeItem.pk.exists() & NoticeItem.read_at.does_not_exist(),
            )
        except ConditionFailed:
            return self.get(user_id, notice_id)
        return _notice(item)


def item_of(notice: Notice) -> NoticeItem:
    """Return the item of an unread notice."""
    key = notice_key(notice.user_id, notice.id)
    return NoticeItem(
        *key,
        kind=notice.type.value,
        data=dict(notice.data),
        created_at=iso(notice.created_at),
        updated_at=iso(notice.created_at),
        expires_at=epoch_ms(notice.expires_at) // 1000,
        gsi1pk=unread_pk(notice.user_id),
        gsi1sk=key.sk,
    )


def _oldest(since: datetime) -> str:
    return _NOTICE + first_id(since)


def _notice(item: NoticeItem) -> Notice:
    return Notice(
        id=item.sk.removeprefix(_NOTICE),
        user_id=UserId(item.pk.removeprefix("USER#")),
        type=NoticeType(item.kind),
        created_at=parse_iso(item.created_at or ""),
        data=dict(item.data),
        read_at=parse_iso(item.read_at) if item.read_at else None,
    )

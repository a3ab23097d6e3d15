"""The outbox in the identity table.

| item | pk | sk | gsi1pk | gsi1sk |
| --- | --- | --- | --- | --- |
| mail, pending | MAIL#<id> | MAIL | MAIL#PENDING | <due, ISO>#<id> |
| mail, closed | MAIL#<id> | MAIL | USER#<user id> | MAIL#<id> |
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pynamodb.attributes import NumberAttribute, UnicodeAttribute

from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.access import delete, get, put, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.ids import UserId
from karma.mail.domain import DUE_AFTER, Mail, MailKind, MailState
from karma.mail.ports import DueMail

_PENDING = "MAIL#PENDING"
_RETENTION = timedelta(days=30)
_PAGE = 100


class MailTable(Item):
    """Base of the items of mail in the identity table."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "identity"


class MailItem(MailTable, discriminator="mail"):
    """A mail."""

    kind = UnicodeAttribute()
    user_id = UnicodeAttribute(null=True)
    address_hash = UnicodeAttribute(null=True)
    to = UnicodeAttribute(null=True)
    state = UnicodeAttribute()
    attempts = NumberAttribute(default=0)


class OutboxRepository:
    """Outbox over DynamoDB."""

    def add(self, mail: Mail) -> None:
        """Store a mail that is not part of another transaction."""
        put(item_of(mail))

    def get(self, mail_id: str) -> Mail | None:
        """Read a mail, strongly consistent."""
        item = get(MailItem, _key(mail_id), consistent=True)
        return _mail(item) if item else None

    def close(self, mail: Mail, state: MailState, *, now: datetime) -> None:
        """Give a pending mail its final state and delete its address; of one that was not needed, delete the item.

        A mail with a final state stays as it is, listed under its account, with which it is deleted.
        """
        item, pending = MailItem(*_key(mail.id)), MailItem.state == MailState.PENDING.value
        listed = (
            [MailItem.gsi1pk.set(f"USER#{mail.user_id}"), MailItem.gsi1sk.set(item.pk)]
            if mail.user_id
            else [MailItem.gsi1pk.remove(), MailItem.gsi1sk.remove()]
        )
        closing = [
            MailItem.state.set(state.value),
            MailItem.updated_at.set(iso(now)),
            MailItem.expires_at.set(epoch_ms(now + _RETENTION) // 1000),
            MailItem.to.remove(),
            *listed,
        ]
        try:
            if state is MailState.NOT_NEEDED:
                delete(item, pending)
            else:
                update(item, closing, pending)
        except ConditionFailed:
            return

    def due(self, now: datetime, *, limit: int) -> list[DueMail]:
        """List pending mails whose due time has passed, oldest first."""
        found: list[DueMail] = []
        start: dict[str, str] | None = None
        while len(found) < limit:
            page = query(
                MailItem,
                _PENDING,
                MailItem.gsi1sk < iso(now),
                limit=min(_PAGE, limit - len(found)),
                start=start,
                index=MailTable.gsi1,
            )
            found += [DueMail(item.pk.removeprefix("MAIL#"), int(item.attempts)) for item in page.items]
            start = page.last
            if start is None:
                break
        return found

    def postpone(self, mail_id: str, *, until: datetime) -> bool:
        """Move the due time of a pending mail and count the attempt; False: the mail has a final state."""
        try:
            update(
                MailItem(*_key(mail_id)),
                [MailItem.attempts.add(1), MailItem.gsi1sk.set(_due_key(until, mail_id))],
                MailItem.state == MailState.PENDING.value,
            )
        except ConditionFailed:
            return False
        return True


def _key(mail_id: str) -> Key:
    return Key(f"MAIL#{mail_id}", "MAIL")


def _due_key(due: datetime, mail_id: str) -> str:
    return f"{iso(due)}#{mail_id}"


def item_of(mail: Mail) -> MailItem:
    """Return the item of a pending mail."""
    return MailItem(
        *_key(mail.id),
        kind=mail.kind.value,
        user_id=mail.user_id,
        address_hash=mail.address_hash,
        to=mail.to,
        state=mail.state.value,
        created_at=iso(mail.created_at),
        updated_at=iso(mail.created_at),
        gsi1pk=_PENDING,
        gsi1sk=_due_key(mail.created_at + DUE_AFTER, mail.id),
    )


def _mail(item: MailItem) -> Mail:
    return Mail(
        id=item.pk.removeprefix("MAIL#"),
        kind=MailKind(item.kind),
        user_id=UserId(item.user_id) if item.user_id else None,
        address_hash=item.address_hash,
        to=item.to,
        created_at=parse_iso(item.created_at),
        state=MailState(item.state),
    )

"""Webhooks, deliveries and agendas in the table `realtime`, and their keys.

| item | pk | sk | index gsi1 |
|---|---|---|---|
| webhook, also the default one | WEBHOOKS#<user> | WEBHOOK#<webhook> | |
| ids of all webhooks of an account | WEBHOOKS#<user> | HEAD | |
| what was made for an Idempotency-Key | WEBHOOKS#<user> | REQUEST#<token> | |
| delivery | WEBHOOKS#<user> | DELIVERY#<webhook>#<event> | |
| mark of a pending delivery | WEBHOOKS#<user> | DUE#<lane>#<due_at>#<event> | |
| agenda of a lane | WEBHOOKS#<user> | AGENDA#<lane> | to be looked at: WEBHOOKS / <at>#<user>#<lane> |

A lane is a webhook, or `default.<0..15>`: what goes to the addresses of runs, by their hosts.
Events' ids sort by time, so the list by age is the order of the keys. The marks are read consistently: a worker that
finds none, and under whose lease nothing was added, knows that nothing is pending; an index could not tell it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pynamodb.attributes import BinaryAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute

from karma.core.clock import iso, parse_iso
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.requests import RequestAttributes
from karma.core.ids import UserId
from karma.webhooks.domain import DueLook, Lane, WebhookId

WEBHOOK: Final = "WEBHOOK#"
AGENDA: Final = "AGENDA#"
LOOK_PK: Final = "WEBHOOKS"
"""Partition of the index with all webhooks at which a worker has to look. Each is written there when something is added
and taken out when nothing is pending, so it takes some 500 webhooks a second that begin or end to be busy."""


def owner_pk(user_id: UserId) -> str:
    """Return the partition of an account's webhooks."""
    return f"WEBHOOKS#{user_id}"


def webhook_key(user_id: UserId, webhook_id: str) -> Key:
    """Return the key of a webhook."""
    return Key(owner_pk(user_id), f"{WEBHOOK}{webhook_id}")


def list_key(user_id: UserId) -> Key:
    """Return the key of the ids of an account's webhooks."""
    return Key(owner_pk(user_id), "HEAD")


def delivery_key(user_id: UserId, webhook_id: WebhookId, delivery_id: str) -> Key:
    """Return the key of a delivery; "": the beginning of all of a webhook."""
    return Key(owner_pk(user_id), f"DELIVERY#{webhook_id}#{delivery_id}")


def mark_key(user_id: UserId, lane: Lane, due_at: datetime, delivery_id: str) -> Key:
    """Return the key of the mark of a pending delivery."""
    return Key(owner_pk(user_id), f"{mark_prefix(lane)}{iso(due_at)}#{delivery_id}")


def mark_prefix(lane: Lane) -> str:
    """Return the beginning of the sort keys of a lane's marks."""
    return f"DUE#{lane}#"


def parse_mark_sk(sk: str) -> tuple[datetime, str]:
    """Return the moment and the delivery of a sort key that `mark_key` made."""
    _, _, due_at, delivery_id = sk.split("#")
    return parse_iso(due_at), delivery_id


def agenda_key(user_id: UserId, lane: Lane) -> Key:
    """Return the key of a lane's agenda."""
    return Key(owner_pk(user_id), f"{AGENDA}{lane}")


def look_sk(user_id: UserId, lane: Lane, at: datetime) -> str:
    """Return the sort key of an agenda in the index."""
    return f"{iso(at)}#{user_id}#{lane}"


def parse_look_sk(sk: str) -> DueLook:
    """Return the look of a sort key that `look_sk` made."""
    at, user_id, lane = sk.split("#")
    return DueLook(user_id=UserId(user_id), lane=Lane(lane), at=parse_iso(at))


class WebhooksItem(Item):
    """Base of what webhooks keep in the table `realtime`."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "realtime"


class WebhookItem(WebhooksItem, discriminator="webhook"):
    """A webhook."""

    webhook_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    url = UnicodeAttribute(default="")
    description = UnicodeAttribute()
    events = JSONAttribute()
    status = UnicodeAttribute()
    disabled_reason = UnicodeAttribute(null=True)
    sealed = BinaryAttribute(legacy_encoding=False)
    former = JSONAttribute()
    """Former secrets, as pairs of ciphertext in base64 and the moment until which they sign."""


class WebhookListItem(WebhooksItem, discriminator="webhook_list"):
    """The ids of an account's webhooks."""

    ids = JSONAttribute()


class WebhookRequestItem(RequestAttributes, WebhooksItem, discriminator="webhook_request"):
    """Record of what a request with an Idempotency-Key made: a webhook, a secret of one, or a delivery."""


class DeliveryItem(WebhooksItem, discriminator="webhook_delivery"):
    """A delivery."""

    webhook_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    event_type = UnicodeAttribute()
    payload = UnicodeAttribute()
    url = UnicodeAttribute(null=True)
    status = UnicodeAttribute()
    due_at = UnicodeAttribute(null=True)
    made_at = UnicodeAttribute()
    asked_at = UnicodeAttribute()
    attempts = JSONAttribute()
    attempt_count = NumberAttribute()
    round = NumberAttribute()


class DeliveryMarkItem(WebhooksItem, discriminator="webhook_mark"):
    """The mark of a pending delivery; all that it says is its key."""


class AgendaItem(WebhooksItem, discriminator="webhook_agenda"):
    """The agenda of a lane."""

    holder = UnicodeAttribute(null=True)
    lease_until_ms = NumberAttribute(null=True)
    renewals = NumberAttribute(null=True)
    failures = NumberAttribute(default=0)
    failing_since = UnicodeAttribute(null=True)
    rests_until = UnicodeAttribute(null=True)

"""Avatars in the table `agents`; access patterns are in docs/adr/0024-avatars.md.

| item | pk | sk |
|---|---|---|
| avatar | AVATARS#<user> | AVATAR#<avatar> |
| number of avatars | AVATARS#<user> | COUNTER#avatars |
| avatar made for an Idempotency-Key | AVATARS#<user> | REQUEST#<token> |

Ids sort by time, so the list by age is the order of the keys. An avatar also counts among the objects that prevent the
deletion of its creator's account (karma/identity/ownership.py), in the transactions that create and delete it.
"""

from __future__ import annotations

from typing import Any, Final, cast

from pynamodb.attributes import BooleanAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute

from karma.avatars.domain import Avatar, AvatarChanged, AvatarStatus
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import get, query_by_id
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.partitions import empty
from karma.core.dynamo.requests import RequestAttributes, note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import AvatarId, UserId
from karma.core.purge import PurgeAttempt
from karma.core.requests import RepeatableRequest
from karma.identity.ownership import OwnedKind
from karma.identity.transactional import add_owned, remove_owned

_AVATAR: Final = "AVATAR#"


def owner_pk(user_id: UserId) -> str:
    """Return the partition of a user's avatars."""
    return f"AVATARS#{user_id}"


def avatar_key(user_id: UserId, avatar_id: str) -> Key:
    """Return the key of an avatar."""
    return Key(owner_pk(user_id), f"{_AVATAR}{avatar_id}")


def counter_key(user_id: UserId) -> Key:
    """Return the key of the counter of a user's avatars."""
    return Key(owner_pk(user_id), "COUNTER#avatars")


class AvatarsItem(Item):
    """Base of the items of avatars in the table `agents`."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "agents"


class AvatarItem(AvatarsItem, discriminator="avatar"):
    """An avatar."""

    avatar_id = UnicodeAttribute()
    created_by = UnicodeAttribute()
    name = UnicodeAttribute()
    role = UnicodeAttribute()
    description = UnicodeAttribute(null=True)
    avatar_url = UnicodeAttribute(null=True)
    skills = JSONAttribute()
    status = UnicodeAttribute(default=AvatarStatus.IDLE.value)
    base_model = UnicodeAttribute(null=True)
    system_prompt = UnicodeAttribute(null=True)
    tools = JSONAttribute()
    performance = JSONAttribute()
    abilities = JSONAttribute()
    earnings = JSONAttribute()
    is_public = BooleanAttribute(default=False)
    price_minor = NumberAttribute(null=True)
    rating = NumberAttribute(null=True)
    review_count = NumberAttribute(default=0)
    download_count = NumberAttribute(default=0)


class AvatarCounterItem(AvatarsItem, discriminator="avatar_counter"):
    """Number of a user's avatars."""

    value = NumberAttribute(default=0)


class AvatarRequestItem(RequestAttributes, AvatarsItem, discriminator="avatar_request"):
    """Record of the avatar that a request with an Idempotency-Key created."""


class AvatarRepository:
    """Avatars over DynamoDB."""

    name = "avatars"
    """Name of its step in the deletion of an account."""

    def get(self, user_id: UserId, avatar_id: AvatarId) -> Avatar | None:
        """See Avatars; one Get."""
        item = get(AvatarItem, avatar_key(user_id, avatar_id), consistent=True)
        return _avatar(item) if item else None

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> AvatarId | None:
        """See Avatars; one Get."""
        made = noted(AvatarRequestItem, request_key(owner_pk(user_id), request), request)
        return AvatarId(made) if made else None

    def create(self, avatar: Avatar, *, request: RepeatableRequest | None) -> None:
        """See Avatars; a check and 3 items, and one for a key."""
        tx = Transaction()
        if request is not None:
            note_request(tx, AvatarRequestItem(*request_key(owner_pk(avatar.created_by), request)), request, avatar.id)
        tx.put(_item(avatar))
        add_owned(tx, avatar.created_by, OwnedKind.AVATAR)
        _count(tx, avatar.created_by, 1)
        tx.commit()

    def replace(self, old: Avatar, new: Avatar) -> None:
        """See Avatars; one item."""
        tx = Transaction()
        item = _item(new)
        item.version = old.version
        tx.put(item, on_fail=_changed(old))
        tx.commit()

    def delete(self, avatar: Avatar) -> None:
        """See Avatars; 3 items."""
        tx = Transaction()
        item = AvatarItem(*avatar_key(avatar.created_by, avatar.id))
        item.version = avatar.version
        tx.delete(item, locked=True, on_fail=_changed(avatar))
        remove_owned(tx, avatar.created_by, OwnedKind.AVATAR)
        _count(tx, avatar.created_by, -1)
        tx.commit()

    def page(self, user_id: UserId, *, newest_first: bool, after: str, limit: int) -> list[Avatar]:
        """See Avatars; one Query a megabyte, eventually consistent."""
        return query_by_id(AvatarItem, avatar_key(user_id, ""), after, _avatar, limit=limit, forward=not newest_first)

    def count(self, user_id: UserId) -> int:
        """See Avatars; one Get."""
        item = get(AvatarCounterItem, counter_key(user_id))
        return int(item.value) if item else 0

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Delete counter and request records, all that a deleted account has here; True when nothing is left."""
        return empty(AvatarsItem, owner_pk(purge.user_id), purge)


def _count(tx: Transaction, user_id: UserId, change: int) -> None:
    tx.upsert(AvatarCounterItem(*counter_key(user_id)), [AvatarCounterItem.value.add(change)])


def _changed(avatar: Avatar) -> AvatarChanged:
    return AvatarChanged(f"Avatar {avatar.id} was changed by another request; read it again")


def _item(avatar: Avatar) -> AvatarItem:
    return AvatarItem(
        *avatar_key(avatar.created_by, avatar.id),
        avatar_id=avatar.id,
        created_by=avatar.created_by,
        name=avatar.name,
        role=avatar.role,
        description=avatar.description,
        avatar_url=avatar.avatar_url,
        skills=list(avatar.skills),
        status=avatar.status.value,
        base_model=avatar.base_model,
        system_prompt=avatar.system_prompt,
        tools=list(avatar.tools),
        performance=dict(avatar.performance),
        abilities=dict(avatar.abilities),
        earnings=dict(avatar.earnings),
        is_public=avatar.is_public,
        price_minor=avatar.price_minor,
        rating=avatar.rating,
        review_count=avatar.review_count,
        download_count=avatar.download_count,
        created_at=iso(avatar.created_at),
        updated_at=iso(avatar.updated_at),
    )


def _avatar(item: AvatarItem) -> Avatar:
    # The stubs know no NumberAttribute that may be absent.
    price: float | None = item.price_minor
    rating: float | None = item.rating
    return Avatar(
        id=AvatarId(item.avatar_id),
        created_by=UserId(item.created_by),
        name=item.name,
        role=item.role,
        description=item.description,
        avatar_url=item.avatar_url,
        skills=tuple(cast("list[str]", item.skills)),
        status=AvatarStatus(item.status),
        base_model=item.base_model,
        system_prompt=item.system_prompt,
        tools=tuple(cast("list[str]", item.tools)),
        performance=cast("dict[str, Any]", item.performance),
        abilities=cast("dict[str, Any]", item.abilities),
        earnings=cast("dict[str, Any]", item.earnings),
        is_public=bool(item.is_public),
        price_minor=None if price is None else int(price),
        rating=None if rating is None else float(rating),
        review_count=int(item.review_count),
        download_count=int(item.download_count),
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        version=int(item.version),
    )

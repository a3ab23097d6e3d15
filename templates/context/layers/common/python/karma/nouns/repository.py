"""Nouns in the table `work`.

| item | pk | sk |
|---|---|---|
| noun | NOUNS#<user> | NOUN#<noun> |
| noun made for an Idempotency-Key | NOUNS#<user> | REQUEST#<token> |

Ids sort by time, so the list by age is the order of the keys.
"""

from __future__ import annotations

from typing import Final

from pynamodb.attributes import UnicodeAttribute

from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import get, query_up_to
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.partitions import empty
from karma.core.dynamo.requests import RequestAttributes, note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import require_account
from karma.nouns.domain import Noun, NounChanged, NounId

_NOUN: Final = "NOUN#"


def owner_pk(user_id: UserId) -> str:
    """Partition of a person's nouns."""
    return f"NOUNS#{user_id}"


def noun_key(user_id: UserId, noun_id: str) -> Key:
    """Key of a noun."""
    return Key(owner_pk(user_id), f"{_NOUN}{noun_id}")


class NounsItem(Item):
    """Base of what nouns keep in the table `work`."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "work"


class NounItem(NounsItem, discriminator="noun"):
    """A noun."""

    noun_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    name = UnicodeAttribute()
    note = UnicodeAttribute()


class NounRequestItem(RequestAttributes, NounsItem, discriminator="noun_request"):
    """The noun that a request with an Idempotency-Key has created."""


class NounRepository:
    """Nouns over DynamoDB."""

    name = "nouns"
    """Of its step in the deletion of an account."""

    def get(self, user_id: UserId, noun_id: NounId) -> Noun | None:
        """See Nouns; one Get."""
        item = get(NounItem, noun_key(user_id, noun_id), consistent=True)
        return _noun(item) if item else None

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> NounId | None:
        """See Nouns; one Get."""
        made = noted(NounRequestItem, request_key(owner_pk(user_id), request), request)
        return NounId(made) if made else None

    def create(self, noun: Noun, *, request: RepeatableRequest | None) -> None:
        """See Nouns; a check and one item, and one for a key."""
        tx = Transaction()
        require_account(tx, noun.user_id)
        if request is not None:
            note_request(tx, NounRequestItem(*request_key(owner_pk(noun.user_id), request)), request, noun.id)
        tx.put(_item(noun))
        tx.commit()

    def replace(self, old: Noun, new: Noun) -> None:
        """See Nouns; one item."""
        tx = Transaction()
        item = _item(new)
        item.version = old.version
        tx.put(item, on_fail=_changed(old))
        tx.commit()

    def delete(self, noun: Noun) -> None:
        """See Nouns; one item."""
        tx = Transaction()
        item = NounItem(*noun_key(noun.user_id, noun.id))
        item.version = noun.version
        tx.delete(item, locked=True, on_fail=_changed(noun))
        tx.commit()

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[Noun]:
        """See Nouns; one Query a megabyte, eventually consistent."""
        return query_up_to(
            limit,
            NounsItem,
            owner_pk(user_id),
            NounsItem.sk.startswith(_NOUN),
            wanted=NounItem,
            read=_noun,
            forward=False,
            start=noun_key(user_id, below)._asdict() if below else None,
        )

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove an account's nouns; True when it is done.

        None is made behind it: a new one checks for the account.
        """
        return empty(NounsItem, owner_pk(purge.user_id), purge)


def _changed(noun: Noun) -> NounChanged:
    return NounChanged(f"Noun {noun.id} was changed by another request; read it again")


def _item(noun: Noun) -> NounItem:
    return NounItem(
        *noun_key(noun.user_id, noun.id),
        noun_id=noun.id,
        user_id=noun.user_id,
        name=noun.name,
        note=noun.note,
        created_at=iso(noun.created_at),
        updated_at=iso(noun.updated_at),
    )


def _noun(item: NounItem) -> Noun:
    return Noun(
        id=NounId(item.noun_id),
        user_id=UserId(item.user_id),
        name=item.name,
        note=item.note,
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        version=int(item.version),
    )

"""API keys in DynamoDB: one item in the list of the owner, one by which a presented key is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pynamodb.expressions.condition import Condition

from karma.audit.transactional import add_audit_entry
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import batch_get, get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyCreated, StaleVersion, Upstream
from karma.core.ids import ApiKeyId, UserId
from karma.core.requests import RepeatableRequest
from karma.identity.accounts.repository.users import user_of
from karma.identity.domain import ApiKey, Credential, User
from karma.identity.items import (
    ApiKeyItem,
    ApiKeyTurns,
    IdentityItem,
    MadeByRequest,
    UserItem,
    api_key_key,
    api_key_lookup,
    api_key_turns_key,
    deletion,
    user_key,
)
from karma.identity.transactional import require_account, require_credential
from karma.mail.transactional import add_mail

if TYPE_CHECKING:
    from karma.audit.domain import AuditEntry
    from karma.mail.domain import Mail

_PAGE = 200
"""Keys read at once; more than an account has, except keys from before there was a limit."""
_RETENTION = timedelta(days=30)
"""Time for which an ended key stays in the list."""


class ApiKeyRepository:
    """API keys over DynamoDB."""

    def create_api_key(
        self,
        key: ApiKey,
        *,
        made_with: Credential | None = None,
        request: RepeatableRequest | None,
        seen: int | None = None,
        going: Sequence[ApiKey] = (),
        entry: AuditEntry,
        mails: Sequence[Mail] = (),
    ) -> None:
        """Store a key under its owner and its hash, once for each `request`, with audit entry and mails.

        `made_with` is the session that asks; None: an operator asks. `seen` is the number of keys that the account had
        made when its keys were read (`keys_made`), so that no two requests make a key on the same state; None: not
        checked. `going` are ended keys that are removed with it.

        Raises:
            AlreadyCreated: this request made a key within the last 25 hours; `details.id` names it.
            IdempotencyKeyReused: the request that made it asked for another one.
            SessionOver: the session `made_with` was ended.
            StaleVersion: another key was made since `seen` was read.
            AccountGone: the account is deleted.
        """
        tx = Transaction()
        if made_with is None:
            require_account(tx, key.user_id)
        else:
            require_credential(tx, made_with, now=key.created_at)
        pk = f"USER#{key.user_id}"
        if request is not None:
            repeated = AlreadyCreated("This request was carried out; its secret was shown once")
            note_request(tx, MadeByRequest(*request_key(pk, request)), request, key.id, repeated=repeated)
        for where in (api_key_key(key.user_id, key.id), api_key_lookup(key.hash)):
            tx.put(_item(where, key))
        turns = ApiKeyTurns(*api_key_turns_key(key.user_id))
        missed = StaleVersion("Another key was made at the same moment; try again")
        tx.upsert(turns, [ApiKeyTurns.made.add(1)], _as_seen(seen), on_fail=missed)
        for old in going:
            tx.delete(ApiKeyItem(*api_key_key(old.user_id, old.id)))
            tx.delete(ApiKeyItem(*api_key_lookup(old.hash)))
        add_audit_entry(tx, entry)
        for mail in mails:
            add_mail(tx, mail)
        try:
            tx.commit()
        except AlreadyCreated as exc:
            made = noted(MadeByRequest, request_key(pk, request), request) if request else None
            exc.details = {"id": made} if made else None
            raise

    def find_api_key(self, key_hash: str) -> ApiKey | None:
        """Find a presented key by its SHA-256, eventually consistent."""
        item = get(ApiKeyItem, api_key_lookup(key_hash))
        return _api_key(item) if item else None

    def read_with_owner(self, key_hash: str, owner: UserId) -> tuple[ApiKey | None, User | None]:
        """Read a presented key and its owner: one call, strongly consistent."""
        presented, user = api_key_lookup(key_hash), user_key(owner)
        found = batch_get(IdentityItem, [presented, user], consistent=True)
        key, stored = found.get(presented), found.get(user)
        return (
            _api_key(key) if isinstance(key, ApiKeyItem) else None,
            user_of(stored) if isinstance(stored, UserItem) else None,
        )

    def keys_made(self, user_id: UserId) -> int:
        """Return how many keys an account has ever made, strongly consistent; read before keys that a write needs."""
        item = get(ApiKeyTurns, api_key_turns_key(user_id), consistent=True)
        return int(item.made) if item else 0

    def list_api_keys(self, user_id: UserId) -> Sequence[ApiKey]:
        """List all stored keys of a person, newest first, ended ones included."""
        found: list[ApiKey] = []
        start: dict[str, str] | None = None
        while True:
            page = query(
                IdentityItem,
                f"USER#{user_id}",
                IdentityItem.sk.startswith("APIKEY#"),
                limit=_PAGE,
                forward=False,
                start=start,
                consistent=True,
            )
            found += [_api_key(item) for item in page.items if isinstance(item, ApiKeyItem)]
            start = page.last
            if start is None:
                return found

    def get_api_key(self, user_id: UserId, key_id: ApiKeyId) -> ApiKey | None:
        """Read one key of a person's list."""
        item = get(ApiKeyItem, api_key_key(user_id, key_id), consistent=True)
        return _api_key(item) if item else None

    def revoke_api_key(self, key: ApiKey, *, by: Credential | None = None, now: datetime, entry: AuditEntry) -> bool:
        """Revoke a key: it is found no more, only listed; return False when it was revoked or deleted before.

        Raises:
            SessionOver: the session `by` was ended.
        """
        tx = Transaction()
        if by is not None:
            require_credential(tx, by, now=now)
        tx.delete(ApiKeyItem(*api_key_lookup(key.hash)))
        tx.update(
            ApiKeyItem(*api_key_key(key.user_id, key.id)),
            [
                ApiKeyItem.revoked_at.set(iso(now)),
                ApiKeyItem.updated_at.set(iso(now)),
                ApiKeyItem.expires_at.set(deletion(now + _RETENTION)),
            ],
            ApiKeyItem.pk.exists() & ApiKeyItem.revoked_at.does_not_exist(),
        )
        add_audit_entry(tx, entry)
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def note_use(self, key: ApiKey, *, now: datetime, unless_after: datetime) -> None:
        """Store the moment of a key's use, unless one later than `unless_after` is stored.

        Errors of the database are ignored: they must not refuse a key.
        """
        try:
            update(
                ApiKeyItem(*api_key_lookup(key.hash)),
                [ApiKeyItem.last_used_at.set(iso(now))],
                ApiKeyItem.pk.exists()
                & (ApiKeyItem.last_used_at.does_not_exist() | (ApiKeyItem.last_used_at <= iso(unless_after))),
            )
        except (ConditionFailed, Upstream):
            return

    def last_uses(self, keys: Sequence[ApiKey]) -> Mapping[ApiKeyId, datetime]:
        """Return the last use of each key, eventually consistent; keys that were never used are left out."""
        found = batch_get(ApiKeyItem, [api_key_lookup(key.hash) for key in keys])
        return {ApiKeyId(item.id): parse_iso(item.last_used_at) for item in found.values() if item.last_used_at}


def _as_seen(made: int | None) -> Condition | None:
    if made is None:
        return None
    condition: Condition = ApiKeyTurns.made == made
    return condition if made else ApiKeyTurns.made.does_not_exist()


def _item(where: Key, key: ApiKey) -> ApiKeyItem:
    return ApiKeyItem(
        *where,
        id=key.id,
        user_id=key.user_id,
        name=key.name,
        prefix=key.prefix,
        hash=key.hash,
        scopes=sorted(key.scopes),
        valid_until=iso(key.expires_at) if key.expires_at else None,
        expires_at=deletion(key.expires_at + _RETENTION) if key.expires_at else None,
        created_at=iso(key.created_at),
        updated_at=iso(key.created_at),
    )


def _api_key(item: ApiKeyItem) -> ApiKey:
    return ApiKey(
        id=ApiKeyId(item.id),
        user_id=UserId(item.user_id),
        name=item.name,
        prefix=item.prefix,
        hash=item.hash,
        scopes=frozenset(item.scopes),
        created_at=parse_iso(item.created_at),
        expires_at=parse_iso(item.valid_until) if item.valid_until else None,
        revoked_at=parse_iso(item.revoked_at) if item.revoked_at else None,
        last_used_at=parse_iso(item.last_used_at) if item.last_used_at else None,
    )

"""API keys: as their owner lists them, and as they are looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import batch_get, get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.requests import note_request, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyCreated, Upstream
from karma.core.ids import ApiKeyId, UserId
from karma.identity.audit import AuditEntry
from karma.identity.domain import ApiKey, Credential
from karma.identity.parent import require_account_in, require_credential_in
from karma.identity.repository import audit
from karma.identity.repository.items import (
    ApiKeyItem,
    IdentityItem,
    RequestGuard,
    api_key_key,
    api_key_lookup,
    deletion,
)
from karma.mail import outbox
from karma.mail.domain import Mail

_KEEP = timedelta(days=30)
"""How long a key is listed that is over."""


class ApiKeyRepository:
    """DynamoDB, by way of karma.core.dynamo."""

    def create_api_key(
        self,
        key: ApiKey,
        *,
        made_with: Credential | None = None,
        request_token: str | None,
        entry: AuditEntry,
        mails: Sequence[Mail] = (),
    ) -> None:
        """Store a key under its owner and under its hash, once a day for each `request_token`, with what tells of it.

        `made_with` is the session that asks for it; None: nobody's, such as an operator's.

        Raises:
            AlreadyCreated: a key was made for this token; `details.id` names it.
            Unauthenticated: the session is over.
            AccountGone: the account is deleted.
        """
        tx = Transaction()
        if made_with is None:
            require_account_in(tx, key.user_id)
        else:
            require_credential_in(tx, made_with, now=key.created_at)
        guard_key = request_key(f"USER#{key.user_id}", request_token or "")
        if request_token is not None:
            repeated = AlreadyCreated("This request was carried out; its secret was shown once")
            note_request(tx, RequestGuard(*guard_key), key.id, at=key.created_at, repeated=repeated)
        for where in (api_key_key(key.user_id, key.id), api_key_lookup(key.hash)):
            tx.put(_item(where, key))
        audit.append(tx, entry)
        for mail in mails:
            outbox.write(tx, mail)
        try:
            tx.commit()
        except AlreadyCreated as exc:
            guard = get(RequestGuard, guard_key, consistent=True)
            exc.details = {"id": guard.made_id} if guard else None
            raise

    def find_api_key(self, key_hash: str) -> ApiKey | None:
        """Find a presented key, eventually consistent."""
        item = get(ApiKeyItem, api_key_lookup(key_hash))
        return _api_key(item) if item else None

    def list_api_keys(self, user_id: UserId, *, limit: int) -> Sequence[ApiKey]:
        """List a person's keys, newest first, revoked ones included."""
        page = query(
            IdentityItem,
            f"USER#{user_id}",
            IdentityItem.sk.startswith("APIKEY#"),
            limit=limit,
            forward=False,
            consistent=True,
        )
        return [_api_key(item) for item in page.items if isinstance(item, ApiKeyItem)]

    def get_api_key(self, user_id: UserId, key_id: ApiKeyId) -> ApiKey | None:
        """Read one key of a person's list."""
        item = get(ApiKeyItem, api_key_key(user_id, key_id), consistent=True)
        return _api_key(item) if item else None

    def revoke_api_key(self, key: ApiKey, *, now: datetime, entry: AuditEntry) -> bool:
        """Make a key useless: its lookup goes, the list remembers; False when it was revoked or deleted before."""
        tx = Transaction()
        tx.delete(ApiKeyItem(*api_key_lookup(key.hash)))
        tx.update(
            ApiKeyItem(*api_key_key(key.user_id, key.id)),
            [
                ApiKeyItem.revoked_at.set(iso(now)),
                ApiKeyItem.updated_at.set(iso(now)),
                ApiKeyItem.expires_at.set(deletion(now + _KEEP)),
            ],
            ApiKeyItem.pk.exists() & ApiKeyItem.revoked_at.does_not_exist(),
        )
        audit.append(tx, entry)
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def note_use(self, key: ApiKey, *, now: datetime, unless_after: datetime) -> None:
        """Remember that a key was used, unless a use after that moment is remembered.

        A key is not refused because this cannot be written.
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
        """Tell when keys were used last, eventually consistent; those that never were are left out."""
        found = batch_get(ApiKeyItem, [api_key_lookup(key.hash) for key in keys])
        return {ApiKeyId(item.id): parse_iso(item.last_used_at) for item in found.values() if item.last_used_at}


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
        expires_at=deletion(key.expires_at + _KEEP) if key.expires_at else None,
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

"""Sessions and their refresh tokens in DynamoDB."""

from __future__ import annotations

from datetime import datetime

from pynamodb.expressions.condition import Condition

from karma.audit.domain import AuditEntry
from karma.audit.transactional import add_audit_entry, note_once_a_minute
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import get
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound
from karma.core.ids import UserId
from karma.identity.accounts.repository.conditions import account_lets
from karma.identity.domain import KNOWN_NETWORK_TTL, NOBODY, Credential, RefreshToken, SessionOver
from karma.identity.items import (
    KnownNetworkItem,
    RefreshTokenItem,
    SessionItem,
    UserItem,
    deletion,
    known_network_key,
    owned_pk,
    refresh_key,
    session_key,
    user_key,
)
from karma.identity.sessions.logins import LoginPlace
from karma.identity.transactional import require_session


class SessionRepository:
    """Sessions over DynamoDB."""

    def start_session(self, token: RefreshToken, *, place: LoginPlace, now: datetime, entry: AuditEntry) -> bool:
        """Store a new session with its first refresh token and its network.

        Return False when its account is disabled or deleted.

        Raises:
            StorageThrottled: another session of the account begins at this moment.
        """
        tx = Transaction()
        tx.check(UserItem, user_key(token.user_id), UserItem.pk.exists() & UserItem.disabled_at.does_not_exist())
        tx.put(
            SessionItem(
                *session_key(token.user_id, token.session_id),
                created_at=iso(now),
                updated_at=iso(now),
                expires_at=deletion(token.expires_at),
            )
        )
        tx.put(_item(token, now))
        until = now + KNOWN_NETWORK_TTL
        tx.upsert(
            KnownNetworkItem(*known_network_key(place.account, place.network)),
            [KnownNetworkItem.valid_until.set(iso(until)), KnownNetworkItem.expires_at.set(deletion(until))],
        )
        add_audit_entry(tx, entry)
        return _committed(tx)

    def is_known_network(self, place: LoginPlace, *, now: datetime) -> bool:
        """Tell whether a session of the account began on the network within 30 days."""
        item = get(KnownNetworkItem, known_network_key(place.account, place.network))
        return item is not None and now < parse_iso(item.valid_until)

    def record_refusal(self, entry: AuditEntry | None) -> None:
        """Append a refused login to the account's audit log, at most one a minute.

        None: the address has no account; a write that cannot succeed is made, which takes as long.
        """
        if entry is not None:
            note_once_a_minute(entry)
            return
        tx = Transaction()
        tx.update(UserItem(*user_key(NOBODY)), [UserItem.updated_at.set("")])
        _committed(tx)

    def find_refresh_token(self, token_hash: str) -> RefreshToken | None:
        """Read a refresh token, used or not; None: there is none with this hash."""
        item = get(RefreshTokenItem, refresh_key(token_hash), consistent=True)
        if item is None:
            return None
        return RefreshToken(
            hash=token_hash,
            user_id=UserId(item.user_id),
            session_id=item.session_id,
            session_started_at=parse_iso(item.session_started_at),
            expires_at=parse_iso(item.valid_until),
            used_at=parse_iso(item.used_at) if item.used_at else None,
        )

    def trade(self, old: RefreshToken, new: RefreshToken, *, now: datetime) -> bool:
        """Use up one token and store the next.

        Return False when it was used before, its session has ended, or its account was disabled, deleted, or ended all
        sessions since.

        Raises:
            StorageThrottled: another request trades the token at this moment.
        """
        tx = Transaction()
        tx.check(UserItem, user_key(old.user_id), _in_use(old))
        tx.update(
            SessionItem(*session_key(old.user_id, old.session_id)),
            [SessionItem.updated_at.set(iso(now)), SessionItem.expires_at.set(deletion(new.expires_at))],
            _open(),
        )
        tx.update(
            RefreshTokenItem(*refresh_key(old.hash)),
            [RefreshTokenItem.used_at.set(iso(now)), RefreshTokenItem.updated_at.set(iso(now))],
            _unused(),
        )
        tx.put(_item(new, now))
        return _committed(tx)

    def is_tradable(self, token: RefreshToken) -> bool:
        """Tell whether a trade of this token would succeed now; nothing is written."""
        tx = Transaction()
        tx.check(UserItem, user_key(token.user_id), _in_use(token))
        tx.check(SessionItem, session_key(token.user_id, token.session_id), _open())
        tx.check(RefreshTokenItem, refresh_key(token.hash), _unused())
        return _committed(tx)

    def end_session(self, session_id: str, *, now: datetime, entry: AuditEntry) -> None:
        """Revoke a session of the entry's user with all its tokens. May be repeated."""
        tx = Transaction()
        tx.update(
            SessionItem(*session_key(entry.user_id, session_id)),
            [SessionItem.revoked_at.set(iso(now)), SessionItem.updated_at.set(iso(now))],
            _open(),
        )
        add_audit_entry(tx, entry)
        _committed(tx)

    def end_all_sessions(
        self, *, by: Credential | None = None, now: datetime, entry: AuditEntry, api_keys: bool
    ) -> None:
        """End every session of the entry's user that has begun, with its access tokens; with `api_keys` all keys too.

        Raises:
            NotFound: the account is deleted.
            SessionOver: the session `by` has ended.
        """
        tx = Transaction()
        require_session(tx, by, now=now)
        tx.update(
            UserItem(*user_key(entry.user_id)),
            [
                UserItem.sessions_from.set(iso(now)),
                *([UserItem.api_keys_from.set(iso(now))] if api_keys else []),
                UserItem.updated_at.set(iso(now)),
            ],
            None if by is None else account_lets(by),
            on_fail=NotFound("User not found") if by is None else SessionOver(),
        )
        add_audit_entry(tx, entry)
        tx.commit()


def _in_use(token: RefreshToken) -> Condition:
    not_ended = UserItem.sessions_from.does_not_exist() | (UserItem.sessions_from <= iso(token.session_started_at))
    condition: Condition = UserItem.pk.exists() & UserItem.disabled_at.does_not_exist() & not_ended
    return condition


def _open() -> Condition:
    condition: Condition = SessionItem.pk.exists() & SessionItem.revoked_at.does_not_exist()
    return condition


def _unused() -> Condition:
    condition: Condition = RefreshTokenItem.pk.exists() & RefreshTokenItem.used_at.does_not_exist()
    return condition


def _committed(tx: Transaction) -> bool:
    try:
        tx.commit()
    except ConditionFailed:
        return False
    return True


def _item(token: RefreshToken, now: datetime) -> RefreshTokenItem:
    return RefreshTokenItem(
        *refresh_key(token.hash),
        gsi1pk=owned_pk(token.user_id),
        gsi1sk=f"REFRESH#{token.hash}",
        user_id=token.user_id,
        session_id=token.session_id,
        session_started_at=iso(token.session_started_at),
        valid_until=iso(token.expires_at),
        created_at=iso(now),
        updated_at=iso(now),
        expires_at=deletion(token.expires_at),
    )

"""Logins and the refresh tokens that follow from them."""

from __future__ import annotations

from datetime import datetime

from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import get, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.identity.domain import RefreshToken
from karma.identity.repository.items import (
    RefreshTokenItem,
    SessionItem,
    UserItem,
    deletion,
    refresh_key,
    session_key,
    user_key,
)


class SessionRepository:
    """DynamoDB, by way of karma.core.dynamo."""

    def start_session(self, token: RefreshToken, *, now: datetime) -> bool:
        """Store a new session with its first refresh token; False when its account was disabled or is gone."""
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
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def find_refresh_token(self, token_hash: str) -> RefreshToken | None:
        """Read a refresh token, used or not."""
        item = get(RefreshTokenItem, refresh_key(token_hash), consistent=True)
        if item is None:
            return None
        return RefreshToken(
            hash=token_hash,
            user_id=UserId(item.user_id),
            session_id=item.session_id,
            session_started_at=parse_iso(item.session_started_at),
            expires_at=parse_iso(item.valid_until),
            used=item.used_at is not None,
        )

    def trade(self, old: RefreshToken, new: RefreshToken, *, now: datetime) -> bool:
        """Use up one token and store the next.

        False when it was used before, its session has ended, or its account was disabled, is gone, or ended all
        sessions since.
        """
        tx = Transaction()
        tx.check(
            UserItem,
            user_key(old.user_id),
            UserItem.pk.exists()
            & UserItem.disabled_at.does_not_exist()
            & (UserItem.sessions_from.does_not_exist() | (UserItem.sessions_from <= iso(old.session_started_at))),
        )
        tx.update(
            SessionItem(*session_key(old.user_id, old.session_id)),
            [SessionItem.updated_at.set(iso(now)), SessionItem.expires_at.set(deletion(new.expires_at))],
            SessionItem.pk.exists() & SessionItem.revoked_at.does_not_exist(),
        )
        tx.update(
            RefreshTokenItem(*refresh_key(old.hash)),
            [RefreshTokenItem.used_at.set(iso(now)), RefreshTokenItem.updated_at.set(iso(now))],
            RefreshTokenItem.pk.exists() & RefreshTokenItem.used_at.does_not_exist(),
        )
        tx.put(_item(new, now))
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def end_session(self, user_id: UserId, session_id: str, *, now: datetime) -> None:
        """Revoke a session and every token of it; ending it twice changes nothing."""
        try:
            update(
                SessionItem(*session_key(user_id, session_id)),
                [SessionItem.revoked_at.set(iso(now)), SessionItem.updated_at.set(iso(now))],
                SessionItem.pk.exists() & SessionItem.revoked_at.does_not_exist(),
            )
        except ConditionFailed:
            return


def _item(token: RefreshToken, now: datetime) -> RefreshTokenItem:
    return RefreshTokenItem(
        *refresh_key(token.hash),
        user_id=token.user_id,
        session_id=token.session_id,
        session_started_at=iso(token.session_started_at),
        valid_until=iso(token.expires_at),
        created_at=iso(now),
        updated_at=iso(now),
        expires_at=deletion(token.expires_at),
    )

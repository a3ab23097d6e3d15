"""One-time tokens in DynamoDB, used up in the transaction that they allow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pynamodb.expressions.condition import Condition

from karma.audit.domain import AuditEntry
from karma.audit.transactional import add_audit_entry
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import get
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyExists
from karma.core.ids import UserId
from karma.identity.accounts.one_time import OneTimeToken, Purpose
from karma.identity.accounts.repository import leaving
from karma.identity.items import (
    OneTimeTokenItem,
    UniqueEmail,
    UserItem,
    deletion,
    email_key,
    one_time_key,
    owned_pk,
    user_key,
)
from karma.identity.transactional import require_account
from karma.mail.domain import Mail
from karma.mail.transactional import add_mail


class OneTimeRepository:
    """One-time tokens over DynamoDB."""

    def create_token(self, token: OneTimeToken, *, now: datetime) -> None:
        """Store a token that was just made.

        Raises:
            AccountGone: the account is deleted.
        """
        tx = Transaction()
        require_account(tx, token.user_id)
        tx.put(
            OneTimeTokenItem(
                *one_time_key(token.hash),
                purpose=token.purpose.value,
                user_id=token.user_id,
                email=token.email,
                asked_at=iso(token.asked_at),
                valid_until=iso(token.expires_at),
                created_at=iso(now),
                updated_at=iso(now),
                expires_at=deletion(token.expires_at),
                gsi1pk=owned_pk(token.user_id),
                gsi1sk=f"ONETIME#{token.hash}",
            )
        )
        tx.commit()

    def find_token(self, token_hash: str) -> OneTimeToken | None:
        """Read a token, used or not; None: there is none with this hash."""
        item = get(OneTimeTokenItem, one_time_key(token_hash), consistent=True)
        if item is None:
            return None
        return OneTimeToken(
            hash=token_hash,
            purpose=Purpose(item.purpose),
            user_id=UserId(item.user_id),
            email=item.email,
            asked_at=parse_iso(item.asked_at),
            expires_at=parse_iso(item.valid_until),
            used=item.used_at is not None,
        )

    def verify_email(self, token: OneTimeToken, *, now: datetime, entry: AuditEntry) -> bool:
        """Mark the account's address as verified.

        Return False when the token is used, the account has another address or is disabled.
        """
        tx = _spend(token, now)
        tx.update(
            UserItem(*user_key(token.user_id)),
            [UserItem.email_verified.set(True), UserItem.updated_at.set(iso(now))],
            (UserItem.email == token.email) & _in_use(),
        )
        add_audit_entry(tx, entry)
        return _done(tx)

    def reset_password(
        self, token: OneTimeToken, password_hash: str, *, now: datetime, entry: AuditEntry, mails: Sequence[Mail]
    ) -> bool:
        """Set a password, end every session and API key, and mark the address as verified.

        Return False when the token is used, the account has another address or is disabled, or all its sessions were
        ended since the token was asked for, as the use of another token does.
        """
        tx = _spend(token, now)
        tx.update(
            UserItem(*user_key(token.user_id)),
            [
                UserItem.password_hash.set(password_hash),
                UserItem.email_verified.set(True),
                UserItem.sessions_from.set(iso(now)),
                UserItem.api_keys_from.set(iso(now)),
                UserItem.updated_at.set(iso(now)),
            ],
            (UserItem.email == token.email) & _not_overtaken(token) & _in_use(),
        )
        add_audit_entry(tx, entry)
        for mail in mails:
            add_mail(tx, mail)
        return _done(tx)

    def move_email(
        self, token: OneTimeToken, *, old_email: str, now: datetime, entry: AuditEntry, mails: Sequence[Mail]
    ) -> bool:
        """Give the account the token's address, verified, and free the old one.

        Return False when the token is used, the account does not wait for its address (another was named since, or its
        own again, or it has moved), left `old_email` or is disabled, or all its sessions ended since the token was
        asked for.

        Raises:
            AlreadyExists: another account has taken the address meanwhile.
        """
        if token.email == old_email:
            return False
        tx = _spend(token, now)
        tx.delete(UniqueEmail(*email_key(old_email)), UniqueEmail.user_id == token.user_id)
        leaving.remember(tx, old_email, token.user_id, at=now)
        unique = UniqueEmail(*email_key(token.email), user_id=token.user_id, created_at=iso(now))
        tx.put(unique, on_fail=AlreadyExists("email is already registered"))
        tx.update(
            UserItem(*user_key(token.user_id)),
            [
                UserItem.email.set(token.email),
                UserItem.email_verified.set(True),
                UserItem.moving_to.remove(),
                UserItem.updated_at.set(iso(now)),
            ],
            (UserItem.email == old_email) & (UserItem.moving_to == token.email) & _not_overtaken(token) & _in_use(),
        )
        add_audit_entry(tx, entry)
        for mail in mails:
            add_mail(tx, mail)
        return _done(tx)


def _spend(token: OneTimeToken, now: datetime) -> Transaction:
    tx = Transaction()
    tx.update(
        OneTimeTokenItem(*one_time_key(token.hash)),
        [OneTimeTokenItem.used_at.set(iso(now)), OneTimeTokenItem.updated_at.set(iso(now))],
        OneTimeTokenItem.pk.exists() & OneTimeTokenItem.used_at.does_not_exist(),
    )
    return tx


def _not_overtaken(token: OneTimeToken) -> Condition:
    condition: Condition = UserItem.sessions_from.does_not_exist() | (UserItem.sessions_from <= iso(token.asked_at))
    return condition


def _in_use() -> Condition:
    """Return the condition that the account is not disabled: those it was disabled for may have its links."""
    return UserItem.disabled_at.does_not_exist()


def _done(tx: Transaction) -> bool:
    try:
        tx.commit()
    except ConditionFailed:
        return False
    return True

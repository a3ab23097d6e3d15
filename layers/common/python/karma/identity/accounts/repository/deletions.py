"""Deleted accounts: the tombstone, which is also the list of unfinished deletions, and the conditions of a deletion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pynamodb.expressions.condition import Condition

from karma.audit.domain import AuditEntry
from karma.audit.transactional import add_audit_entry
from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.dynamo.access import get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound, StaleVersion
from karma.core.ids import UserId
from karma.identity.accounts.deletion import Deletion, Leaving
from karma.identity.accounts.repository import leaving as leaving_addresses
from karma.identity.domain import Credential, Role
from karma.identity.items import (
    DELETIONS,
    AccountTombstone,
    NameItem,
    OwnedItem,
    UniqueEmail,
    UserItem,
    email_key,
    name_key,
    owned_key,
    tombstone_key,
    user_key,
)
from karma.identity.ownership import AccountHolds, OwnedKind
from karma.identity.transactional import require_session


class DeletionRepository:
    """Deletions over DynamoDB."""

    def leaving(self, user_id: UserId) -> Leaving | None:
        """Read the state of an account that its deletion depends on, strongly consistent; None: it does not exist."""
        item = get(UserItem, user_key(user_id), consistent=True)
        if item is None:
            return None
        return Leaving(
            user_id=user_id,
            email=item.email,
            role=Role(item.role),
            password_hash=item.password_hash,
            disabled_at=parse_iso(item.disabled_at) if item.disabled_at else None,
            sessions_from=parse_iso(item.sessions_from) if item.sessions_from else None,
            version=int(item.version),
        )

    def begin(self, leaving: Leaving, *, by: Credential | None = None, entry: AuditEntry, due_at: datetime) -> None:
        """Replace account, unique address and count of owned objects by the tombstone, all or nothing.

        Raises:
            SessionOver: the session `by` was ended.
            AccountHolds: the account owns objects that must not lose their owner.
            StaleVersion: the account is not as it was read.
            NotFound: the account is deleted already.
        """
        user_id = leaving.user_id
        tx = Transaction()
        require_session(tx, by, now=entry.at)
        holds = AccountHolds({})
        tx.delete(
            OwnedItem(*owned_key(user_id)),
            ~(OwnedItem.project > 0) & ~(OwnedItem.avatar > 0),
            on_fail=holds,
        )
        stale = StaleVersion("The account was changed at the same moment; try again")
        tx.delete(UserItem(*user_key(user_id)), UserItem.version == leaving.version, on_fail=stale)
        tx.delete(NameItem(*name_key(user_id)))
        unique = UniqueEmail(*email_key(leaving.email))
        tx.delete(unique, UniqueEmail.pk.does_not_exist() | (UniqueEmail.user_id == user_id), on_fail=stale)
        leaving_addresses.remember(tx, leaving.email, user_id, at=entry.at)
        add_audit_entry(tx, entry)
        requested = iso(entry.at)
        tx.put(
            AccountTombstone(
                *tombstone_key(user_id),
                created_at=requested,
                updated_at=requested,
                gsi1pk=DELETIONS,
                gsi1sk=_due(due_at, user_id),
            ),
            on_fail=NotFound("User not found"),
        )
        try:
            tx.commit()
        except AccountHolds as exc:
            raise AccountHolds(self._holdings(user_id)) from exc
        except StaleVersion as exc:
            if self.leaving(user_id) is None:
                raise NotFound("User not found") from exc
            raise

    def get(self, user_id: UserId) -> Deletion | None:
        """Read the deletion of an account, strongly consistent; None: it is not deleted."""
        item = get(AccountTombstone, tombstone_key(user_id), consistent=True)
        return _deletion(item) if item else None

    def due(self, before: datetime, *, limit: int) -> Sequence[Deletion]:
        """List unfinished deletions that are due before a moment, oldest first."""
        page = query(
            AccountTombstone,
            DELETIONS,
            AccountTombstone.gsi1sk < iso(before),
            limit=limit,
            index=AccountTombstone.gsi1,
        )
        return [_deletion(item) for item in page.items]

    def postpone(self, user_id: UserId, *, due_at: datetime, waits_for: str | None) -> bool:
        """Count a round and set when the next is due; False: the deletion is finished.

        `waits_for` None leaves it as it is.
        """
        actions = [AccountTombstone.attempts.add(1), AccountTombstone.gsi1sk.set(_due(due_at, user_id))]
        if waits_for is not None:
            actions.append(AccountTombstone.waits_for.set(waits_for))
        try:
            update(AccountTombstone(*tombstone_key(user_id)), actions, _unfinished())
        except ConditionFailed:
            return False
        return True

    def finish(self, user_id: UserId, *, at: datetime, forget_at: datetime) -> None:
        """Take a deletion off the list of unfinished ones; its tombstone is kept until `forget_at`. May be repeated."""
        actions = [
            AccountTombstone.finished_at.set(iso(at)),
            AccountTombstone.updated_at.set(iso(at)),
            AccountTombstone.expires_at.set(epoch_ms(forget_at) // 1000),
            AccountTombstone.waits_for.remove(),
            AccountTombstone.gsi1pk.remove(),
            AccountTombstone.gsi1sk.remove(),
        ]
        try:
            update(AccountTombstone(*tombstone_key(user_id)), actions, _unfinished())
        except ConditionFailed:
            return

    def _holdings(self, user_id: UserId) -> dict[str, int]:
        item = get(OwnedItem, owned_key(user_id), consistent=True)
        counts = {kind.value: int(getattr(item, kind.value)) for kind in OwnedKind} if item else {}
        return {kind: number for kind, number in counts.items() if number}


def _unfinished() -> Condition:
    condition: Condition = AccountTombstone.pk.exists() & AccountTombstone.finished_at.does_not_exist()
    return condition


def _due(moment: datetime, user_id: UserId) -> str:
    return f"{iso(moment)}#{user_id}"


def _deletion(item: AccountTombstone) -> Deletion:
    return Deletion(
        user_id=UserId(item.pk.removeprefix("USER#")),
        requested_at=parse_iso(item.created_at),
        finished_at=parse_iso(item.finished_at) if item.finished_at else None,
        attempts=int(item.attempts),
    )

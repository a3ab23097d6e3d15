"""All accounts, as administrators list, search and change them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from karma.audit.domain import AuditEntry
from karma.audit.transactional import add_audit_entry
from karma.core.clock import iso
from karma.core.dynamo.access import batch_get, count, query
from karma.core.dynamo.newest import END, newest
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import Forbidden, StaleVersion
from karma.core.ids import UserId
from karma.identity.accounts.directory import MAX_COUNTED, AccountFilter, AccountPage
from karma.identity.accounts.repository.conditions import account_lets
from karma.identity.accounts.repository.names import fold
from karma.identity.accounts.repository.users import UserRepository, user_of
from karma.identity.domain import Credential, Role, User
from karma.identity.items import IdentityItem, NameItem, UserItem, name_key, name_list, user_key, user_list
from karma.identity.transactional import require_session


class DirectoryRepository(UserRepository):
    """Accounts over DynamoDB with the calls that only administrators use."""

    def list_users(self, asked: AccountFilter, *, limit: int, below: str | None) -> AccountPage:
        """Read a page of all accounts, newest first, eventually consistent."""
        partitions = _partitions(asked)
        page = newest(UserItem, partitions, limit=limit, below=below or END, index=True)
        total = 0
        for partition in partitions:
            if total < MAX_COUNTED:
                total += count(UserItem, partition, most=MAX_COUNTED, index=IdentityItem.gsi1)
        return AccountPage(users=[user_of(item) for item in page.items], total=total, after=page.below)

    def search_users(self, text: str, asked: AccountFilter, *, limit: int, after: str | None) -> AccountPage:
        """Read a page of the accounts whose names begin with a text, by name, eventually consistent.

        A search reaches the first `MAX_COUNTED` names.
        """
        folded = fold(text)
        condition = None
        if asked.role is not None:
            condition = NameItem.role == asked.role.value
        if asked.disabled is not None:
            state = NameItem.disabled == asked.disabled
            condition = state if condition is None else condition & state
        names = query(
            NameItem,
            name_list(folded),
            NameItem.gsi1sk.startswith(folded),
            limit=MAX_COUNTED,
            index=IdentityItem.gsi1,
            filter_condition=condition,
        ).items
        rest = [item for item in names if after is None or str(item.gsi1sk) > after]
        shown = rest[:limit]
        keys = [user_key(UserId(item.user_id)) for item in shown]
        found = batch_get(UserItem, keys)
        return AccountPage(
            users=[user_of(found[key]) for key in keys if key in found],
            total=len(names),
            after=str(shown[-1].gsi1sk) if len(rest) > limit else None,
        )

    def change_account(
        self,
        before: User,
        after: User,
        *,
        actor_id: UserId | None,
        by: Credential | None = None,
        entries: Sequence[AuditEntry],
    ) -> User:
        """Write role, state and end of sessions, if the account still has the version that was read.

        The actor must be an administrator who is not disabled at that moment, and is not the changed account. So one
        administrator remains, whatever they do to each other at the same moment. `actor_id` None: an operator.

        Raises:
            Forbidden: the actor is no administrator any more, or has ended all sessions since that of `by` began.
            SessionOver: the session `by` was ended.
            StaleVersion: the account was changed or deleted since it was read.
        """
        tx = Transaction()
        require_session(tx, by, now=after.updated_at)
        stale = StaleVersion("The account was changed at the same moment; read it again")
        if actor_id is not None:
            in_use = UserItem.disabled_at.does_not_exist() if by is None else account_lets(by)
            tx.check(
                UserItem,
                user_key(actor_id),
                (UserItem.role == Role.ADMIN.value) & in_use,
                on_fail=Forbidden.lacking("user:admin"),
            )
        disabled = after.disabled_at is not None
        tx.update(
            UserItem(*user_key(after.id)),
            [
                UserItem.role.set(after.role.value),
                UserItem.disabled_at.set(iso(after.disabled_at))
                if after.disabled_at
                else UserItem.disabled_at.remove(),
                UserItem.sessions_from.set(iso(after.sessions_from))
                if after.sessions_from
                else UserItem.sessions_from.remove(),
                UserItem.gsi1pk.set(user_list(after.role.value, disabled=disabled)),
                UserItem.updated_at.set(iso(after.updated_at)),
            ],
            UserItem.version == before.version,
            on_fail=stale,
        )
        tx.update(
            NameItem(*name_key(after.id)),
            [
                NameItem.role.set(after.role.value),
                NameItem.disabled.set(disabled),
                NameItem.updated_at.set(iso(after.updated_at)),
            ],
            on_fail=stale,
        )
        for entry in entries:
            add_audit_entry(tx, entry)
        tx.commit()
        return replace(after, version=before.version + 1)


def _partitions(asked: AccountFilter) -> list[str]:
    roles = [asked.role] if asked.role else list(Role)
    states = [False, True] if asked.disabled is None else [asked.disabled]
    return [user_list(role.value, disabled=disabled) for role in roles for disabled in states]

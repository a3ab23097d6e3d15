"""One person with an account, in a database: the rows that those of every context depend on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.clock import monotonic
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.domain import Role, User

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
DAY = timedelta(days=1)


class AccountRows:
    """A person; each row is made when it is first read.

    The rows of a context are a class of its own over this one: its repositories in `__init__`, a cached property for
    each row that its tests need.
    """

    def __init__(self) -> None:
        self.id = new_id()
        self.users = UserRepository()

    def person(self, **changes: Any) -> User:
        user_id = UserId(new_id())
        made = User(
            id=user_id,
            email=f"{user_id}@example.com",
            name="Ada",
            avatar=None,
            password_hash="first",
            role=Role.USER,
            email_verified=True,
            created_at=NOW,
            updated_at=NOW,
        )
        return replace(made, **changes)

    def stored(self, **changes: Any) -> User:
        made = self.person(**changes)
        self.users.create_user(made)
        found = self.users.read_user(made.id)
        assert found is not None
        return found

    @cached_property
    def ada(self) -> User:
        return self.stored()

    @cached_property
    def root(self) -> User:
        return self.stored(role=Role.ADMIN)

    @property
    def entry(self) -> AuditEntry:
        return AuditEntry(user_id=self.ada.id, event=AuditEvent.LOGGED_IN, at=NOW, actor_id=self.ada.id)

    def purge(self, *, ends_in_s: float = 60) -> PurgeAttempt:
        return PurgeAttempt(user_id=self.ada.id, requested_at=NOW, ends_at=monotonic() + ends_in_s, settled=True)

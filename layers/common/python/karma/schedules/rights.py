"""For whom a schedule, or an alarm's rule, acts: its owner by today's role, or the API key that wrote it, if usable."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Protocol

from karma.core.clock import Clock
from karma.core.errors import Forbidden
from karma.core.ids import ApiKeyId, UserId
from karma.identity.domain import ApiKey, Caller, User
from karma.identity.transactional import AccountGone
from karma.schedules.domain import FireAction, Schedule

PERMISSION: Final[Mapping[FireAction, str]] = {FireAction.RUN: "agent:run", FireAction.COMMAND: "device:control"}
"""Permission for what a fire does, beside `schedule:write` for the schedule."""


class ScheduleOwners(Protocol):
    """The accounts."""

    def read_user(self, user_id: UserId) -> User | None:
        """Read an account, consistently; None: it is deleted."""


class ScheduleAuthors(Protocol):
    """The API keys of accounts."""

    def get_api_key(self, user_id: UserId, key_id: ApiKeyId) -> ApiKey | None:
        """Read a key by its id; None: it was removed."""


class ScheduleRights:
    """Tells for whom schedules act."""

    def __init__(self, owners: ScheduleOwners, keys: ScheduleAuthors, clock: Clock) -> None:
        self._owners = owners
        self._keys = keys
        self._clock = clock

    def caller_by_now(self, schedule: Schedule) -> Caller:
        """Return the caller for whom a schedule acts, with the rights of now; raises as `of`."""
        return self.of(schedule.user_id, schedule.author.api_key_id, PERMISSION[schedule.action])

    def of(self, user_id: UserId, key_id: ApiKeyId | None, permission: str = PERMISSION[FireAction.RUN]) -> Caller:
        """Return the caller for whom something acts that an account's person, or API key, has written.

        Raises:
            AccountGone: the account is deleted.
            Forbidden: ACCOUNT_DISABLED; API_KEY_ENDED: the API key that wrote it was revoked, or has expired;
                FORBIDDEN: the role, or the key, lacks the permission.
        """
        user = self._owners.read_user(user_id)
        if user is None:
            raise AccountGone(user_id)
        if user.disabled_at is not None:
            raise Forbidden("The account is disabled", code="ACCOUNT_DISABLED")
        key = self._key(user, key_id, self._clock.now()) if key_id is not None else None
        caller = Caller(
            user_id=user.id,
            role=user.role,
            method="jwt" if key is None else "api_key",
            scopes=frozenset() if key is None else key.scopes,
            email_verified=user.email_verified,
            name=user.name,
            avatar=user.avatar,
            locale=user.locale,
        )
        if not caller.may(permission):
            raise Forbidden.lacking(permission)
        return caller

    def _key(self, user: User, key_id: ApiKeyId, now: datetime) -> ApiKey:
        key = self._keys.get_api_key(user.id, key_id)
        if key is None or not key.usable(now, keys_from=user.api_keys_from):
            raise Forbidden("The API key that wrote this has ended", code="API_KEY_ENDED")
        return key

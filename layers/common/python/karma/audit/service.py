"""Reads the audit log: users their own, administrators that of all accounts."""

from __future__ import annotations

from datetime import date
from typing import Protocol

from karma.audit.domain import AuditPage, AuditQuery
from karma.audit.ports import AuditLog
from karma.core.clock import Clock
from karma.core.errors import Forbidden, InvalidRequest, ValidationFailed
from karma.core.ids import UserId, is_id


class Reader(Protocol):
    """The caller; karma.identity.domain.Caller is one."""

    @property
    def user_id(self) -> UserId:
        """Return the caller's account."""
        ...

    def may(self, permission: str) -> bool:
        """Tell whether the caller has a permission."""
        ...


class AuditReader:
    """Shows users their own entries, and administrators those of all accounts."""

    def __init__(self, *, log: AuditLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    def entries(
        self, caller: Reader, asked: AuditQuery, *, user_id: str | None = None, day: date | None = None
    ) -> AuditPage:
        """Read a page of the caller's log, of `user_id`'s, or of a day (UTC) in all accounts.

        Raises:
            Forbidden: the log is not the caller's, and they lack the permission user:admin.
            ValidationFailed: `user_id` is no id, or `user_id` and `day` are both given.
            InvalidRequest: INVALID_RANGE, the range of `asked` is empty.
        """
        if (day is not None or user_id not in {None, caller.user_id}) and not caller.may("user:admin"):
            raise Forbidden.lacking("user:admin")
        now = self._clock.now()
        if asked.since is not None and asked.until is not None and asked.since >= asked.until:
            raise InvalidRequest("from: must be before to", code="INVALID_RANGE")
        ValidationFailed.together(lambda: _require_one(user_id, day), lambda: _require_id(user_id))
        if day is not None:
            return self._log.of_day(day, asked, now=now)
        return self._log.of_user(UserId(user_id or caller.user_id), asked, now=now)


def _require_one(user_id: str | None, day: date | None) -> None:
    if day is not None and user_id is not None:
        raise ValidationFailed.of("day", "not together with user_id")


def _require_id(user_id: str | None) -> None:
    if user_id is not None and not is_id(user_id):
        raise ValidationFailed.of("user_id", "is not an id")

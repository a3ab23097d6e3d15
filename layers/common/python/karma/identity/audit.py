"""The audit log: security events of an account, written in the transaction of what they tell about; never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from karma.core.clock import Clock
from karma.core.errors import Forbidden, ValidationFailed
from karma.core.ids import UserId, is_id, new_id

if TYPE_CHECKING:
    from karma.identity.domain import Caller

RETENTION = timedelta(days=400)
"""A year and a month: what auditors ask for."""


class AuditEvent(StrEnum):
    """What happened, as it is listed and filtered."""

    REGISTERED = "user.registered"
    LOGGED_IN = "session.started"
    LOGIN_FAILED = "session.refused"
    LOGIN_LOCKED = "session.locked"
    REFRESH_REUSED = "session.reuse_detected"
    LOGGED_OUT = "session.ended"
    ALL_SESSIONS_ENDED = "session.all_ended"
    EMAIL_VERIFIED = "user.email_verified"
    EMAIL_CHANGED = "user.email_changed"
    PASSWORD_CHANGED = "user.password_changed"  # noqa: S105  a name
    PASSWORD_RESET = "user.password_reset"  # noqa: S105  a name
    PROFILE_CHANGED = "user.profile_changed"
    ROLE_CHANGED = "user.role_changed"
    DISABLED = "user.disabled"
    ENABLED = "user.enabled"
    DELETION_REQUESTED = "user.deletion_requested"
    PROVIDER_LINKED = "provider.linked"
    PROVIDER_UNLINKED = "provider.unlinked"
    API_KEY_CREATED = "api_key.created"
    API_KEY_REVOKED = "api_key.revoked"
    PROJECT_MEMBER_INVITED = "project.member_invited"
    PROJECT_INVITATION_RECEIVED = "project.invitation_received"
    PROJECT_INVITATION_DECLINED = "project.invitation_declined"
    PROJECT_MEMBER_ADDED = "project.member_added"
    PROJECT_ROLE_CHANGED = "project.role_changed"
    PROJECT_MEMBER_REMOVED = "project.member_removed"
    BILLING_CUSTOMER_LINKED = "billing.customer_linked"
    BILLING_CUSTOMER_UNLINKED = "billing.customer_unlinked"
    BILLING_EVENT_DISMISSED = "billing.event_dismissed"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a request came from; the edge makes it, use cases hand it on."""

    address: str | None = None
    """IP address as the edge believes it."""
    user_agent: str | None = None
    request_id: str | None = None


NOWHERE = Source()
"""Nobody's request: a schedule, an operator's command."""


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One line of the log."""

    id: str = field(default_factory=new_id)
    """UUIDv7: the order of the log."""
    user_id: UserId
    """Whose account it is about."""
    event: AuditEvent
    at: datetime
    actor_id: UserId | None
    """Who did it: the person, an administrator; None: nobody who had proven who they are."""
    source: Source = NOWHERE
    details: Mapping[str, str] = field(default_factory=dict)
    """Short facts, e.g. `{"role": "admin"}`; no secret, no address of a person."""


@dataclass(frozen=True, kw_only=True)
class AuditQuery:
    """Which entries, newest first."""

    limit: int
    below: str | None = None
    """`below` of the page before."""
    event: AuditEvent | None = None
    since: datetime | None = None
    """Inclusive."""
    until: datetime | None = None
    """Exclusive."""


@dataclass(frozen=True, kw_only=True)
class AuditPage:
    """Entries, newest first; with an event asked for there may be fewer than `limit` though others follow."""

    entries: Sequence[AuditEntry]
    below: str | None
    """Where the next page starts; None at the end."""


class AuditLog(Protocol):
    """Where entries are stored; see repository/audit.py for what each promises."""

    def of_user(self, user_id: UserId, asked: AuditQuery, *, now: datetime) -> AuditPage: ...  # noqa: D102
    def of_day(self, day: date, asked: AuditQuery, *, now: datetime) -> AuditPage: ...  # noqa: D102


class AuditReader:
    """Shows people their own log, and administrators everybody's."""

    def __init__(self, *, log: AuditLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    def entries(
        self, caller: Caller, asked: AuditQuery, *, user_id: str | None = None, day: date | None = None
    ) -> AuditPage:
        """Read a page of the caller's log, of `user_id`'s, or of a day (UTC) in all accounts.

        Raises:
            Forbidden: another's log, or everybody's, and the caller administers no users.
            ValidationFailed: not an id, or both of them.
        """
        if (day is not None or user_id not in {None, caller.user_id}) and not caller.may("user:admin"):
            raise Forbidden.lacking("user:admin")
        now = self._clock.now()
        if day is not None:
            if user_id is not None:
                raise ValidationFailed.of("day", "not together with user_id")
            return self._log.of_day(day, asked, now=now)
        if user_id is not None and not is_id(user_id):
            raise ValidationFailed.of("user_id", "is not an id")
        return self._log.of_user(UserId(user_id or caller.user_id), asked, now=now)

"""Notices that an account sees in the application. Frozen; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from karma.core.ids import UserId, new_id
from karma.core.records import Record

RETENTION: Final = timedelta(days=90)
"""Time after which a notice is not shown any more, read or not."""
MAX_COUNTED: Final = 100
"""Unread notices are counted up to this number."""


class NoticeType(StrEnum):
    """Kind of a notice; each has its texts in texts.py."""

    PASSWORD_CHANGED = "password_changed"  # noqa: S105  a name
    EMAIL_CHANGED = "email_changed"
    API_KEY_CREATED = "api_key_created"
    SESSIONS_ENDED = "sessions_ended"
    ACCESS_STAYS = "access_stays"
    """Sessions have ended, and what acts for the account without one goes on: schedules, webhooks, MCP servers."""
    LOGIN_LOCKED = "login_locked"
    SESSION_STOLEN = "session_stolen"
    """A refresh token was used twice."""
    PROVIDER_LINKED = "provider_linked"
    ROLE_CHANGED = "role_changed"
    ACCOUNT_DISABLED = "account_disabled"
    ACCOUNT_ENABLED = "account_enabled"
    SUBSCRIPTION_CHANGED = "subscription_changed"
    SUBSCRIPTIONS_SEVERAL = "subscriptions_several"
    """More than one subscription renews, another number than before."""
    PROJECT_INVITATION = "project_invitation"
    DEVICE_OFFERED = "device_offered"
    DEVICE_GIVEN = "device_given"
    """A device that the account offered has another owner now."""
    WEBHOOK_DISABLED = "webhook_disabled"
    """A webhook's address is gone, or nothing but failures came from it for days."""
    SCHEDULE_FAILED = "schedule_failed"
    """A schedule fires no more, since its fires or their runs failed."""
    ALARM_RAISED = "alarm_raised"
    ALARM_CLEARED = "alarm_cleared"
    ALARMS_MANY = "alarms_many"
    """A rule raised more alarms within a minute than are told one by one."""
    ALARM_RUN_REFUSED = "alarm_run_refused"
    """An alarm began no run, though its rule says so."""
    SCHEDULE_RESTS = "schedule_rests"
    """A schedule fires less often, since its fires were skipped for an hour and more."""


class Severity(StrEnum):
    """Importance of a notice."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


SEVERITIES: Mapping[NoticeType, Severity] = {
    NoticeType.PASSWORD_CHANGED: Severity.WARNING,
    NoticeType.EMAIL_CHANGED: Severity.WARNING,
    NoticeType.API_KEY_CREATED: Severity.WARNING,
    NoticeType.SESSIONS_ENDED: Severity.INFO,
    NoticeType.ACCESS_STAYS: Severity.WARNING,
    NoticeType.LOGIN_LOCKED: Severity.WARNING,
    NoticeType.SESSION_STOLEN: Severity.CRITICAL,
    NoticeType.PROVIDER_LINKED: Severity.WARNING,
    NoticeType.ROLE_CHANGED: Severity.INFO,
    NoticeType.ACCOUNT_DISABLED: Severity.CRITICAL,
    NoticeType.ACCOUNT_ENABLED: Severity.INFO,
    NoticeType.SUBSCRIPTION_CHANGED: Severity.INFO,
    NoticeType.SUBSCRIPTIONS_SEVERAL: Severity.WARNING,
    NoticeType.PROJECT_INVITATION: Severity.INFO,
    NoticeType.DEVICE_OFFERED: Severity.INFO,
    NoticeType.DEVICE_GIVEN: Severity.WARNING,
    NoticeType.WEBHOOK_DISABLED: Severity.WARNING,
    NoticeType.SCHEDULE_FAILED: Severity.WARNING,
    NoticeType.ALARM_RAISED: Severity.WARNING,
    NoticeType.ALARM_CLEARED: Severity.INFO,
    NoticeType.ALARMS_MANY: Severity.CRITICAL,
    NoticeType.ALARM_RUN_REFUSED: Severity.WARNING,
    NoticeType.SCHEDULE_RESTS: Severity.INFO,
}


class Notice(Record, kw_only=True):
    """One notice, without its text, which is written in the reader's language when it is shown."""

    id: str = field(default_factory=new_id)
    """UUIDv7: the order of the list."""
    user_id: UserId
    type: NoticeType
    created_at: datetime
    data: Mapping[str, str] = field(default_factory=dict)
    """Ids and words of ours, e.g. `{"api_key_id": ...}`; no secret, no text of a user."""
    read_at: datetime | None = None

    @property
    def expires_at(self) -> datetime:
        """Return the moment after which it is not shown any more."""
        return self.created_at + RETENTION

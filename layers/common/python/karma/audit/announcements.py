"""Chooses the audit events of which an account gets a notice, in the transaction that logs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.ids import derived_id
from karma.notices.domain import Notice, NoticeType

TOLD: Final[Mapping[AuditEvent, NoticeType]] = {
    AuditEvent.PASSWORD_CHANGED: NoticeType.PASSWORD_CHANGED,
    AuditEvent.PASSWORD_RESET: NoticeType.PASSWORD_CHANGED,
    AuditEvent.EMAIL_CHANGED: NoticeType.EMAIL_CHANGED,
    AuditEvent.API_KEY_CREATED: NoticeType.API_KEY_CREATED,
    AuditEvent.ALL_SESSIONS_ENDED: NoticeType.SESSIONS_ENDED,
    AuditEvent.LOGIN_LOCKED: NoticeType.LOGIN_LOCKED,
    AuditEvent.REFRESH_REUSED: NoticeType.SESSION_STOLEN,
    AuditEvent.PROVIDER_LINKED: NoticeType.PROVIDER_LINKED,
    AuditEvent.ROLE_CHANGED: NoticeType.ROLE_CHANGED,
    AuditEvent.DISABLED: NoticeType.ACCOUNT_DISABLED,
    AuditEvent.ENABLED: NoticeType.ACCOUNT_ENABLED,
    AuditEvent.PROJECT_INVITATION_RECEIVED: NoticeType.PROJECT_INVITATION,
    AuditEvent.DEVICE_OFFER_RECEIVED: NoticeType.DEVICE_OFFERED,
    AuditEvent.DEVICE_GIVEN: NoticeType.DEVICE_GIVEN,
    AuditEvent.WEBHOOK_DISABLED: NoticeType.WEBHOOK_DISABLED,
}
STANDING: Final = ("schedules", "webhooks", "mcp_servers")
"""Members of an entry's details that count what acts for an account without a session."""
_WORDS: Final = frozenset(
    {"api_key_id", "session_id", "provider", "from", "to", "project_id", "role", "webhook_id", "device_id"}
)
"""Members of an entry's details that its notice repeats."""


def standing_notice_of(entry: AuditEntry) -> Notice | None:
    """Make the notice of what goes on after an entry that ended sessions; None: nothing does, or it ended none."""
    data = {name: entry.details[name] for name in STANDING if name in entry.details}
    if not data:
        return None
    notice_id = derived_id(entry.at, entry.id, NoticeType.ACCESS_STAYS.value)
    return Notice(id=notice_id, user_id=entry.user_id, type=NoticeType.ACCESS_STAYS, created_at=entry.at, data=data)


def notice_of(entry: AuditEntry) -> Notice | None:
    """Make the notice of an entry, under the entry's id; None: this event has no notice."""
    told = TOLD.get(entry.event)
    if told is None:
        return None
    data = {name: value for name, value in entry.details.items() if name in _WORDS}
    return Notice(id=entry.id, user_id=entry.user_id, type=told, created_at=entry.at, data=data)

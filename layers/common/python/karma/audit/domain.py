"""Entries of the audit log, and queries for them. Frozen; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum

from karma.core.ids import UserId, new_id
from karma.core.records import Record

RETENTION = timedelta(days=400)
"""Time for which entries are kept: a year and a month, as auditors require."""


class AuditEvent(StrEnum):
    """Kind of a security event, as it is listed and filtered."""

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
    DEVICE_OFFERED = "device.offered"
    DEVICE_OFFER_RECEIVED = "device.offer_received"
    DEVICE_OFFER_DECLINED = "device.offer_declined"
    DEVICE_GIVEN = "device.given"
    DEVICE_RECEIVED = "device.received"
    PROVISIONING_CLAIM_CREATED = "provisioning_claim.created"
    PROVISIONING_CLAIM_REVOKED = "provisioning_claim.revoked"
    DEVICE_SETTINGS_CHANGED = "device.settings_changed"
    """Asked for: written before the device is told."""
    WEBHOOK_CREATED = "webhook.created"
    WEBHOOK_CHANGED = "webhook.changed"
    WEBHOOK_SECRET_ROTATED = "webhook.secret_rotated"  # noqa: S105  a name
    WEBHOOK_DELETED = "webhook.deleted"
    WEBHOOK_DISABLED = "webhook.disabled"
    """By us: the address is gone, or nothing but failures came from it."""
    BILLING_CUSTOMER_LINKED = "billing.customer_linked"
    BILLING_CUSTOMER_UNLINKED = "billing.customer_unlinked"
    BILLING_BUDGET_CHANGED = "billing.budget_changed"
    BILLING_EVENT_DISMISSED = "billing.event_dismissed"


class Source(Record, kw_only=True):
    """Origin of a request; functions read it from the event, use cases pass it on."""

    address: str | None = None
    """IP address of the client, as API Gateway reports it."""
    user_agent: str | None = None
    request_id: str | None = None


NOWHERE = Source()
"""Origin of actions without a request: a schedule's, or an operator's command."""


class AuditEntry(Record, kw_only=True):
    """One entry of the log."""

    id: str = field(default_factory=new_id)
    """UUIDv7: the order of the log."""
    user_id: UserId
    """Account that the event concerns."""
    event: AuditEvent
    at: datetime
    actor_id: UserId | None
    """User who acted: the account's own, or an administrator; None: an unauthenticated caller, or an operator."""
    source: Source = NOWHERE
    details: Mapping[str, str] = field(default_factory=dict)
    """Short facts, e.g. `{"role": "admin"}`; no secret, no e-mail address."""


class AuditQuery(Record, kw_only=True):
    """Filter and position of a page, newest first."""

    limit: int
    below: str | None = None
    """`below` of the page before; None: the first page."""
    event: AuditEvent | None = None
    since: datetime | None = None
    """Inclusive; None: from the oldest entry on."""
    until: datetime | None = None
    """Exclusive; None: up to now."""


class AuditPage(Record, kw_only=True):
    """Entries, newest first; with a filter there may be fewer than `limit` although more follow."""

    entries: Sequence[AuditEntry]
    below: str | None
    """Start of the next page; None at the end."""

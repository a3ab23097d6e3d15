"""Examples of the OpenAPI document for the audit log: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from karma.core.examples import USER

FIELDS: Mapping[str, Any] = {
    "actor_id": USER,
    "address": "203.0.113.7",
    "user_agent": "Mozilla/5.0",
    "request_id": "JKJaXmPLvHcESHA=",
    "day": "2026-03-01",
    "event": "session.started",
    "AuditEntryView.id": "01994b96-7c15-7a4f-8e2b-b0c9d8e7f601",
    "AuditEntryView.details": {"method": "password"},
}

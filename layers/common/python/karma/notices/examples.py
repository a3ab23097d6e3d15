"""Examples of the OpenAPI document for notices: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NOTICE = "01994b9b-2e6f-7d5a-b8f9-1a2b3c4d5e6f"

FIELDS: Mapping[str, Any] = {
    "notice_id": _NOTICE,
    "unread": True,
    "unread_count": 1,
    "severity": "info",
    "text": "The API key build server was made.",
    "data": {"api_key_id": "01994b92-44f9-7c2d-8d05-a9b1c2d3e4f5"},
    "read_at": None,
    "NoticeView.id": _NOTICE,
    "NoticeView.type": "api_key_created",
    "NoticeView.title": "An API key was made",
}

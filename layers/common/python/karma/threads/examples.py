"""Examples of the OpenAPI document for threads: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_THREAD = "01994b94-9b20-7e83-b6c4-d2e1f0a98765"

FIELDS: Mapping[str, Any] = {
    **dict.fromkeys(("ThreadView.id", "ThreadView.name", "thread_name"), _THREAD),
    "ThreadView.title": "Devices in the greenhouse",
    "title_from": "words",
    "active_run_id": None,
    "message_count": 4,
    **dict.fromkeys(("CreateThreadBody.title", "ChangeThreadBody.title"), "Greenhouse"),
    "CreateThreadBody.id": _THREAD,
    "BranchData.messages": [
        {"id": "01994b98-3e5f-7c41-b2a3-d4c5b6a79808", "role": "user", "content": "Which are online?"}
    ],
    "format": 1,
    "position": 1,
    "follows": 0,
    "ExportedMessage.message": {
        "id": "01994b98-3e5f-7c41-b2a3-d4c5b6a79808",
        "role": "user",
        "content": "Which are online?",
    },
    "ExportData.url": None,
    "ExportData.expires_at": None,
    "list_threads.query": "greenhouse",
}

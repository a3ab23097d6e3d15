"""Examples of the OpenAPI document for threads: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from karma.runs.examples import FIELDS as _OF_RUNS

_THREAD = "01994b94-9b20-7e83-b6c4-d2e1f0a98765"

FIELDS: Mapping[str, Any] = {
    **dict.fromkeys(("ThreadView.id", "ThreadView.name", "thread_name"), _THREAD),
    "ThreadView.title": "Devices in the greenhouse",
    "title_from": "words",
    "active_run_id": None,
    "message_count": 4,
    "CreateThreadBody.budget": {"max_tokens": None, "max_cost_micros": 2_000_000},
    "ChangeThreadBody.budget": {"max_tokens": None, "max_cost_micros": 5_000_000},
    "ThreadBudgetView.max_tokens": None,
    "ThreadBudgetView.max_cost_micros": 2_000_000,
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
    **{f"Waiting{name}": value for name, value in _OF_RUNS.items() if name.startswith("InterruptView.")},
    "WaitingInterruptView.thread_title": "Devices in the greenhouse",
}

"""Examples of the OpenAPI document for tasks: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TASK = "01994b99-6d2e-7f17-84c5-e6d7f8091a2b"
_SUBTASK = "01994b99-6d2f-7a28-95d6-f7e8091a2b3c"

FIELDS: Mapping[str, Any] = {
    "task_id": _TASK,
    "subtask_id": _SUBTASK,
    "priority": 5,
    "subtask_count": 1,
    "completed_count": 0,
    "ref": "count",
    "dependencies": [],
    **dict.fromkeys(("CreateTaskBody.title", "ChangeTaskBody.title", "TaskView.title"), "Inventory"),
    **dict.fromkeys(("SubtaskBody.title", "SubtaskView.title"), "Count"),
    **dict.fromkeys(
        (
            "CreateTaskBody.description",
            "ChangeTaskBody.description",
            "TaskView.description",
            "SubtaskBody.description",
            "SubtaskView.description",
        ),
        "Once a month",
    ),
    "TaskView.id": _TASK,
    "SubtaskView.id": _SUBTASK,
    **dict.fromkeys(
        ("TaskView.status", "SubtaskView.status", "ChangeSubtaskBody.status", "ChangeTaskBody.status"), "pending"
    ),
}

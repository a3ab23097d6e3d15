"""Examples of the OpenAPI document for agents: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from karma.core.examples import AGENT

FIELDS: Mapping[str, Any] = {
    "tag": "support",
    "memory": None,
    "knowledge": None,
    "max_steps": 8,
    **dict.fromkeys(("AgentView.id", "AgentSummaryView.id"), AGENT),
    **dict.fromkeys(("AgentBody.name", "ReplaceAgentBody.name", "AgentView.name", "AgentSummaryView.name"), "gardener"),
    **dict.fromkeys(
        ("AgentBody.model", "ReplaceAgentBody.model", "AgentView.model", "AgentSummaryView.model"), "claude-sonnet-5-5"
    ),
    "list_agents.offset": 20,
}

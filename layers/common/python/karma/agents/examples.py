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
    "reasoning": "medium",
    **{
        f"{shape}.{name}": value
        for shape in ("CompactionBody", "CompactionView")
        for name, value in {"enabled": True, "at_percent": 80, "model": "claude-haiku-5-5"}.items()
    },
    "max_cost_micros_per_day": 5_000_000,
    "multitask_strategy": "reject",
    **dict.fromkeys(("AgentView.id", "AgentSummaryView.id"), AGENT),
    **dict.fromkeys(("AgentBody.name", "ReplaceAgentBody.name", "AgentView.name", "AgentSummaryView.name"), "gardener"),
    **dict.fromkeys(
        ("AgentBody.model", "ReplaceAgentBody.model", "AgentView.model", "AgentSummaryView.model"), "claude-sonnet-5-5"
    ),
    "list_agents.offset": 20,
    "SubagentBody.agent_id": "karma",
    **dict.fromkeys(("SubagentBody.name", "SubagentView.name"), "scout"),
    **dict.fromkeys(("SubagentBody.description", "SubagentView.description"), "Looks around, and says what there is"),
    **{
        f"{shape}.{name}": value
        for shape in ("ApprovalBody", "ApprovalView")
        for name, value in {
            "tool": "controlDevice",
            "policy": "when",
            "when": "args.command == 'move'",
            "expires_in_s": 86_400,
            "on_expiry": "refuse",
        }.items()
    },
}

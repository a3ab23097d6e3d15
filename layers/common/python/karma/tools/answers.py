"""Shapes of answers that show rules for the calls of tools, and the functions that render them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from karma.tools.domain import ApprovalPolicy, OnExpiry, ToolApproval


class ApprovalView(TypedDict):
    """A rule by which a person has to approve calls of a tool."""

    tool: str
    policy: ApprovalPolicy
    when: str | None
    """Condition on the arguments; null for other policies than `when`."""
    expires_in_s: int
    on_expiry: OnExpiry


def approval_views(approvals: Sequence[ToolApproval]) -> list[ApprovalView]:
    """Shape rules."""
    return [
        {
            "tool": each.tool,
            "policy": each.rule.policy,
            "when": each.rule.when or None,
            "expires_in_s": each.rule.expires_in_s,
            "on_expiry": each.rule.on_expiry,
        }
        for each in approvals
    ]

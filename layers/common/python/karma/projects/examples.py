"""Examples of the OpenAPI document for projects: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from karma.core.examples import BEGAN, USER

_PROJECT = "01994b9b-2d5e-7d4a-b7f8-19a2b3c4d5e6"

FIELDS: Mapping[str, Any] = {
    "project_id": _PROJECT,
    "owner_id": USER,
    "invitation_id": USER,
    "invited_by": USER,
    "invited_at": BEGAN,
    "declined": False,
    "joined_at": BEGAN,
    "ProjectView.id": _PROJECT,
    "shared_at": BEGAN,
    "list_devices.project": _PROJECT,
    **dict.fromkeys(("ProjectView.status", "CreateProjectRequest.status", "ChangeProjectRequest.status"), "active"),
    **dict.fromkeys(("ProjectView.description", "CreateProjectRequest.description"), "Everything under glass"),
    "ProjectView.role": "owner",
    "InviteRequest.user_id": None,
    **dict.fromkeys(
        ("InviteRequest.role", "InvitationView.role", "ReceivedInvitationView.role", "MemberView.role"), "member"
    ),
    "InvitationView.id": USER,
    "InvitationView.email": None,
    "ReceivedInvitationView.project_name": "Greenhouse",
    "ChangeMemberRequest.role": "viewer",
    **dict.fromkeys(("ProjectView.name", "ChangeProjectRequest.name"), "Greenhouse"),
}

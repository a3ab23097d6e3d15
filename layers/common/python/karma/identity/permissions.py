"""The one table of permissions and the roles that have them.

A row names a permission and the roles that have it. `permit("device:read")` in functions/api, the tools of
agent_stream and API key scopes all read this table. The permissions of members of a project are a second table
(karma/projects/permissions.py), checked after this one.
"""

from __future__ import annotations

from collections.abc import Mapping

_ALL = frozenset({"admin", "user", "viewer"})
_ACTIVE = frozenset({"admin", "user"})
_ADMIN = frozenset({"admin"})

ROLES_OF: Mapping[str, frozenset[str]] = {
    "device:read": _ALL,
    "device:write": _ACTIVE,
    "device:control": _ACTIVE,
    "file:read": _ALL,
    "file:write": _ACTIVE,
    "project:read": _ALL,
    "project:write": _ACTIVE,
    "membership:write": _ALL,
    "agent:read": _ALL,
    "agent:write": _ADMIN,
    "agent:delete": _ADMIN,
    "agent:run": _ACTIVE,
    "mcp:read": _ALL,
    "mcp:write": _ACTIVE,
    "mcp:call": _ACTIVE,
    "webhook:read": _ALL,
    "webhook:write": _ACTIVE,
    "run:read": _ALL,
    "run:control": _ACTIVE,
    "metrics:read": _ALL,
    "metrics:admin": _ADMIN,
    "thread:read": _ALL,
    "thread:write": _ACTIVE,
    "task:read": _ALL,
    "task:write": _ACTIVE,
    "avatar:read": _ALL,
    "avatar:write": _ACTIVE,
    "config:read": _ALL,
    "config:write": _ADMIN,
    "billing:read": _ALL,
    "billing:write": _ACTIVE,
    "billing:admin": _ADMIN,
    "api_key:read": _ALL,
    "api_key:write": _ALL,
    "audit:read": _ALL,
    "notice:read": _ALL,
    "notice:write": _ALL,
    "realtime:connect": _ALL,
    "user:admin": _ADMIN,
    "schedule:read": _ALL,
    "search:read": _ALL,
    "schedule:write": _ACTIVE,
    "alarm:read": _ALL,
    "alarm:write": _ACTIVE,
    "firmware:read": _ALL,
    "firmware:write": _ACTIVE,
}

ALIASES: Mapping[str, str] = {
    "read:agent": "agent:read",
    "write:agent": "agent:write",
    "delete:agent": "agent:delete",
    "execute:agent": "agent:run",
}
"""Names of permissions in the Agio API."""

EVERYTHING = "*"
"""Scope of a key that may do everything that its owner may."""


def canonical(permission: str) -> str:
    """Return a permission's own name.

    Raises:
        KeyError: there is no such permission.
    """
    name = ALIASES.get(permission, permission)
    if name not in ROLES_OF:
        raise KeyError(permission)
    return name


def is_scope(text: str) -> bool:
    """Tell whether an API key may carry this scope."""
    return text == EVERYTHING or text in ROLES_OF or text in ALIASES


def allows(role: str, permission: str, scopes: frozenset[str] | None) -> bool:
    """Tell whether a role has a permission; with `scopes` (an API key's) those must cover it as well.

    Raises:
        KeyError: there is no such permission.
    """
    name = canonical(permission)
    if role not in ROLES_OF[name]:
        return False
    return scopes is None or EVERYTHING in scopes or any(ALIASES.get(scope, scope) == name for scope in scopes)

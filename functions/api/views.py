"""How identity looks in answers."""

from __future__ import annotations

from karma.audit.domain import AuditEntry
from karma.core.clock import iso
from karma.identity.domain import ApiKey, Tokens, User


def user_view(user: User) -> dict[str, object]:
    """Show a person, without the password."""
    return {
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "avatar": user.avatar,
        "role": user.role.value,
        "locale": user.locale.value,
        "email_verified": user.email_verified,
        "created_at": iso(user.created_at),
        "updated_at": iso(user.updated_at),
    }


def managed_user_view(user: User) -> dict[str, object]:
    """Show a person to an administrator."""
    return {
        **user_view(user),
        "disabled": user.disabled_at is not None,
        "disabled_at": iso(user.disabled_at) if user.disabled_at else None,
        "version": user.version,
    }


def audit_entry_view(entry: AuditEntry) -> dict[str, object]:
    """Show a line of the audit log."""
    return {
        "id": entry.id,
        "user_id": entry.user_id,
        "event": entry.event.value,
        "at": iso(entry.at),
        "actor_id": entry.actor_id,
        "address": entry.source.address,
        "user_agent": entry.source.user_agent,
        "request_id": entry.source.request_id,
        "details": dict(entry.details),
    }


def tokens_view(tokens: Tokens) -> dict[str, object]:
    """Show a pair of tokens."""
    return {
        "access_token": tokens.access_token,
        "refresh_token": tokens.refresh_token,
        "token_type": "bearer",
        "expires_in": tokens.expires_in_s,
    }


def api_key_view(key: ApiKey) -> dict[str, object]:
    """Show a key, without its secret."""
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": sorted(key.scopes),
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at) if key.expires_at else None,
        "last_used_at": iso(key.last_used_at) if key.last_used_at else None,
    }

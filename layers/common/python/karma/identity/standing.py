"""Counts what acts for an account without a session of it, and so goes on when all are ended (docs/adr/0011)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from karma.core.ids import UserId

Standing = Callable[[UserId], Mapping[str, int]]
"""Counts what acts for an account, by the names that `karma.audit.announcements.STANDING` has."""


def nothing_stands(_: UserId) -> Mapping[str, int]:
    """Count nothing: for processes that end no sessions."""
    return {}


def details_of(found: Mapping[str, int]) -> dict[str, str]:
    """Return counts as an entry of the audit log has them; {} when there is nothing to tell."""
    return {name: str(number) for name, number in found.items()} if any(found.values()) else {}

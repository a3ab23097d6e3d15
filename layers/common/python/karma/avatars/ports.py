"""Ports of avatars; the second implementation is in tests/fakes/avatars.py."""

from __future__ import annotations

from typing import Protocol

from karma.avatars.domain import Avatar
from karma.core.ids import AvatarId, UserId


class Avatars(Protocol):
    """A store of avatars. All calls block; each write is one transaction."""

    def get(self, user_id: UserId, avatar_id: AvatarId) -> Avatar | None:
        """Read an avatar, consistently; None: it is absent, deleted, or another creator's."""

    def made_by(self, user_id: UserId, request_token: str) -> AvatarId | None:
        """Return the id of the avatar that a request created, consistently; None: it created none."""

    def create(self, avatar: Avatar, *, request_token: str) -> None:
        """Store a new avatar, which prevents the deletion of its creator's account; `request_token` "": none.

        Raises:
            AlreadyExists: a request with this token created an avatar within the last 24 hours.
            AccountGone: the creator's account is deleted.
            OwnsTooMany: the creator has as many avatars as an account may have.
        """

    def replace(self, old: Avatar, new: Avatar) -> None:
        """Store `new`, which has the next version, in place of `old`.

        Raises:
            AvatarChanged: `old` is not the stored one any more.
        """

    def delete(self, avatar: Avatar) -> None:
        """Delete an avatar; it no longer prevents the deletion of its creator's account.

        Raises:
            AvatarChanged: `avatar` is not the stored one any more.
        """

    def page(self, user_id: UserId, *, newest_first: bool, after: str, limit: int) -> list[Avatar]:
        """List avatars by age, those after the id `after`, "" for the first page."""

    def count(self, user_id: UserId) -> int:
        """Count a user's avatars."""

"""Ports of avatars; the second implementation is in tests/fakes/avatars.py."""

from __future__ import annotations

from typing import Protocol

from karma.avatars.domain import Avatar
from karma.core.ids import AvatarId, UserId
from karma.core.requests import RepeatableRequest


class Avatars(Protocol):
    """A store of avatars. All calls block; each write is one transaction."""

    def get(self, user_id: UserId, avatar_id: AvatarId) -> Avatar | None:
        """Read an avatar, consistently; None: it is absent, deleted, or another creator's."""

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> AvatarId | None:
        """Return the id of the avatar that a request created, consistently; None: it created none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that created it asked for something else.
        """

    def create(self, avatar: Avatar, *, request: RepeatableRequest | None) -> None:
        """Store a new avatar, which prevents the deletion of its creator's account, and the record of `request`.

        Raises:
            AlreadyExists: a request with this key created an avatar within the last 25 hours; `made_by` names it.
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

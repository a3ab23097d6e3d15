"""What avatars need from outside; the second implementation is in tests/fakes/avatars.py."""

from __future__ import annotations

from typing import Protocol

from karma.avatars.domain import Avatar
from karma.core.ids import AvatarId, UserId


class AvatarStore(Protocol):
    """Avatars at rest. All calls block; each write is one transaction."""

    def get(self, user_id: UserId, avatar_id: AvatarId) -> Avatar | None:
        """Read one, consistently; None when it is absent, deleted, or another creator's."""

    def made_by(self, user_id: UserId, request_token: str) -> AvatarId | None:
        """Find what a request made, consistently."""

    def create(self, avatar: Avatar, *, request_token: str) -> None:
        """Store a new avatar, which from then on keeps its creator's account; "" is no token.

        Raises:
            AlreadyExists: this token made an avatar within 24 hours before.
            AccountGone: its creator is deleted.
            HoldsTooMany: its creator has as many as an account may have.
        """

    def replace(self, old: Avatar, new: Avatar) -> None:
        """Store `new`, which has the next version, in place of `old`.

        Raises:
            AvatarChanged: `old` is not the stored one any more.
        """

    def delete(self, avatar: Avatar) -> None:
        """Delete an avatar; it keeps its creator's account no more.

        Raises:
            AvatarChanged: `avatar` is not the stored one any more.
        """

    def page(self, user_id: UserId, *, newest_first: bool, after: str, limit: int) -> list[Avatar]:
        """List avatars by age, those behind the id `after`; "" is the first page."""

    def count(self, user_id: UserId) -> int:
        """Count avatars."""
